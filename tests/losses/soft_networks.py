"""SAC's policies and critics as TorchRL's users make them, and the noise that TorchRL's draws."""

from typing import Any, NamedTuple

import torch
from tensordict import TensorDictBase
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.modules import (
    IndependentNormal,
    MaskedCategorical,
    NormalParamExtractor,
    OneHotCategorical,
    TanhNormal,
)

from compiled_rl.adapters.fields import Key

OBSERVATION, ACTION, HIDDEN = 4, 3, 8
# The bounds are far enough from the ends of float32 that both ways of tanh agree.
TANH = {"low": -1.5, "high": 0.5}


class Kind(NamedTuple):
    """A policy's distribution, and the keys of its parameters."""

    distribution: Any
    params: tuple[str, ...]
    options: dict[str, Any] = {}  # noqa: RUF012
    read: tuple[str, ...] = ()


KINDS = {
    "tanh_normal": Kind(TanhNormal, ("loc", "scale"), TANH),
    "normal": Kind(IndependentNormal, ("loc", "scale")),
    "categorical": Kind(Categorical, ("logits",)),
    "one_hot": Kind(OneHotCategorical, ("logits",)),
    "masked": Kind(MaskedCategorical, ("logits",), {}, ("mask",)),
}


class Values(nn.Module):
    """Values of all that it is given, side by side."""

    def __init__(self, inputs: int, outputs: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, outputs)
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        value: Tensor = self.layers(torch.cat(inputs, -1))
        return value


def policy(kind: str, source: str = "observation", before: Any = ()) -> Any:
    """A policy of what is under the key ``source``."""
    chosen = KINDS[kind]
    inputs, outputs = OBSERVATION if source == "observation" else HIDDEN, len(chosen.params)
    last = [NormalParamExtractor()] if outputs == 2 else []
    network = nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, outputs * ACTION), *last
    )
    return ProbabilisticTensorDictSequential(
        *before,
        TensorDictModule(network, [source], list(chosen.params)),
        ProbabilisticTensorDictModule(
            in_keys=[*chosen.params, *chosen.read],
            out_keys=["action"],
            distribution_class=chosen.distribution,
            distribution_kwargs=chosen.options,
            return_log_prob=True,
        ),
    )


def critic(kind: str, source: str = "observation") -> Any:
    """Of an action, or of all of them."""
    inputs = OBSERVATION if source == "observation" else HIDDEN
    if len(KINDS[kind].params) == 1:
        return TensorDictModule(Values(inputs, ACTION), [source], ["action_value"])
    return TensorDictModule(Values(inputs + ACTION), [source, "action"], ["state_action_value"])


def value() -> Any:
    """Of a state."""
    return TensorDictModule(Values(OBSERVATION), ["observation"], ["state_value"])


def soft(kind: str) -> tuple[Any, Any]:
    """A policy and a critic."""
    torch.manual_seed(0)
    return policy(kind), critic(kind)


def soft_shared(kind: str) -> tuple[Any, Any]:
    """A policy and a critic, each of which calls the trunk that both have."""
    torch.manual_seed(0)
    body = TensorDictModule(
        nn.Sequential(nn.Linear(OBSERVATION, HIDDEN), nn.Tanh()), ["observation"], ["hidden"]
    )
    head = critic(kind, "hidden")
    return policy(kind, "hidden", [body]), TensorDictSequential(body, head)


def two_draws(data: TensorDictBase, seed: int) -> dict[Key, Tensor]:
    """The action at the state entered comes first in TorchRL's, then that at the state left."""
    first, second = draws(data, seed)
    return {("next", "action_noise"): first, "action_noise": second}


def draws(data: TensorDictBase, seed: int) -> tuple[Tensor, Tensor]:
    """What two samples of TorchRL's normals are made of after a seed."""
    torch.manual_seed(seed)
    zeros = torch.zeros(*data.batch_size, ACTION, dtype=data["observation"].dtype)
    one, other = (torch.normal(zeros, torch.ones_like(zeros)) for _ in range(2))
    return one, other


def indices(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Discrete actions."""
    return torch.randint(ACTION, shape)


def one_hots(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The same as vectors."""
    return nn.functional.one_hot(indices(shape, dtype), ACTION)
