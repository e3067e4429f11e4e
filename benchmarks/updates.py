"""How long does one update take: loss, gradients, clipping, Adam, target networks?

Contenders do the same work from the same batch; ``contenders.py`` makes them. Networks are 64x64
tanh MLPs, 17 observations, 6 actions (DQN: 4; QMIX: 4 agents of 5, a state of 32, an embedding of
32); A2C's policy is tanh-normal, the other on-policy ones' is normal, advantages are given, and the
weight of the KL penalty is held still.

- ``torchrl``: TorchRL's loss, ``backward``, ``clip_grad_norm_``, Adam, ``SoftUpdate``, eagerly.
- ``torchrl-compiled``: the same with the loss compiled, as TorchRL's own scripts do it; what stays
  eager is the price of that recipe. TorchRL's KL penalty does not compile.
- ``plain``: the formula by hand, eagerly, without metrics; see ``plain.py``.
- ``leanrl``: ``torch.compile`` around that whole update with its graph breaks, on a GPU in a CUDA
  graph: LeanRL's recipe. Its options are torch's own, so that its noise is slow on a CPU.
- ``ours``: ``UpdateStep`` of plain networks, tensors by keyword. ``drop-in``: of the networks that
  TorchRL gets, from a TensorDict. ``eager``: uncompiled, to debug with.

The last rows are ``SoftUpdate.step`` alone, of DDPG's two networks. How long compiling takes, what
memory it needs and how many graphs there are: ``first_update.py``.
"""

from functools import partial
from pathlib import Path
from typing import Optional

import torch
import typer
from rich.console import Console
from rich.table import Table
from torchrl import objectives as torchrl

import compiled_rl
from benchmarks.contenders import SUBJECTS, contenders_of, quiet
from benchmarks.timing import Row, measure, one_thread, ratio, save, show
from benchmarks.transitions import SUBJECTS as OFF_POLICY
from benchmarks.transitions import Subject
from benchmarks.workload import BATCHES, TAU, Step, chosen

RIVALS = ("torchrl", "torchrl-compiled", "leanrl", "plain")
# How many times as fast as `torchrl` ours must be at 256; at 4096 and against `plain` all are one.
BOUNDS = {
    "A2CLoss": 4.0,
    "ClipPPOLoss": 5.5,
    "KLPENPPOLoss": 5.0,
    "DDPGLoss": 3.8,
    "TD3Loss": 3.8,
    "SACLoss": 3.5,
    "DQNLoss": 2.8,
    "QMixerLoss": 3.0,
}
BOUND_AT_4096, BOUND_OF_PLAIN = 1.6, 1.0


def main(
    quick: bool = False,
    loss: Optional[str] = None,
    json: Optional[Path] = None,
    device: str = "cpu",
) -> None:
    """Print medians and ratios; ``--quick`` asks batch 256 only, ``--loss A2CLoss`` one loss."""
    one_thread()
    quiet()
    rows: list[Row] = []
    subjects = chosen({subject.name: subject for subject in SUBJECTS}, loss)
    for name, subject in subjects.items():
        answers: list[Row] = []
        for size in (256,) if quick else BATCHES:
            torch._dynamo.reset()  # guards of other losses are none of this one's cost
            steps = _steps(subject, size, torch.device(device))
            answers += measure(name, str(size), steps, 20 if quick else 60)
        show(f"{name}, whole update, one thread", answers, against="torchrl")
        rows += answers
    _show_summary(rows)
    if loss is None:
        rows += _of_targets()
    save(json, rows)


def _steps(subject: Subject, size: int, device: torch.device) -> dict[str, Step]:
    return {
        name: partial(contender.update(subject, device), contender.batch(subject, size, device))
        for name, contender in contenders_of(subject).items()
    }


def _show_summary(rows: list[Row]) -> None:
    """Ours as a multiple of each rival's speed, and which bounds that misses."""
    table = Table(title="ours, times as fast as")
    for column in ("loss", "batch", *RIVALS):
        table.add_column(column, justify="left" if column == "loss" else "right")
    misses: list[str] = []
    for name, size in dict.fromkeys((row.what, row.shape) for row in rows):
        speed = _speeds([row for row in rows if row.what == name], size)
        table.add_row(name, size, *[f"{speed[x]:.2f}" if x in speed else "none" for x in RIVALS])
        misses += [
            f"{name} at {size}: {speed[rival]:.2f} times {rival}, not {bound}"
            for rival, bound in _bounds(name, size).items()
            if speed[rival] < bound
        ]
    Console().print(table)
    Console().print("Bounds missed: " + "; ".join(misses) if misses else "All bounds are met.")


def _speeds(rows: list[Row], size: str) -> dict[str, float]:
    present = {row.contender for row in rows}
    return {rival: ratio(rows, size, rival, "ours") for rival in RIVALS if rival in present}


def _bounds(name: str, size: str) -> dict[str, float]:
    """By rival; at 64 only that of ``plain``."""
    of_torchrl = {"256": BOUNDS[name], "4096": BOUND_AT_4096}
    bounds = {"torchrl": of_torchrl[size]} if size in of_torchrl else {}
    return bounds | {"plain": BOUND_OF_PLAIN}


def _of_targets() -> list[Row]:
    libraries = {"torchrl": torchrl, "ours": compiled_rl}
    steps: dict[str, Step] = {
        name: library.SoftUpdate(OFF_POLICY[0].wrapped(library), tau=TAU).step
        for name, library in libraries.items()
    }
    rows = measure("target networks", "DDPG", steps, 60)
    show("soft update of two networks, one thread", rows, against="torchrl")
    return rows


if __name__ == "__main__":
    typer.run(main)
