"""What does an update by several processes cost, and how many collectives does it take?

One batch, in as many parts of one size as there are processes, on gloo, one thread each; networks
are those of ``updates.py``. ``alone`` is the step without a process group. Processes share the
machine: with fewer cores than processes the times say nothing.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Optional

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import SUBJECTS, quiet
from benchmarks.timing import Row, one_thread, save, summary
from benchmarks.workload import TAU
from compiled_rl import SoftUpdate, UpdateStep

LOSSES = ("ClipPPOLoss", "SACLoss")
CALLS = 200


def main(
    quick: bool = False, processes: int = 2, eager: bool = False, json: Optional[Path] = None
) -> None:
    """Print medians and counts; ``--quick`` asks batch 256 only, ``--eager`` compiles nothing."""
    sizes = (256,) if quick else (256, 4096)
    mode = "eager" if eager else "default"
    table = Table(title=f"updates on gloo, {mode}")
    for column in ("loss", "batch", "processes", "median", "iqr", "collectives"):
        table.add_column(column, justify="right")
    rows: list[Row] = []
    for count in (0, *range(1, processes + 1)):
        for row, collectives in _measured(count, sizes, mode):
            rows.append(row)
            times = (f"{row.median_us:.0f} us", f"{row.iqr_us:.0f}")
            table.add_row(row.what, row.shape, row.contender, *times, str(collectives))
    Console().print(table)
    save(json, rows)


def _measured(count: int, sizes: tuple[int, ...], mode: str) -> list[tuple[Row, int]]:
    """Of a step without a group where ``count`` is zero."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_process, (max(count, 1), count == 0, sizes, mode, folder), max(count, 1))
        found = torch.load(Path(folder, "rows"))
    return [(Row(*row), collectives) for row, collectives in found]


def _process(
    rank: int, count: int, alone: bool, sizes: tuple[int, ...], mode: str, folder: str
) -> None:
    one_thread()
    quiet()
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=count)
    found = []
    for subject in [subject for subject in SUBJECTS if subject.name in LOSSES]:
        loss = subject.plain()
        updater = SoftUpdate(loss, tau=TAU) if subject.max_grad_norm is None else None
        step = UpdateStep(
            loss,
            subject.optimizers(loss),
            max_grad_norm=subject.max_grad_norm,
            target_updater=updater,
            mode=mode,
            process_group=None if alone else dist.group.WORLD,
        )
        for size in sizes:
            batch = dict(subject.data(size // count).flatten_keys("_").items())
            taken = _seconds(lambda step=step, batch=batch: step(batch))
            row = summary(subject.name, "alone" if alone else str(count), str(size), taken)
            found.append((tuple(row), collectives(lambda step=step, batch=batch: step(batch))))
    if rank == 0:
        torch.save(found, Path(folder, "rows"))
    dist.destroy_process_group()


def _seconds(call: Callable[[], object]) -> list[float]:
    for _ in range(20):
        call()
    taken = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken


def collectives(call: Callable[[], object]) -> int:
    """How many a call takes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return sum(event.name.startswith("c10d::allreduce") for event in profile.events())


if __name__ == "__main__":
    typer.run(main)
