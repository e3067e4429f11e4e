"""The pages that nobody writes: one a public name, one an example, and their indices."""

import ast
import inspect
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from textwrap import indent
from typing import Any

from compiled_rl.adapters import Field, keyword
from docs.site.api import FOLDERS, Entry, entries
from docs.site.differences import Row, counterparts, rows, sections
from docs.site.links import relative, relinked

ROOT = Path(__file__).parents[2]
KINDS = {
    "input": "Inputs",
    "output": "Outputs",
    "metric": "Metrics, by name only",
    "written": "Written into the data",
    "computed": "Outputs of a network",
}


def pages() -> dict[str, str]:
    """The text of every generated page by its place in the site."""
    return dict([*api_pages(), *example_pages()])


@cache
def read(path: str) -> str:
    """A file of the repository."""
    return (ROOT / path).read_text()


# ---- the reference -------------------------------------------------------------------------------


def api_pages() -> Iterator[tuple[str, str]]:
    """One a name, and one that lists them."""
    found = entries()
    known = {x.name: x.value for x in found}
    every = rows(read("docs/differences.md"), known)
    for entry in found:
        yield entry.page, page_of(entry, every)
    yield "api/index.md", index_of(found)


def page_of(entry: Entry, every: list[Row]) -> str:
    """A name's page: its docstring, what goes in and out, and what differs from TorchRL."""
    parts = [front_matter(entry), reference(entry), fields_of(entry.value)]
    return "\n".join([*parts, differences_of(entry, every)])


def front_matter(entry: Entry) -> str:
    """The title and the description, for the head of the page."""
    return f"---\ntitle: {entry.name}\ndescription: {entry.summary!r}\n---\n"


def reference(entry: Entry) -> str:
    """What mkdocstrings is asked for: no part that only subclasses need, every field of data."""
    options = [f"heading: {entry.package}.{entry.name}", f"toc_label: {entry.name}"]
    if hasattr(entry.value, "fields"):
        options.append("members: false")
    elif inspect.isclass(entry.value) and issubclass(entry.value, tuple | Enum):
        options.append("show_if_no_docstring: true")
    return f"::: {entry.identifier}\n    options:\n{indent(chr(10).join(options), ' ' * 6)}\n"


def fields_of(cls: Any) -> str:
    """The table that a loss or an estimator declares, by the kinds of fields."""
    fields: tuple[Field, ...] = getattr(cls, "fields", ())
    if not isinstance(fields, tuple) or not fields:
        return ""
    parts = ["## Inputs and outputs\n"]
    for kind, title in KINDS.items():
        of_kind = [x for x in fields if x.kind == kind]
        if of_kind:
            parts.append(f"{title}:\n\n| keyword | key | shape | |\n|---|---|---|---|")
            parts += [field_row(x) for x in of_kind]
            parts.append("")
    return "\n".join(parts)


def field_row(field: Field) -> str:
    """A row of that table."""
    shape = field.shape and f"`{field.shape}`"
    cells = (f"`{keyword(field.key)}`", f"`{field.key!r}`", shape, field.meaning)
    return "| " + " | ".join(x.replace("|", "\\|") for x in cells) + " |"


def differences_of(entry: Entry, every: list[Row]) -> str:
    """What TorchRL calls it, and what is not the same, and why."""
    here = [row for row in every if row.is_of(entry.value)]
    parts = ["## What differs from TorchRL, and why\n", called_there(entry)]
    parts += difference_table([x for x in here if entry.value in x.of])
    shared = difference_table([x for x in here if entry.value not in x.of])
    if shared:
        title = "And, as other losses do, in this"
        parts.append(f'??? note "{title}"\n\n{indent(chr(10).join(shared), "    ")}')
    if inspect.isclass(entry.value) and entry.folder == "estimators":
        parts.append(of_estimators())
    return "\n".join(parts)


def called_there(entry: Entry) -> str:
    """TorchRL's names, each with what is said of it."""
    found = counterparts(read("docs/from_torchrl.md"), entry)
    if not found:
        return "TorchRL's objectives have nothing of this name.\n"
    text = "\n".join(f"- {theirs}: {says}" for theirs, says in found) + "\n"
    return relinked(text, "docs/from_torchrl.md", entry.page)


def difference_table(found: list[Row]) -> list[str]:
    """The rows as a table, without the names of the tests."""
    if not found:
        return []
    lines = ["| | TorchRL | here | why |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row.cells[:4])} |" for row in found]
    return [relinked("\n".join(lines), "docs/differences.md", "api/any/any.md"), ""]


def of_estimators() -> str:
    """The list of docs/estimators.md."""
    body = sections(read("docs/estimators.md"))["As modules"]
    listed = body[body.index("\n- ") :]
    return relinked("Of every estimator:\n" + listed, "docs/estimators.md", "api/any/any.md")


def index_of(found: list[Entry]) -> str:
    """Every public name with the first line of its docstring, by folder."""
    parts = ["# Reference\n", "Every public name has a page.\n"]
    for folder, title in FOLDERS.items():
        parts.append(f"## {title}\n\n| | |\n|---|---|")
        parts += [
            f"| [`{x.name}`]({relative(x.page, 'api/index.md')}) | {x.summary.replace('``', '`')} |"
            for x in found
            if x.folder == folder
        ]
        parts.append("")
    return "\n".join(parts)


def api_navigation() -> list[Any]:
    """The pages of the reference by folder, those of a folder in the alphabet's order."""
    found = sorted(entries(), key=lambda x: x.name.lower())
    folders = [
        {title: [{x.name: x.page} for x in found if x.folder == folder]}
        for folder, title in FOLDERS.items()
    ]
    return ["api/index.md", *folders]


# ---- the examples --------------------------------------------------------------------------------


def scripts() -> Iterable[Path]:
    """The examples that can be run."""
    found = sorted((ROOT / "examples").glob("*.py"))
    return [path for path in found if "__main__" in path.read_text()]


def example_pages() -> Iterator[tuple[str, str]]:
    """One a script, and one that lists them."""
    lines = ["# Examples\n", "Whole scripts, each read in one sitting.\n", "| | |", "|---|---|"]
    for path in scripts():
        name, source = path.stem, path.read_text()
        text = ast.get_docstring(ast.parse(source)) or ""
        lines.append(f"| [`examples.{name}`]({name}.md) | {first_line(text)} |")
        yield f"examples/{name}.md", example_page(name, text, source)
    yield "examples/index.md", "\n".join(lines)


def example_page(name: str, text: str, source: str) -> str:
    """What it is, how it is run, and all of it."""
    command = f"```bash\npython -m examples.{name}\n```"
    text = text.replace("``", "`")
    return f"# {name}\n\n{text}\n\n{command}\n\n```python\n{source}```\n"


def first_line(text: str) -> str:
    """What a docstring says first, for a table."""
    return text.split("\n")[0].replace("``", "`").replace("|", "\\|")


def example_navigation() -> list[Any]:
    """The pages of the examples."""
    return ["examples/index.md", *[{x.stem: f"examples/{x.stem}.md"} for x in scripts()]]
