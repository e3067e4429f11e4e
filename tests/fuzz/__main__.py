"""``make fuzz``: every way to spoil every argument of every public callable, and pairs at random.

Exits with 1 if anything but the right result or one sentence came of a call.
"""

import argparse
import sys
import time
from collections import Counter

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from tests.fuzz.call import Call
from tests.fuzz.calls import CALLS
from tests.fuzz.drawn import Changes, changes
from tests.fuzz.outcome import attempt, ours, undocumented


class Count(Counter[str]):
    """How many calls were tried, answered and refused, and the faults that were found."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call
        self.faults: list[str] = []
        self.errors: dict[type, BaseException] = {}

    def attempt(self, given: Changes) -> None:
        """One call."""
        outcome = attempt(self.call.make, given, self.call.named, self.call.users, self.call.writes)
        self["tried"] += 1
        self["refused" if outcome.refused else "valid"] += 1
        if outcome.error is not None and ours(outcome.error):
            self.errors[type(outcome.error)] = outcome.error
        if outcome.fault:
            ways = ", ".join(f"{name}: {way.what}" for name, way in given.items())
            self.faults.append(f"{self.call.name}({ways}) {outcome.fault}")

    def run(self, pairs: int) -> None:
        """The valid call, every single change, and so many drawn ones, the same in every run."""
        if not self.call.only:
            self.attempt({})
        for name, way in self.call.ways():
            self.attempt({name: way})

        if pairs:
            self._run_drawn(pairs)
        for kind in undocumented(self.call.make()[0], self.errors.values()):
            self.faults.append(f"{self.call.name} raises {kind}, which its docstring does not say")

    def _run_drawn(self, pairs: int) -> None:
        @settings(
            max_examples=pairs,
            database=None,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def drawn(data: st.DataObject) -> None:
            self.attempt(data.draw(changes(self.call)))

        drawn()


def main() -> int:
    """Fuzz, print the table and the faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", nargs="*", help="what their names begin with; all")
    parser.add_argument("--pairs", type=int, default=100, help="drawn changes of each call")
    options = parser.parse_args()
    chosen = [c for c in CALLS if c.name.startswith(tuple(options.calls or [""]))]
    torch.set_num_threads(1)
    started, table = time.monotonic(), Table("callable", "tried", "valid", "refused", "faults")
    total: Counter[str] = Counter()
    for call in chosen:
        count = Count(call)
        count.run(options.pairs)
        row = [str(count[name]) for name in ("tried", "valid", "refused")]
        table.add_row(call.name, *row, str(len(count.faults)))
        total.update(count)
        total["faults"] += len(count.faults)
        for fault in count.faults:
            print(" ".join(fault.split())[:300], flush=True)
    seconds = time.monotonic() - started
    table.add_row("all", *[f"{total[name]:,}" for name in ("tried", "valid", "refused", "faults")])
    Console(width=100).print(table)
    print(f"{total['tried']:,} calls of {len(chosen)} callables in {seconds:.0f} s")
    return int(total["faults"] > 0)


if __name__ == "__main__":
    sys.exit(main())
