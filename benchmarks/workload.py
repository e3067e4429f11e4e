"""What the benchmarks of learning learn from: networks, a batch, TorchRL's wrappers of the same."""

import time
from collections.abc import Callable
from typing import Any, Optional, TypeVar

import torch
import typer
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import Tensor, nn
from torchrl.modules import IndependentNormal

from compiled_rl import Policy
from compiled_rl.modules import Normal, StateDependentScale

OPTIONS = {
    "cpp.use_decompose_tanh": True,
    "fallback_random": True,
    "unroll_reductions_threshold": 1,
}
BATCHES = (64, 256, 4096)
OBSERVATION, ACTION = 17, 6
LEARNING_RATE, TAU = 3e-4, 0.005
Step = Callable[[], object]
Maker = Callable[[int], dict[str, Step]]
Made = TypeVar("Made")


def mlp(out: int, *last: nn.Module, inputs: int = OBSERVATION) -> nn.Sequential:
    """A tanh network of two layers of 64."""
    hidden = [nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
    return nn.Sequential(*hidden, nn.Linear(64, out), *last)


def networks(family: Any = Normal) -> tuple[Policy, nn.Module]:
    """A policy and a critic, the same at every call."""
    torch.manual_seed(0)
    return Policy(mlp(2 * ACTION, StateDependentScale()), family), mlp(1)


def torchrl_networks(
    distribution: Any = IndependentNormal,
) -> tuple[ProbabilisticTensorDictSequential, TensorDictModule]:
    """The same networks as TorchRL's users wrap them."""
    policy, critic = networks()
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(policy.network, ["observation"], ["loc", "scale"]),
        ProbabilisticTensorDictModule(
            ["loc", "scale"], ["action"], distribution_class=distribution, return_log_prob=True
        ),
    )
    return actor, TensorDictModule(critic, ["observation"], ["state_value"])


def make_batch(size: int, actor: ProbabilisticTensorDictSequential) -> TensorDict:
    """What a policy a little behind ``actor`` did, advantages and value targets given."""
    data = TensorDict({"observation": torch.randn(size, OBSERVATION)}, [size])
    with torch.no_grad():
        data = actor(data)
        for name in ("loc", "scale"):
            data[name] = data[name] * (1 + 0.05 * torch.rand_like(data[name]))
    for name in ("advantage", "value_target"):
        data[name] = torch.randn(size, 1)
    return data


def total(outputs: Any) -> Tensor:
    """What is minimised: the sum of the outputs called ``loss...``."""
    first, *others = [x for name, x in outputs.items() if name.startswith("loss")]
    return sum(others, first)


def first_call(step: Step) -> str:
    """The seconds of the first call, which compiles."""
    start = time.perf_counter()
    step()
    return f"{time.perf_counter() - start:.1f} s"


def chosen(makers: dict[str, Made], loss: Optional[str]) -> dict[str, Made]:
    """All of them, or that of one loss.

    Raises:
        BadParameter: there is none of that name.
    """
    if loss is None:
        return makers
    if loss not in makers:
        raise typer.BadParameter(f"must be one of {list(makers)}, got {loss!r}")
    return {loss: makers[loss]}
