"""How long does one update take: loss, gradients, clipping, Adam, target networks?

Contenders do the same work from the same batch: TorchRL's loss eagerly and compiled, with
``backward``, ``clip_grad_norm_`` and Adam for ClipPPO; for the off-policy losses an Adam a network
(QMIX: one for both), no clipping, and ``SoftUpdate``; ours, eagerly and compiled. Networks are
64x64 tanh MLPs, 17 observations, 6 actions (DQN: 4; QMIX: 4 agents of 5, a state of 32, an
embedding of 32). ``torchrl-compiled`` is the loss compiled, as TorchRL's own scripts do it, with
the Inductor options that ours has; what stays eager there is the price of that
recipe. ``drop-in`` is ours of the networks that TorchRL gets, from a TensorDict. ``plain`` is
ClipPPO's formula by hand, eagerly, without metrics. The last rows are ``SoftUpdate.step`` alone, of
DDPG's two networks.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Optional

import torch
import typer
from rich.console import Console
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl import objectives as torchrl

import compiled_rl
from benchmarks.timing import Row, measure, one_thread, save, show
from benchmarks.transitions import SUBJECTS, Subject
from benchmarks.workload import (
    BATCHES,
    OPTIONS,
    Step,
    chosen,
    first_call,
    make_batch,
    networks,
    torchrl_networks,
    total,
)
from compiled_rl import ClipPPOLoss, UpdateStep


def main(quick: bool = False, loss: Optional[str] = None, json: Optional[Path] = None) -> None:
    """Print medians, ratios and compile seconds; ``--loss QMixerLoss`` asks for one only."""
    one_thread()
    rows: list[Row] = []
    makers: dict[str, Callable[[int], dict[str, Step]]] = {"ClipPPOLoss": _ppo}
    makers |= {subject.name: partial(_off_policy, subject) for subject in SUBJECTS}
    for name, make in chosen(makers, loss).items():
        answers: list[Row] = []
        for batch in (256,) if quick else BATCHES:
            torch._dynamo.reset()
            contenders = make(batch)
            seconds = {k: first_call(step) for k, step in contenders.items() if "compiled" in k}
            Console().print(f"{name}, batch {batch}, first calls: {seconds}")
            answers += measure(name, str(batch), contenders, 20 if quick else 60)
        show(f"{name}, whole update, one thread", answers, against="torchrl")
        rows += answers
    if loss is None:
        rows += _of_targets()
    save(json, rows)


def _of_targets() -> list[Row]:
    libraries = {"torchrl": torchrl, "ours": compiled_rl}
    steps: dict[str, Step] = {
        name: library.SoftUpdate(SUBJECTS[0].wrapped(library), tau=0.005).step
        for name, library in libraries.items()
    }
    rows = measure("target networks", "DDPG", steps, 60)
    show("soft update of two networks, one thread", rows, against="torchrl")
    return rows


def _off_policy(subject: Subject, size: int) -> dict[str, Step]:
    data = subject.data(size)
    tensors = dict(data.flatten_keys("_").items())
    return {
        "torchrl": _torchrl_delayed(subject, data.clone(), compiled=False),
        "torchrl-compiled": _torchrl_delayed(subject, data.clone(), compiled=True),
        "ours, eager": _ours_delayed(subject, subject.plain(), tensors, "eager"),
        "ours, compiled": _ours_delayed(subject, subject.plain(), tensors),
        "ours, compiled, drop-in": _ours_delayed(subject, subject.wrapped(compiled_rl), data),
    }


def _torchrl_delayed(subject: Subject, data: TensorDict, compiled: bool) -> Step:
    loss = subject.wrapped(torchrl)
    loss(data)  # some of its losses have their state from their first call on
    call = torch.compile(loss, fullgraph=True, options=OPTIONS) if compiled else loss
    moving = [*subject.optimizers(loss), torchrl.SoftUpdate(loss, tau=0.005)]

    def step() -> None:
        for optimizer in moving[:-1]:
            optimizer.zero_grad()
        total(call(data)).backward()
        for each in moving:
            each.step()

    return step


def _ours_delayed(subject: Subject, loss: nn.Module, data: Any, mode: str = "compiled") -> Step:
    updater = compiled_rl.SoftUpdate(loss, tau=0.005)
    step = UpdateStep(loss, subject.optimizers(loss), target_updater=updater, mode=mode)
    return lambda: step(data)


def _ppo(size: int) -> dict[str, Step]:
    data = make_batch(size, torchrl_networks()[0]).exclude("loc", "scale")
    tensors = dict(data.items())
    return {
        "torchrl": _torchrl(data, compiled=False),
        "torchrl-compiled": _torchrl(data, compiled=True),
        "plain": _plain(tensors),
        "ours, eager": _ours(tensors, "eager"),
        "ours, compiled": _ours(tensors, "compiled"),
        "ours, compiled, TensorDict": _ours(data, "compiled"),
    }


def _by_hand(forward: Callable[[], Tensor], module: nn.Module) -> Step:
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-4)
    params = list(module.parameters())

    def step() -> None:
        optimizer.zero_grad()
        forward().backward()
        nn.utils.clip_grad_norm_(params, 0.5)
        optimizer.step()

    return step


def _torchrl(data: TensorDict, compiled: bool) -> Step:
    loss = torchrl.ClipPPOLoss(*torchrl_networks())
    call = torch.compile(loss, fullgraph=True, options=OPTIONS) if compiled else loss
    return _by_hand(lambda: total(call(data)), loss)


def _plain(tensors: dict[str, Tensor]) -> Step:
    policy, critic = networks()

    def forward() -> Tensor:
        loc, scale = policy.network(tensors["observation"])
        distribution = torch.distributions.Normal(loc, scale, validate_args=False)
        log_ratio = distribution.log_prob(tensors["action"]).sum(-1) - tensors["action_log_prob"]
        advantage = tensors["advantage"].squeeze(-1)
        clipped = log_ratio.exp().clamp(0.8, 1.2) * advantage
        objective = -torch.minimum(log_ratio.exp() * advantage, clipped).mean()
        entropy = distribution.entropy().sum(-1).mean()
        value = critic(tensors["observation"])
        regression = nn.functional.smooth_l1_loss(value, tensors["value_target"])
        return objective - 0.01 * entropy + regression

    return _by_hand(forward, nn.ModuleList([policy, critic]))


def _ours(data: Any, mode: str) -> Step:
    loss = ClipPPOLoss(*networks())
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-4)
    step = UpdateStep(loss, optimizer, max_grad_norm=0.5, mode=mode)
    return lambda: step(data)


if __name__ == "__main__":
    typer.run(main)
