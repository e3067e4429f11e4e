"""Networks of action values as TorchRL's users make them, and what a recorded action is."""

from functools import partial
from typing import Any

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn
from torchrl.data import Categorical, OneHot
from torchrl.modules import DistributionalQValueActor, EGreedyModule, QValueActor, QValueModule

from tests.losses.transitions import OBSERVATION, Subject

ACTIONS, ATOMS, BLOCKS = 5, 7, [2, 3]
SUPPORT = torch.linspace(-2.0, 1.0, ATOMS)


def mlp(outputs: int, *last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(OBSERVATION, 16), nn.Tanh(), nn.Linear(16, outputs), *last)


def atoms(number: int = ATOMS, *last: nn.Module) -> nn.Sequential:
    """Logits of the atoms, the actions last."""
    return mlp(number * ACTIONS, nn.Unflatten(-1, (number, ACTIONS)), *last)


def of_spec(spec: Any, **options: Any) -> tuple[nn.Module]:
    return (QValueActor(mlp(ACTIONS), in_keys=["observation"], spec=spec, **options),)


def exploring(spec: Any) -> tuple[nn.Module]:
    return (TensorDictSequential(*of_spec(spec), EGreedyModule(spec)),)


def of_blocks() -> tuple[nn.Module]:
    network = TensorDictModule(mlp(ACTIONS), ["observation"], ["action_value"])
    return (TensorDictSequential(network, QValueModule("mult_one_hot", var_nums=BLOCKS)),)


def distributional(spec: Any, *last: nn.Module, **options: Any) -> DistributionalQValueActor:
    return DistributionalQValueActor(
        atoms(ATOMS, *last), in_keys=["observation"], spec=spec, support=SUPPORT.clone(), **options
    )


def c51(spec: Any, *last: nn.Module, **options: Any) -> tuple[nn.Module]:
    return (distributional(spec, *last, **options),)


def index(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randint(ACTIONS, shape)


def index_column(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randint(ACTIONS, (*shape, 1))


def one_hot(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return nn.functional.one_hot(index(shape, dtype), ACTIONS).bool()


def blocks(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    each = [nn.functional.one_hot(torch.randint(n, shape), n) for n in BLOCKS]
    return torch.cat(each, -1)


_DOUBLE = {"double_dqn": True}
_NAMED: dict[str, Any] = {"action_space": "mult-one-hot"}
Q_SUBJECTS = {
    "dqn-one-hot": Subject("DQNLoss", partial(of_spec, OneHot(ACTIONS)), "loss", {}, one_hot),
    "dqn-index": Subject(
        "DQNLoss", partial(of_spec, Categorical(ACTIONS)), "loss", {"loss_function": "l1"}, index
    ),
    "dqn-double": Subject(
        "DQNLoss",
        partial(exploring, OneHot(ACTIONS)),
        "loss",
        _DOUBLE | {"action_space": "one-hot"},
        one_hot,
    ),
    "dqn-double-index": Subject(
        "DQNLoss", partial(of_spec, Categorical(ACTIONS)), "loss", _DOUBLE, index_column
    ),
    "dqn-blocks": Subject("DQNLoss", of_blocks, "loss", _NAMED, blocks),
    "dqn-blocks-double": Subject("DQNLoss", of_blocks, "loss", _NAMED | _DOUBLE, blocks),
}
C51_SUBJECTS = {
    "c51-one-hot": Subject(
        "DistributionalDQNLoss", partial(c51, OneHot(ACTIONS)), "loss", {"gamma": 0.9}, one_hot
    ),
    "c51-index": Subject(
        "DistributionalDQNLoss",
        partial(c51, Categorical(ACTIONS)),
        "loss",
        {"gamma": 0.9, "delay_value": True},
        index_column,
    ),
}
