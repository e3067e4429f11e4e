"""The code that pages show, run as someone would copy it: blocks in order, diffs in order."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```(\w+)(?: title=\S+)?\n(.*?)```", re.DOTALL)


def read(path: str) -> str:
    """A page of the repository."""
    return (ROOT / path).read_text()


def blocks(page: str, language: str = "python") -> list[str]:
    """The code of a text in one language."""
    return [code for kind, code in BLOCK.findall(page) if kind == language]


def run(code: list[str]) -> dict[str, Any]:
    """What the blocks define, one after the other."""
    names: dict[str, Any] = {}
    for block in code:
        exec(block, names)
    return names


def patched(program: str, diff: str) -> str:
    """The program after a block ``diff``, whose hunks are parted by ``@@``.

    What a hunk takes for granted must be there once.
    """
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE)[1:]:
        lines = [line for line in hunk.splitlines() if line]
        before = "\n".join(x[1:] for x in lines if x[0] != "+")
        after = "\n".join(x[1:] for x in lines if x[0] != "-")
        assert program.count(f"\n{before}\n") == 1, before
        program = program.replace(f"\n{before}\n", f"\n{after}\n")
    return program
