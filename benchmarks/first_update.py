"""How long until the first update, of how many graphs, and with how much memory?

Each contender of ``updates.py`` has processes of its own, on one thread.

- ``cold start``: what the first compilation of a process takes, of ``x + 1``, with an empty cache:
  importing the compiler, probing the processor, compiling torch's headers. ``warm start``: the same
  in a new process, with the cache that this left.
- ``cold call`` and ``warm call``: the update's own first call at batch 256, after that.
- ``graphs``: how many TorchDynamo has made after batches of 256, 64 and 33.
- ``tensors``: the most that one warm update of batch 4096 holds of what it allocates itself; on a
  GPU, the most that was allocated since the start.
- ``process``: by how much building and a first update of batch 4096 raised the process's peak. Of
  what compiles, that is mostly the compiler's own modules.
"""

import json as files
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import CONTENDERS, SUBJECTS, Update, contenders_of, quiet
from benchmarks.timing import one_thread, save
from benchmarks.transitions import Subject
from benchmarks.workload import chosen

SIZES = (256, 64, 33)  # the first one is the first call's
LARGE = 4096
UNITS = {
    "cold start": "s",
    "warm start": "s",
    "cold call": "s",
    "warm call": "s",
    "graphs": "",
    "tensors": "MB",
    "process": "MB",
}
MB = 1e6


class Measured(NamedTuple):
    """One measurement, which is no median of many."""

    what: str
    contender: str
    shape: str
    value: float
    unit: str


def main(
    loss: Optional[str] = None,
    quick: bool = False,
    json: Optional[Path] = None,
    device: str = "cpu",
    contender: Optional[str] = None,
    memory: bool = False,
) -> None:
    """Print a table a loss; ``--quick`` asks no memory, and ClipPPOLoss if no ``--loss``.

    With ``--contender ours`` that one's first call, or with ``--memory`` its memory, is measured in
    this very process, and printed as a line of JSON.
    """
    subjects = chosen({x.name: x for x in SUBJECTS}, loss or ("ClipPPOLoss" if quick else None))
    if contender is not None:
        one_thread()
        quiet()
        measure = _memory if memory else _first_call
        subject = next(iter(subjects.values()))
        print(files.dumps(measure(subject, contender, torch.device(device))))
        return
    rows: list[Measured] = []
    for subject in subjects.values():
        answers = list(_rows(subject, device, quick))
        _show(subject.name, answers)
        rows += answers
    save(json, rows)


def _first_call(subject: Subject, name: str, device: torch.device) -> dict[str, float]:
    contender = CONTENDERS[name]
    update = contender.update(subject, device)
    batches = [contender.batch(subject, size, device) for size in SIZES]
    start = _seconds(lambda: torch.compile(lambda x: x + 1)(torch.ones(8, device=device)))
    torch._dynamo.utils.counters.clear()
    call = _seconds(lambda: update(batches[0]))
    # No batch twice: TorchRL writes its priorities to the first one, which would be another graph.
    for batch in batches[1:]:
        update(batch)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return {"start": start, "call": call, "graphs": graphs}


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _memory(subject: Subject, name: str, device: torch.device) -> dict[str, float]:
    before, contender = _peak_of_process(), CONTENDERS[name]
    update, batch = contender.update(subject, device), contender.batch(subject, LARGE, device)
    update(batch)
    process = _peak_of_process() - before
    for _ in range(3):
        update(batch)
    if device.type == "cuda":  # of the whole run: a captured graph keeps its memory between calls
        tensors = torch.cuda.max_memory_allocated(device)
    else:
        tensors = _peak_on_cpu(update, batch)
    return {"tensors": tensors / MB, "process": process / MB}


def _peak_of_process() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _peak_on_cpu(update: Update, batch: Any) -> int:
    """What torch's allocator tells its profiler; the process's own peak is that of compiling."""
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        update(batch)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = torch.tensor([0] + [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return int(held.cumsum(0).max())


def _rows(subject: Subject, device: str, quick: bool) -> Iterator[Measured]:
    for name, contender in contenders_of(subject).items():
        first, large = {}, {}
        with tempfile.TemporaryDirectory() as cache:
            options = ("--loss", subject.name, "--contender", name, "--device", device)
            if contender.compiled and name != "ours, drop-in":
                cold, warm = _in_process(cache, *options), _in_process(cache, *options)
                first = {f"cold {kind}": cold[kind] for kind in ("start", "call")}
                first |= {f"warm {kind}": warm[kind] for kind in ("start", "call")}
                first["graphs"] = cold["graphs"]
            if not quick:
                large = _in_process(cache, *options, "--memory")
        for kind, value in (first | large).items():
            shape = str(LARGE if kind in large else SIZES[0])
            yield Measured(f"{subject.name}, {kind}", name, shape, value, UNITS[kind])


def _in_process(cache: str, *options: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.first_update", *options]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(options)}:\n{done.stderr}")
    answer: dict[str, float] = files.loads(done.stdout.splitlines()[-1])
    return answer


def _show(name: str, rows: list[Measured]) -> None:
    table = Table(title=f"{name}, each in processes of its own, one thread")
    kinds = [kind for kind in UNITS if any(row.what.endswith(kind) for row in rows)]
    table.add_column("contender")
    for kind in kinds:
        table.add_column(kind, justify="right")
    cells = {(row.contender, row.what): f"{row.value:.3g} {row.unit}".strip() for row in rows}
    for contender in dict.fromkeys(row.contender for row in rows):
        table.add_row(contender, *[cells.get((contender, f"{name}, {kind}")) for kind in kinds])
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
