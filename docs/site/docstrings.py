"""Docstrings as Markdown: formulas as mathematics, examples as code, public names as links."""

import inspect
import re
from textwrap import dedent, indent
from typing import Any

import griffe

from compiled_rl import functional, losses
from docs.site.api import entries
from docs.site.formulas import NoFormulaError, mathml

EXAMPLE = re.compile(r"^( *)\.\. code-block:: (\w+)\n\n((?:\1 {4}.*\n?|\n)+)", re.MULTILINE)
BLOCK = re.compile(r"(?<=\n\n)((?: {4}.*\n|\n)*(?: {4}.*))(?=\n|\Z)")
PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
QUOTED = re.compile(r"``(?:compiled_rl\.)?(?:[a-z]+\.)?(\w+)``")
FENCED = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def __init__(self) -> None:
        super().__init__()
        self.known = {x.name: x for x in entries()}

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """One docstring."""
        if obj.docstring is not None:
            text = with_formula(obj.docstring.value)
            obj.docstring.value = self.linked(rendered(text), obj.name)

    def linked(self, text: str, own: str) -> str:
        """The text with links from public names to their pages, but from a page to itself."""

        def link(match: re.Match[str]) -> str:
            entry = self.known.get(match[1])
            wanted = entry is not None and match[1] != own
            return f"[{match[0]}][{entry.identifier}]" if entry and wanted else match[0]

        text = PAPER.sub(r"[\g<0>](https://arxiv.org/abs/\1)", text)
        parts = FENCED.split(text)  # code, with the fences, at the odd places
        return "".join(x if i % 2 else QUOTED.sub(link, x) for i, x in enumerate(parts))


def formulas(text: str) -> list[str]:
    """The indented blocks of a docstring, but those of its sections."""
    return [dedent(block).strip("\n") for block in BLOCK.findall(EXAMPLE.sub("", text))]


def with_formula(text: str) -> str:
    """What begins with the name of another, and has no formula, has that one's."""
    match = re.match(r"``(?:functional\.)?(\w+)``.*\n?", text)
    if match is None or formulas(text):
        return text
    other = getattr(functional, match[1], None) or getattr(losses, match[1], None)
    blocks = formulas(inspect.getdoc(other) or "") if other else []
    return "\n".join([match[0], *[indent(x, " " * 4) + "\n" for x in blocks], text[match.end() :]])


def rendered(text: str) -> str:
    """Formulas as mathematics and examples in fences; any other block stays as it is."""
    return BLOCK.sub(_as_formula, EXAMPLE.sub(_as_fence, text))


def _as_fence(match: re.Match[str]) -> str:
    code = f"```{match[2]}\n{dedent(match[3]).strip()}\n```"
    return indent(code, match[1]) + "\n\n"


def _as_formula(match: re.Match[str]) -> str:
    block = dedent(match[0]).strip("\n")
    try:
        return f'<div class="formula">{mathml(block)}</div>\n'
    except NoFormulaError:
        return match[0]
