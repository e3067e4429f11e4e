"""Collect transitions from a Gymnasium vector environment, right about time limits."""

from typing import Any, Optional

import numpy as np
import torch
from torch import Generator, Tensor

from compiled_rl.modules import Policy

Rollout = dict[str, Tensor]


class Collector:
    """Steps a vector environment with a policy and keeps what happened, time first.

    The environment must reset in the step in which an episode ends (``AutoresetMode.SAME_STEP``),
    so that every row is a transition; the state that was entered, ``next_observation``, is then
    the episode's last one and not the one after the reset.

    Args:
        envs: a Gymnasium vector environment in ``SAME_STEP`` mode.
        policy: acts, and says what an action was worth.
        seed: of the environments and of the policy's noise.

    Raises:
        ValueError: the environment resets in another step.

    Reference: Pardo et al. 2018, arXiv:1712.00378, for the bootstrap at a time limit.
    """

    def __init__(self, envs: Any, policy: Policy, seed: int = 0) -> None:
        mode = getattr(envs.metadata.get("autoreset_mode"), "name", None)
        if mode != "SAME_STEP":
            raise ValueError(f"Collector: `envs` must be in autoreset mode SAME_STEP, got {mode}")
        self.envs = envs
        self.policy = policy
        self.generator = Generator().manual_seed(seed)
        self.observation = _floats(envs.reset(seed=seed)[0])
        self.finished_returns: list[float] = []
        self._returns = np.zeros(envs.num_envs)

    def collect(self, steps: int) -> Rollout:
        """The next ``steps`` transitions of every environment, each field ``[T, B, ...]``.

        Returns:
            ``observation``, ``action``, ``action_log_prob``, the parameters of the action's
            distribution under the names that its family has for them, ``next_observation``,
            ``next_reward``, ``next_terminated`` and ``next_done``.
        """
        rows = [self._step() for _ in range(steps)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _step(self) -> Rollout:
        observation = self.observation
        action, log_prob, params = self.policy.act(observation, generator=self.generator)
        with torch.no_grad():
            sent = self.policy.rescale(action).cpu().numpy()
        after, reward, terminated, truncated, info = self.envs.step(sent)
        self.observation = _floats(after)
        done = terminated | truncated
        self._count(reward, done)
        return {
            "observation": observation,
            "action": action,
            "action_log_prob": log_prob,
            **dict(zip(self.policy.family.param_names, params, strict=True)),
            "next_observation": _entered(self.observation, done, info.get("final_obs")),
            "next_reward": _floats(reward),
            "next_terminated": torch.as_tensor(terminated),
            "next_done": torch.as_tensor(done),
        }

    def _count(self, reward: np.ndarray, done: np.ndarray) -> None:
        self._returns += reward
        self.finished_returns += self._returns[done].tolist()
        self._returns[done] = 0


def _entered(after: Tensor, done: np.ndarray, final: Optional[np.ndarray]) -> Tensor:
    """The state that each environment entered: its last one where the episode ended."""
    if not done.any():
        return after
    if final is None:
        raise ValueError(
            "Collector: `envs` must report `final_obs` where an episode ended, got none"
        )
    entered = after.clone()
    entered[torch.as_tensor(done)] = _floats(np.stack(list(final[done])))
    return entered


def _floats(x: np.ndarray) -> Tensor:
    return torch.tensor(x, dtype=torch.float32)  # a copy: environments reuse their buffers
