"""How long do forward and backward of the losses take, on-policy with the advantage given?

Every contender is the drop-in: the same wrapped networks (64x64 tanh MLPs, 17 observations, 6
actions), the same TensorDict, gradients of the sum of the losses to every parameter. A2C's policy
is tanh-normal, as in TorchRL's documentation; the others' is normal. ``torchrl-functional-false``
is TorchRL's faster form, which its users must ask for; ``torchrl-compiled`` compiles its default
form with the Inductor options that ours has. It is missing for KL-penalty PPO, which TorchRL cannot
compile: Inductor refuses the ``set_`` by which ``forward`` replaces the weight of the penalty, even
where breaks are allowed. That weight is held still on both sides (increment and decrement of one),
so that thousands of calls on one batch do not drive it to zero; the rule runs all the same. The
off-policy losses have no other form in TorchRL; all their networks are delayed. QMIX has 4 agents
of 5 actions, a state of 32 and an embedding of 32.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
import typer
from rich.console import Console
from tensordict import TensorDict
from torch import nn
from torchrl import objectives as torchrl
from torchrl.modules import IndependentNormal, TanhNormal

import compiled_rl
from benchmarks.timing import Row, measure, one_thread, save, show
from benchmarks.transitions import SUBJECTS as OFF_POLICY
from benchmarks.transitions import Subject as OffPolicy
from benchmarks.workload import (
    BATCHES,
    OPTIONS,
    Step,
    chosen,
    first_call,
    make_batch,
    torchrl_networks,
    total,
)


class Subject(NamedTuple):
    """A loss, which both libraries call by the same name."""

    name: str
    distribution: Any = IndependentNormal
    arguments: Mapping[str, Any] = {}
    torchrl_compiles: bool = True


SUBJECTS = [
    Subject("A2CLoss", TanhNormal),
    Subject("PPOLoss"),
    Subject("ClipPPOLoss"),
    Subject("KLPENPPOLoss", arguments={"increment": 1.0, "decrement": 1.0}, torchrl_compiles=False),
    Subject("ReinforceLoss"),
]


OURS = ("ours", "ours-compiled")


def main(quick: bool = False, loss: Optional[str] = None, json: Optional[Path] = None) -> None:
    """Print medians and ratios; ``--quick`` asks batch 256 only, ``--loss A2CLoss`` one loss."""
    one_thread()
    warnings.filterwarnings("ignore", message=".*o target network updater|.*no updater was made")
    rows: list[Row] = []
    makers: dict[str, Callable[[int], dict[str, Step]]] = {
        subject.name: partial(_contenders, subject) for subject in SUBJECTS
    }
    makers |= {subject.name: partial(_off_policy, subject) for subject in OFF_POLICY}
    for name, make in chosen(makers, loss).items():
        answers: list[Row] = []
        for size in (256,) if quick else BATCHES:
            torch._dynamo.reset()  # guards of other losses are none of this one's cost
            contenders = make(size)
            compiled = {n: first_call(step) for n, step in contenders.items() if "compiled" in n}
            Console().print(f"{name}, batch {size}, first calls: {compiled}")
            answers += measure(name, str(size), contenders, 10 if quick else 60)
        show(f"{name}, forward and backward, one thread", answers, against="torchrl")
        rows += answers
    save(json, rows)


def _contenders(subject: Subject, size: int) -> dict[str, Step]:
    data = make_batch(size, torchrl_networks(subject.distribution)[0])
    theirs, ours = getattr(torchrl, subject.name), getattr(compiled_rl, subject.name)

    def make(loss: Callable[..., nn.Module], **arguments: Any) -> nn.Module:
        networks = torchrl_networks(subject.distribution)
        return loss(*networks, **subject.arguments, **arguments)

    contenders = {
        "torchrl": _step(make(theirs), data),
        "torchrl-functional-false": _step(make(theirs, functional=False), data),
    }
    if subject.torchrl_compiles:
        contenders["torchrl-compiled"] = _step(make(theirs), data, compiled=True)
    contenders["ours"] = _step(make(ours), data)
    contenders["ours-compiled"] = _step(make(ours), data, compiled=True)
    return contenders


def _off_policy(subject: OffPolicy, size: int) -> dict[str, Step]:
    data = subject.data(size)
    losses = {
        name: subject.wrapped(library)
        for library, names in ((torchrl, ("torchrl", "torchrl-compiled")), (compiled_rl, OURS))
        for name in names
    }
    for loss in losses.values():
        loss(data.clone())  # some of TorchRL's have their state from their first call on
    return {n: _step(loss, data.clone(), "compiled" in n) for n, loss in losses.items()}


def _step(loss: nn.Module, data: TensorDict, compiled: bool = False) -> Step:
    run = torch.compile(loss, fullgraph=True, options=OPTIONS) if compiled else loss
    parameters = list(loss.parameters())

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        total(run(data)).backward()

    return step


if __name__ == "__main__":
    typer.run(main)
