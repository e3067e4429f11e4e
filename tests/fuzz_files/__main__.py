"""Damage and change files of every kind, and count: ``python -m tests.fuzz_files``.

Each must be refused with one sentence or compute what it did; where nothing vouches for a file, it
may compute something else. The exit code is 1 if one failed otherwise.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.fuzz_files.kinds import KINDS, make_files, modes_of
from tests.fuzz_files.run import Count, count_outcomes

MUTATIONS = 850  # of a row, where a file is opened in milliseconds


def main(
    scale: Annotated[float, typer.Option(min=0.001, help="Of the number of mutations.")] = 1.0,
    only: Annotated[str, typer.Option(help="A kind of file.")] = "",
    native: Annotated[bool, typer.Option(help="AOTInductor, too, which compiles.")] = True,
) -> None:
    """Print how many mutations of each kind were refused."""
    console = Console()
    kinds = [kind for kind in KINDS if only in ("", kind.name) and (native or not kind.native)]
    rows = [(kind, mode) for kind in kinds for mode in modes_of(kind)]
    with tempfile.TemporaryDirectory() as made, Progress(console=console) as bar:
        task = bar.add_task("making files", total=len(rows))
        make_files(Path(made), whole=native)
        counts = []
        for kind, mode in rows:
            bar.update(task, description=f"{kind.name}: {mode.name}")
            wanted = max(1, round(scale * kind.rate * MUTATIONS))
            counts.append(count_outcomes(Path(made), kind, mode, wanted))
            console.print(f"{kind.name}, {mode.name}: {dict(counts[-1].outcomes)}")
            bar.advance(task)
    console.print(table_of(counts))
    for sentence in [sentence for count in counts for sentence in count.failures]:
        console.print(sentence, markup=False, soft_wrap=True)
    raise typer.Exit(any(count.failures for count in counts))


def table_of(counts: list[Count]) -> Table:
    """A row each, and what they come to."""
    table = Table("kind of file", "what was changed", title="Damaged and changed files")
    names = ("mutations", "refused", "equal", "other results", "failed", "process, MB")
    for name in names:
        table.add_column(name, justify="right")
    for count in counts:
        told = [count.outcomes[x] for x in ("refused", "equal", "other", "failed")]
        table.add_row(count.kind, count.mode, *map(str, [count.tried, *told, count.megabytes]))
    table.add_section()
    sums = [
        sum(count.outcomes[x] for count in counts) for x in ("refused", "equal", "other", "failed")
    ]
    table.add_row("together", "", *map(str, [sum(sums), *sums, ""]))
    return table


if __name__ == "__main__":
    typer.run(main)
