"""Losses of action values on TorchRL's networks and data: one row a loss, with what it is given.

``test_off_policy.py`` holds every row to what all such losses promise.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Optional

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl import objectives as torchrl
from torchrl.modules import ValueOperator

from compiled_rl import losses
from compiled_rl.adapters.fields import Key
from tests.losses.soft_networks import indices, one_hots, soft, soft_shared, two_draws

OBSERVATION, ACTION, HIDDEN = 4, 3, 8

Noise = Callable[[TensorDictBase, int], dict[Key, Tensor]]


class ActionValue(nn.Module):
    """A critic of observation (or features) and action."""

    def __init__(self, inputs: int = OBSERVATION) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs + ACTION, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        value: Tensor = self.body(torch.cat([observation, action], -1))
        return value


def deterministic() -> tuple[nn.Module, nn.Module]:
    """An actor and a critic."""
    torch.manual_seed(0)
    actor = TensorDictModule(_actor(OBSERVATION), ["observation"], ["action"])
    return actor, ValueOperator(ActionValue(), in_keys=["observation", "action"])


def twins(count: int = 2) -> tuple[nn.Module, list[nn.Module]]:
    """An actor and several critics."""
    actor, _ = deterministic()
    critics = [
        ValueOperator(ActionValue(), in_keys=["observation", "action"]) for _ in range(count)
    ]
    return actor, critics


def smoothing(data: TensorDictBase, seed: int) -> dict[Key, Tensor]:
    """The noise of TD3's target action."""
    torch.manual_seed(seed)
    return {("next", "action_noise"): torch.randn_like(data["action"])}


def shared() -> tuple[nn.Module, nn.Module]:
    """An actor and a critic, each of which calls the trunk that both have."""
    torch.manual_seed(0)
    body = TensorDictModule(
        nn.Sequential(nn.Linear(OBSERVATION, HIDDEN), nn.Tanh()), ["observation"], ["hidden"]
    )
    critic = ValueOperator(ActionValue(HIDDEN), in_keys=["hidden", "action"])
    return (
        TensorDictSequential(body, TensorDictModule(_actor(HIDDEN), ["hidden"], ["action"])),
        TensorDictSequential(body, critic),
    )


def features(several: bool = False) -> tuple[nn.Module, Any]:
    """Critics that read what the actor does on its way to the action, as it was recorded."""
    torch.manual_seed(0)
    body = TensorDictModule(nn.Linear(OBSERVATION, HIDDEN), ["observation"], ["hidden"])
    actor = TensorDictSequential(body, TensorDictModule(_actor(HIDDEN), ["hidden"], ["action"]))
    critics = [ValueOperator(ActionValue(HIDDEN), in_keys=["hidden", "action"]) for _ in range(2)]
    return actor, critics if several else critics[0]


def _actor(inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, ACTION), nn.Tanh())


def continuous(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Actions in (-1, 1)."""
    return torch.rand(*shape, ACTION, dtype=dtype) * 1.8 - 0.9


def transitions(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    action: Callable[[tuple[int, ...], torch.dtype], Tensor] = continuous,
    seed: int = 1,
) -> TensorDict:
    """Steps of any policy, in TorchRL's layout."""
    torch.manual_seed(seed)
    column, done = (*shape, 1), torch.rand(*shape, 1) < 0.3
    return TensorDict(
        {
            "observation": torch.randn(*shape, OBSERVATION, dtype=dtype),
            "hidden": torch.randn(*shape, HIDDEN, dtype=dtype),
            "action": action(shape, dtype),
            "next": {
                "observation": torch.randn(*shape, OBSERVATION, dtype=dtype),
                "reward": torch.randn(column, dtype=dtype),
                "done": done,
                "terminated": done & (torch.rand(column) < 0.5),
            },
        },
        shape,
    )


class Subject(NamedTuple):
    """A loss: how it is made, on which actions, and what its documented tuple is.

    ``noise`` is what TorchRL's draws after a seed, under the keys by which ours takes it.
    """

    loss: str
    networks: Callable[..., tuple[nn.Module, ...]]
    tuple: str
    arguments: dict[str, Any] = {}  # noqa: RUF012
    action: Callable[[tuple[int, ...], torch.dtype], Tensor] = continuous
    noise: Optional[Noise] = None

    def ours(self, **arguments: Any) -> Any:
        return getattr(losses, self.loss)(*self.networks(), **{**self.arguments, **arguments})

    def theirs(self, **arguments: Any) -> Any:
        return getattr(torchrl, self.loss)(*self.networks(), **{**self.arguments, **arguments})

    def data(self, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> TensorDict:
        return transitions(shape, dtype, self.action, seed)

    def drawn(self, data: TensorDictBase, seed: int) -> dict[Key, Tensor]:
        return {} if self.noise is None else self.noise(data, seed)


_DDPG = "loss_actor loss_value pred_value target_value pred_value_max target_value_max"
_TD3 = "loss_actor loss_qvalue pred_value state_action_value_actor next_state_value target_value"
_BOUNDS = {"bounds": (-1.0, 0.7)}
_SHARED = {"delay_actor": True}
_SAC = "loss_actor loss_qvalue loss_alpha alpha entropy"
_ENTROPY = {"target_entropy": -3.0}
_SEVERAL = {"num_qvalue_nets": 5, "min_alpha": 0.5, "max_alpha": 0.9, "loss_function": "l2"}
_INDICES = {"action_space": "categorical", "num_actions": ACTION}
_ONE_HOTS = {"action_space": "one-hot", "target_entropy": 0.4}
SUBJECTS = {
    "ddpg": Subject("DDPGLoss", deterministic, _DDPG),
    "ddpg-delayed": Subject("DDPGLoss", deterministic, _DDPG, {"delay_actor": True}),
    "ddpg-shared": Subject("DDPGLoss", shared, _DDPG, _SHARED),
    "ddpg-features": Subject("DDPGLoss", features, _DDPG, {"delay_actor": True}),
    "td3-features": Subject(
        "TD3Loss", partial(features, several=True), _TD3, _BOUNDS, noise=smoothing
    ),
    "td3": Subject("TD3Loss", twins, _TD3, _BOUNDS, noise=smoothing),
    "td3-live": Subject(
        "TD3Loss",
        twins,
        _TD3,
        _BOUNDS | {"delay_actor": False, "loss_function": "l2", "policy_noise": 0.6},
        noise=smoothing,
    ),
    "ddpg-separate": Subject("DDPGLoss", shared, _DDPG, _SHARED | {"separate_losses": True}),
    "sac": Subject("SACLoss", partial(soft, "tanh_normal"), _SAC, _ENTROPY, noise=two_draws),
    "sac-several": Subject(
        "SACLoss", partial(soft, "normal"), _SAC, _ENTROPY | _SEVERAL, noise=two_draws
    ),
    "sac-separate": Subject(
        "SACLoss",
        partial(soft_shared, "tanh_normal"),
        _SAC,
        _ENTROPY | {"separate_losses": True},
        noise=two_draws,
    ),
    "discrete-sac": Subject(
        "DiscreteSACLoss", partial(soft, "categorical"), _SAC, _INDICES, action=indices
    ),
    "discrete-sac-shared": Subject(
        "DiscreteSACLoss", partial(soft_shared, "one_hot"), _SAC, _ONE_HOTS, action=one_hots
    ),
}
