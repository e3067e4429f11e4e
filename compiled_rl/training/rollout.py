"""Collect transitions from a Gymnasium vector environment, right about time limits."""

from numbers import Integral
from typing import Any, Optional

import numpy as np
import torch
from torch import Generator, Tensor

from compiled_rl.kernels.checks import check_tensor
from compiled_rl.modules import Policy
from compiled_rl.modules.arguments import check_count

Rollout = dict[str, Tensor]


class Environments:
    """A Gymnasium vector environment of which every step is a transition.

    It must reset in the step in which an episode ends (``AutoresetMode.SAME_STEP``); the state
    that was entered, ``next_observation``, is then the episode's last one and not the one after
    the reset.

    Args:
        envs: a Gymnasium vector environment in ``SAME_STEP`` mode.
        seed: of the environments.

    Raises:
        ValueError: the environment resets in another step.

    Reference: Pardo et al. 2018, arXiv:1712.00378, for the bootstrap at a time limit.
    """

    def __init__(self, envs: Any, seed: int = 0) -> None:
        seed = _checked_seed(type(self).__name__, seed)
        if not hasattr(envs, "metadata") or not hasattr(envs, "num_envs"):
            raise TypeError(
                f"{type(self).__name__}: `envs` must be a Gymnasium vector environment, "
                f"got a {type(envs).__name__}"
            )
        mode = getattr(envs.metadata.get("autoreset_mode"), "name", None)
        if mode != "SAME_STEP":
            raise ValueError(
                f"{type(self).__name__}: `envs` must be in autoreset mode SAME_STEP, got {mode}"
            )
        self.envs = envs
        self.observation = torch.from_numpy(_floats(envs.reset(seed=seed)[0]))
        self.finished_returns: list[float] = []
        self._returns = np.zeros(envs.num_envs)

    def step(self, action: Tensor) -> Rollout:
        """Take one action in every environment, ``[B, ...]``, in the environment's units.

        Returns:
            ``observation``, the one before the step, ``next_observation``, ``next_reward``,
            ``next_terminated`` and ``next_done``, each ``[B, ...]``.
        """
        check_tensor("Environments", "action", action)
        if action.is_meta or action.shape[:1] != (self.envs.num_envs,):
            raise ValueError(
                f"Environments: `action` must be one of each of {self.envs.num_envs} environments, "
                f"got {list(action.shape)} on {action.device}"
            )
        if action.dtype == torch.bfloat16:
            raise ValueError("Environments: `action` must be of a dtype of NumPy, got bfloat16")
        return {name: torch.from_numpy(x) for name, x in self._step(action).items()}

    def _step(self, action: Tensor) -> dict[str, np.ndarray]:
        """The transition in arrays, which are cheaper to make and to stack than tensors."""
        observation = self.observation.numpy()
        after, reward, terminated, truncated, info = self.envs.step(action.detach().cpu().numpy())
        after = _floats(after)
        self.observation = torch.from_numpy(after)
        done = terminated | truncated
        self._count(reward, done)
        return {
            "observation": observation,
            "next_observation": _entered(after, done, info.get("final_obs")),
            "next_reward": _floats(reward),
            "next_terminated": terminated,
            "next_done": done,
        }

    def _count(self, reward: np.ndarray, done: np.ndarray) -> None:
        self._returns += reward
        self.finished_returns += self._returns[done].tolist()
        self._returns[done] = 0


class Collector(Environments):
    """Steps a vector environment with a policy and keeps what happened, time first.

    Args:
        envs: a Gymnasium vector environment, as ``Environments`` takes it.
        policy: acts, and says what an action was worth.
        seed: of the environments and of the policy's noise.

    Raises:
        ValueError: the environment resets in another step.
    """

    def __init__(self, envs: Any, policy: Policy, seed: int = 0) -> None:
        if not isinstance(policy, Policy):
            raise TypeError(f"Collector: `policy` must be a Policy, got a {type(policy).__name__}")
        super().__init__(envs, seed)
        self.policy = policy
        self.generator = Generator().manual_seed(int(seed))

    def collect(self, steps: int) -> Rollout:
        """The next ``steps`` transitions of every environment, each field ``[T, B, ...]``.

        Returns:
            What ``Environments.step`` returns, ``action``, ``action_log_prob`` and the parameters
            of the action's distribution under the names that its family has for them.
        """
        check_count("Collector", "steps", steps)
        with torch.no_grad():
            rows = [self._act() for _ in range(steps)]
        return {name: _stacked([row[name] for row in rows]) for name in rows[0]}

    def _act(self) -> dict[str, Any]:
        action, log_prob, params = self.policy.act(self.observation, generator=self.generator)
        return {
            **self._step(self.policy.rescale(action)),
            "action": action,
            "action_log_prob": log_prob,
            **dict(zip(self.policy.family.param_names, params, strict=True)),
        }


def _checked_seed(owner: str, seed: Any) -> int:
    if not isinstance(seed, Integral) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"{owner}: `seed` must be an integer of at least 0, got {seed!r}")
    return int(seed)


def _stacked(column: list[Any]) -> Tensor:
    """Time first."""
    if isinstance(column[0], Tensor):
        return torch.stack(column)
    return torch.from_numpy(np.stack(column))


def _entered(after: np.ndarray, done: np.ndarray, final: Optional[np.ndarray]) -> np.ndarray:
    """The state that each environment entered: its last one where the episode ended."""
    if not done.any():
        return after
    if final is None:
        raise ValueError(
            "Environments: `envs` must report `final_obs` where an episode ended, got none"
        )
    entered = after.copy()
    entered[done] = np.stack(list(final[done]))
    return entered


def _floats(x: np.ndarray) -> np.ndarray:
    return np.array(x, dtype=np.float32)  # a copy: environments reuse their buffers
