"""Does it last: 100,000 compiled updates, and 200 exports in one process?

- ``memory``: that of the process over updates whose batch size, mask, learning rates and
  coefficients are others at every call. After a warm-up nothing is compiled any more: torch is
  told to fail where it would.
- ``drift``: the same updates compiled, eagerly, and eagerly from parameters that differ by one unit
  of rounding. What is compiled may leave eager by as much as rounding alone does, within a factor:
  training amplifies the last digits.
- ``exports``: files of every kind that needs no C++ compiler. Each leaves nothing where it was
  written, in the folder of temporary files, or alive; what torch keeps is reported.

Bounds that are missed make it exit with 1.
"""

import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Optional

import matplotlib
import psutil
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Generator, Tensor

from benchmarks.contenders import SUBJECTS, quiet, step_of
from benchmarks.timing import one_thread
from benchmarks.transitions import Subject
from benchmarks.workload import LEARNING_RATE, OBSERVATION, chosen, networks
from compiled_rl.export import to_onnx, to_pt2, to_torchscript
from compiled_rl.functional import gae

matplotlib.use("Agg")

POINTS = 20  # of a curve
BATCHES = 64  # that take turns
LARGEST = 128  # samples of a batch
WARM_UP = 0.05  # of all updates, after which memory may grow by `GROWTH`
GROWTH = 0.01
OF_ROUNDING = 10.0  # how many times what rounding does compiled may differ from eager
MB = 1e6
Curve = dict[int, float]


class Outcome(NamedTuple):
    """One thing that must hold: what was seen, and whether it is within its bound."""

    what: str
    seen: str
    bound: str
    holds: bool


def main(
    updates: int = 100_000,
    exports: int = 200,
    loss: Optional[str] = None,
    picture: Optional[Path] = None,
) -> None:
    """Print the curves and what must hold of them; ``--loss`` is one instead of two."""
    one_thread()
    quiet()
    named = {x.name: x for x in SUBJECTS}
    subjects = chosen(named, loss) if loss else {k: named[k] for k in ("ClipPPOLoss", "SACLoss")}
    outcomes, memory, drift = [], {}, {}
    for name, subject in subjects.items():
        memory[name] = memory_of_updates(subject, updates)
        outcomes.append(flat(f"{name}: memory of {updates:,} updates", memory[name]))
    for name, subject in subjects.items():
        torch._dynamo.reset()
        drift[name] = drift_of_updates(subject, updates)
        outcomes.append(within_rounding(f"{name}: drift in {updates:,} updates", *drift[name]))
    left, memory["exports"] = exported(exports)
    outcomes += [
        Outcome(f"{exports} exports: {what}", str(count), "0", count == 0)
        for what, count in left.items()
    ]
    for name, curve in memory.items():
        _show(f"{name}: memory of the process, MB", {"MB": curve})
    for name, (compiled, rounding) in drift.items():
        _show(f"{name}: distance from eager", {"compiled": compiled, "rounding alone": rounding})
    if picture is not None:
        draw(memory, drift, picture)
    _show_outcomes(outcomes)
    raise typer.Exit(0 if all(outcome.holds for outcome in outcomes) else 1)


class Trained:
    """An update, and what may change between its calls."""

    def __init__(self, subject: Subject, mode: str) -> None:
        """Make the networks, the same at every call, and their update."""
        loss = subject.plain()
        self.step = step_of(subject, loss, mode=mode, generator=Generator().manual_seed(0))
        scalars = [x for x in loss.buffers() if x.dim() == 0 and x.is_floating_point()]
        self._coefficients = [(x, x.clone()) for x in scalars]

    def take(self, share: float, data: dict[str, Tensor]) -> None:
        """One step, with this share of the learning rates and coefficients."""
        for x, value in self._coefficients:
            x.copy_(share * value)
        for optimizer in self.step.optimizer:
            for group in optimizer.param_groups:
                group["lr"] = share * LEARNING_RATE
        self.step(**data)

    @property
    def parameters(self) -> Tensor:
        """All that is learned, in one row, in double precision."""
        learned = [p.detach().flatten() for p in self.step.loss.parameters()]
        return torch.cat(learned).double()


def batches_of(subject: Subject) -> list[dict[str, Tensor]]:
    """Batches of many sizes; every other one has a mask."""
    torch.manual_seed(0)
    sizes = torch.randint(2, LARGEST + 1, (BATCHES,)).tolist()
    batches = [dict(subject.data(size).flatten_keys("_").items()) for size in sizes]
    for size, batch in list(zip(sizes, batches, strict=True))[::2]:
        batch["shifted_valid"] = (torch.rand(size) < 0.8) | (torch.arange(size) == 0)
    return batches


def calls(subject: Subject, updates: int, title: str) -> Iterator[tuple[int, float, dict]]:
    """The number of every update, its share of the coefficients, and its batch."""
    batches, generator = batches_of(subject), Generator().manual_seed(0)
    for k in track(range(1, updates + 1), title):
        share = 0.5 + 0.5 * float(torch.rand((), generator=generator))
        yield k, share, batches[int(torch.randint(BATCHES, (), generator=generator))]


def memory_of_updates(subject: Subject, updates: int) -> Curve:
    """Compiled; once warm, torch fails where it would compile again."""
    trained, curve = Trained(subject, "default"), {}
    warm = _warm(updates)
    for k, share, data in calls(subject, updates, f"{subject.name}, memory"):
        trained.take(share, data)
        if k == warm:
            torch.compiler.set_stance("fail_on_recompile")
        if k >= warm and (k - warm) % max(1, (updates - warm) // POINTS) == 0:
            curve[k] = resident()
    torch.compiler.set_stance("default")
    return curve


def _warm(updates: int) -> int:
    return max(4 * BATCHES, int(WARM_UP * updates))


def resident() -> float:
    """What the process has in memory, in MB."""
    gc.collect()
    return psutil.Process().memory_info().rss / MB


def drift_of_updates(subject: Subject, updates: int) -> tuple[Curve, Curve]:
    """How far what is compiled, and what began a unit of rounding away, are from eager."""
    eager, near = Trained(subject, "eager"), Trained(subject, "eager")
    compiled = Trained(subject, "default")
    with torch.no_grad():
        for p in near.step.loss.parameters():
            p.mul_(1 + torch.finfo(p.dtype).eps)
    curves: tuple[Curve, Curve] = ({}, {})
    for k, share, data in calls(subject, updates, f"{subject.name}, drift"):
        for trained in (eager, near, compiled):
            trained.take(share, data)
        if k % max(1, updates // POINTS) == 0:
            for curve, trained in zip(curves, (compiled, near), strict=True):
                curve[k] = _distance(trained.parameters, eager.parameters)
    return curves


def _distance(x: Tensor, other: Tensor) -> float:
    return float((x - other).norm() / other.norm())


def exported(exports: int) -> tuple[dict[str, int], Curve]:
    """What exports leave: files in other places than asked, objects of ours; memory."""
    makers, curve = [*_makers()], {}
    with _temporary_folder() as temporary:
        for make in makers:
            _export(make)
        beside, objects, files = 0, _ours_alive(), _count(temporary)
        for k in track(range(1, exports + 1), "exports"):
            beside += _export(makers[k % len(makers)])
            if k % max(1, exports // POINTS) == 0:
                curve[k] = resident()
        left = {
            "unexpected files beside an artefact": beside,
            "temporary files left": _count(temporary) - files,
            "objects of ours left": _ours_alive() - objects,
        }
    return left, curve


@contextmanager
def _temporary_folder() -> Iterator[str]:
    """Where this process's temporary files are, and nobody else's."""
    before = tempfile.gettempdir()
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        try:
            yield folder
        finally:
            tempfile.tempdir = os.environ["TMPDIR"] = before


def _count(folder: str) -> int:
    return sum(len(names) for _, *both in os.walk(folder) for names in both)


def _makers() -> Iterator[Callable[[Path], object]]:
    policy, observation = networks()[0], torch.randn(2, OBSERVATION)
    columns = dict.fromkeys(("reward", "value", "next_value"), torch.randn(2, 8, 1))
    flags = dict.fromkeys(("done", "terminated"), torch.zeros(2, 8, 1, dtype=torch.bool))
    estimator = partial(gae, gamma=0.99, lmbda=0.95)
    yield lambda folder: to_onnx(policy, observation, folder / "file.onnx")
    yield lambda folder: to_pt2(policy, observation, folder / "file.pt2")
    yield lambda folder: to_torchscript(policy, observation, folder / "file.pt")
    yield lambda folder: to_onnx(
        estimator, columns | flags, folder / "file.onnx", ("batch", "time")
    )


def _export(make: Callable[[Path], Any]) -> int:
    """How many files there are beside the artefact and its contract."""
    with tempfile.TemporaryDirectory() as folder:
        report = make(Path(folder))
        expected = {report.path.name, report.path.name + ".contract.json"}
        return len(set(os.listdir(folder)) ^ expected)


def _ours_alive() -> int:
    gc.collect()
    return sum(str(type(x).__module__).startswith("compiled_rl") for x in gc.get_objects())


def flat(what: str, curve: Curve) -> Outcome:
    """Memory after the warm-up stays."""
    first, *later = curve.values()
    growth = max(later) / first - 1
    return Outcome(what, f"{growth:+.2%}", f"< {GROWTH:.0%}", growth < GROWTH)


def within_rounding(what: str, compiled: Curve, rounding: Curve) -> Outcome:
    """At no point is what is compiled much farther from eager than rounding alone leads."""
    worst = max(compiled[k] / max(rounding[j] for j in rounding if j <= k) for k in compiled)
    return Outcome(what, f"{worst:.2f} times rounding", f"<= {OF_ROUNDING:g}", worst <= OF_ROUNDING)


def _show(title: str, curves: dict[str, Curve]) -> None:
    table = Table(title=title)
    table.add_column("after", justify="right")
    for name in curves:
        table.add_column(name, justify="right")
    for k in next(iter(curves.values())):
        table.add_row(f"{k:,}", *[f"{curve[k]:.4g}" for curve in curves.values()])
    Console().print(table)


def _show_outcomes(outcomes: list[Outcome]) -> None:
    table = Table(title="soak")
    for column in ("what", "seen", "bound", "holds"):
        table.add_column(column)
    for outcome in outcomes:
        table.add_row(*outcome[:3], "yes" if outcome.holds else "NO")
    Console().print(table)


def draw(memory: dict[str, Curve], drift: dict[str, tuple[Curve, Curve]], path: Path) -> None:
    """Memory on the left, distance from eager on the right."""
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    for name, curve in memory.items():
        if name != "exports":
            left.plot(curve.keys(), curve.values(), label=name)
    left.set(title="memory of the process", xlabel="compiled updates", ylabel="MB")
    left.set_ylim(bottom=0)
    for name, (compiled, rounding) in drift.items():
        (line,) = right.plot(compiled.keys(), compiled.values(), label=f"{name}, compiled")
        colour = line.get_color()
        right.plot(rounding.keys(), rounding.values(), ":", color=colour, label="rounding alone")
    right.set(title="distance from eager", xlabel="updates", ylabel="relative", yscale="log")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
