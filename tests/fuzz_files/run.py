"""Run mutations in processes of their own, and count what became of them."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.fuzz_files.kinds import Kind, Mode

BATCH = 1000


class Count(NamedTuple):
    """Of one kind of file and one way to change it.

    Attributes:
        outcomes: how often a file was ``refused``, ``equal``, ``other`` or ``failed``.
        failures: a sentence on each of the last, with the mutation's number.
        megabytes: the most that a process had.
    """

    kind: str
    mode: str
    outcomes: Counter[str]
    failures: list[str]
    megabytes: int

    @property
    def tried(self) -> int:
        """How many."""
        return sum(self.outcomes.values())


def count_outcomes(folder: Path, kind: Kind, mode: Mode, count: int) -> Count:
    """Try so many mutations, in batches; a process that ends is gone on from."""
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    peak, first = 0, 0
    while first < count:
        for x in _batch(folder, kind, mode, first, min(BATCH, count - first)):
            outcomes[x["outcome"]] += 1
            peak, first = max(peak, x["rss"]), x["index"] + 1
            if x["outcome"] == "failed":
                failures.append(f"{kind.name}, {mode.name}, {x['index']}: {x['why'][:300]}")
    return Count(kind.name, mode.name, outcomes, failures, peak // 1024)


def _batch(folder: Path, kind: Kind, mode: Mode, first: int, count: int) -> Iterator[dict]:
    command = [sys.executable, "-m", "tests.fuzz_files.trial", str(folder), kind.name, mode.name]
    done = subprocess.run([*command, str(first), str(count)], capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    yield from (x for x in lines if "outcome" in x)
    if done.returncode:
        if not lines:
            raise RuntimeError(f"no mutation was tried:\n{done.stderr[-2000:]}")
        why = f"the process ended with {done.returncode}: {done.stderr[-200:]}"
        yield {"index": lines[-1]["index"], "outcome": "failed", "why": why, "rss": 0}
