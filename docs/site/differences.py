"""What docs/differences.md and docs/from_torchrl.md say of one class or function.

A section of differences.md names, before its table, what all of its rows are of; a row that begins
with names and a colon is of these alone. What is said of a class is said of its subclasses.
"""

import inspect
import re
from itertools import takewhile
from typing import Any, NamedTuple

from docs.site.api import Entry

CELLS = re.compile(r"(?<!\\)\|")
NAMES = re.compile(r"((?:`\w+`(?:, )?)+): ")


class Row(NamedTuple):
    """A row of a table of differences, and what it is of: classes, functions."""

    of: tuple[Any, ...]
    cells: tuple[str, ...]

    def is_of(self, value: Any) -> bool:
        """Whether it is of a function, or of a class or one from which that inherits."""
        lineage = value.__mro__ if inspect.isclass(value) else (value,)
        return any(x in lineage for x in self.of)


def quoted(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


def table(text: str) -> list[tuple[str, ...]]:
    """The rows of the first table of a text, without its head."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = takewhile(lambda line: line.startswith("|"), lines[first + 2 :])
    return [cells_of(line) for line in rows]


def cells_of(line: str) -> tuple[str, ...]:
    """Of one row."""
    return tuple(x.strip() for x in CELLS.split(line.removeprefix("|").removesuffix("|")))


def sections(page: str) -> dict[str, str]:
    """The parts of a page by their titles."""
    parts = page.split("\n## ")[1:]
    return {title: body for title, _, body in (part.partition("\n") for part in parts)}


def rows(page: str, known: dict[str, Any]) -> list[Row]:
    """Every row of differences.md, without the names that it begins with."""
    found = []
    for body in sections(page).values():
        scope = named(body.partition("\n|")[0], known)
        for cells in table(body):
            match = NAMES.match(cells[0])
            what = cells[0][match.end() :] if match else cells[0]
            of = named(match[1], known) if match else scope
            found.append(Row(of, (what, *cells[1:])))
    return found


def named(text: str, known: dict[str, Any]) -> tuple[Any, ...]:
    """The classes and functions that a text names."""
    return tuple(known[name] for name in quoted(text))


def counterparts(page: str, entry: Entry) -> list[tuple[str, str]]:
    """The names of TorchRL's for it, in from_torchrl.md, and what is said of each."""
    found, note = [], ""
    for theirs, ours, says in table(sections(page)["Names"]):
        note = says if not says.startswith(("likewise", "as above")) else joined(note, says)
        if quoted(ours)[0] in (f"{entry.package}.{entry.name}", f"compiled_rl.{entry.name}"):
            found.append((theirs, note))
    return found


def joined(before: str, says: str) -> str:
    """What a row says that says the same as the one before, and maybe more."""
    return before.partition(";")[0] + says.removeprefix("likewise").removeprefix("as above")
