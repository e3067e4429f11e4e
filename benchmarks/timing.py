"""The rules of every benchmark: contenders interleaved in one process, warm, on one thread.

A sample is as many calls in a row as last two milliseconds, so that a call of 20 us is not charged
for the caches that another contender has emptied. Samples of all contenders take turns;
a row is their median and interquartile range, and a comparison is a ratio of two rows of one run.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Optional

import torch
from rich.console import Console
from rich.table import Table

_SAMPLE_SECONDS = 2e-3
Clock = Callable[[], float]


class Row(NamedTuple):
    """One measurement."""

    what: str
    contender: str
    shape: str
    median_us: float
    iqr_us: float


def one_thread() -> None:
    """Pin torch to one thread; call it before anything else."""
    torch.set_num_threads(1)


def measure(
    what: str,
    shape: str,
    contenders: Mapping[str, Callable[[], object]],
    samples: int,
    clock: Clock = time.perf_counter,
) -> list[Row]:
    """Time every contender; they take turns.

    With ``time.thread_time`` as the clock, time that a busy machine gives to others is not counted.
    """
    calls = {name: _calls_per_sample(run, clock) for name, run in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(samples):
        for name, run in contenders.items():
            times[name].append(_sample(run, calls[name], clock))
    return [summary(what, name, shape, taken) for name, taken in times.items()]


def _calls_per_sample(run: Callable[[], object], clock: Clock) -> int:
    for _ in range(3):
        run()
    return max(1, int(_SAMPLE_SECONDS / _sample(run, 1, clock)))


def _sample(run: Callable[[], object], calls: int, clock: Clock) -> float:
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls


def summary(what: str, name: str, shape: str, taken: list[float]) -> Row:
    """The median and spread of the seconds that a contender took."""
    low, middle, high = statistics.quantiles(taken, n=4)
    return Row(what, name, shape, middle * 1e6, (high - low) * 1e6)


def ratio(rows: list[Row], shape: str, slower: str, faster: str) -> float:
    """How many times as fast ``faster`` is as ``slower`` at a shape."""
    medians = {row.contender: row.median_us for row in rows if row.shape == shape}
    return medians[slower] / medians[faster]


def show(title: str, rows: list[Row], against: str) -> None:
    """A table a shape: medians, spreads, and each contender's speed as a multiple of one's."""
    table = Table(title=title)
    for column in ("shape", "contender", "median", "iqr", f"times {against}"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for shape in dict.fromkeys(row.shape for row in rows):
        for row in [row for row in rows if row.shape == shape]:
            speed = ratio(rows, shape, against, row.contender)
            table.add_row(
                shape, row.contender, f"{row.median_us:.1f} us", f"{row.iqr_us:.1f}", f"{speed:.2f}"
            )
        table.add_section()
    Console().print(table)


def save(path: Optional[Path], rows: list[Row]) -> None:
    """Write the rows as JSON, with the machine and the versions."""
    if path is None:
        return
    content = {"machine": _machine(), "rows": [row._asdict() for row in rows]}
    path.write_text(json.dumps(content, indent=2) + "\n")


def _machine() -> dict[str, str | int]:
    return {
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
