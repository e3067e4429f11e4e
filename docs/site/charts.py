"""Pictures of the tables of benchmarks/README.md: their numbers, and no others."""

import io
import re
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

from docs.site.differences import cells_of, sections, table

PAGE = "benchmarks/README.md"
# Of Okabe and Ito, which the colour-blind can tell apart; eager forms are the lighter ones.
THEIRS, THEIRS_COMPILED, BY_HAND, LEANRL = "#bbbbbb", "#767676", "#e69f00", "#d55e00"
EAGER, OURS = "#56b4e9", "#0072b2"


class Chart(NamedTuple):
    """What is drawn of the first table of a section.

    ``contenders`` are its rows and their colours. ``column`` is the one whose numbers are compared,
    for each of the rows' first cells; None: all of them are, side by side.
    """

    name: str
    title: str
    unit: str
    contenders: dict[str, str]
    column: str | None = None
    log: bool = False

    @property
    def section(self) -> str:
        """The title of the section."""
        return f"`python -m benchmarks.{self.name}`"

    @property
    def path(self) -> str:
        """The picture's place in the site."""
        return f"charts/{self.name}.svg"


CHARTS = (
    Chart(
        "estimators",
        "GAE, batch x time",
        "microseconds",
        {"torchrl, loop": THEIRS, "torchrl, vectorised": THEIRS_COMPILED, "ours, time first": OURS},
        log=True,
    ),
    Chart(
        "losses",
        "Forward and backward of a loss, batch 256",
        "microseconds",
        {
            "torchrl": THEIRS,
            "torchrl-compiled": THEIRS_COMPILED,
            "ours": EAGER,
            "ours-compiled": OURS,
        },
        column="256",
    ),
    Chart(
        "updates",
        "A whole update, batch 256",
        "microseconds",
        {
            "torchrl": THEIRS,
            "torchrl-compiled": THEIRS_COMPILED,
            "plain": BY_HAND,
            "leanrl": LEANRL,
            "ours": OURS,
        },
        column="256",
    ),
    Chart(
        "first_update",
        "The first update, with an empty cache",
        "seconds",
        {"torchrl-compiled": THEIRS_COMPILED, "leanrl": LEANRL, "ours": OURS},
        column="cold",
    ),
)


def number(cell: str) -> float:
    """What a cell begins with; nothing was measured where it says ``none``."""
    match = re.match(r"[\d,]+(?:\.\d+)?", cell)
    return float(match[0].replace(",", "")) if match else float("nan")


def measured(chart: Chart, page: str) -> dict[str, dict[str, float]]:
    """By contender, by what was measured: the table's numbers."""
    text = sections(page)[chart.section]
    head = cells_of(next(line for line in text.splitlines() if line.startswith("|")))
    found: dict[str, dict[str, float]] = {name: {} for name in chart.contenders}
    of = ""
    for row in table(text):
        if chart.column is None:
            values = dict(zip(head[1:], map(number, row[1:]), strict=True))
            found.get(row[0], {}).update(values)
        else:
            of = row[0] or of
            found.get(row[1], {})[of] = number(row[head.index(chart.column)])
    return found


def picture(chart: Chart, page: str) -> str:
    """The chart as SVG."""
    found = measured(chart, page)
    groups = list(dict.fromkeys(group for values in found.values() for group in values))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(found)
    for k, (name, values) in enumerate(found.items()):
        places = [i + (k - (len(found) - 1) / 2) * width for i in range(len(groups))]
        heights = [values.get(group, float("nan")) for group in groups]
        axes.bar(places, heights, width, color=chart.contenders[name], label=name)
    axes.set_xticks(range(len(groups)), groups, fontsize=8)
    axes.set(ylabel=chart.unit, yscale="log" if chart.log else "linear")
    axes.set_title(chart.title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.18)  # room for the legend
    axes.legend(frameon=False, fontsize=8, ncols=len(found), loc="upper left")
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": chart.name}):  # the same file at every build
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def illustrated(page: str) -> str:
    """The page with each picture behind its table."""
    for chart in CHARTS:
        text = sections(page)[chart.section]
        rows = [line for line in text.splitlines() if line.startswith("|")]
        last = text.index("\n\n", text.index(rows[0]))
        shown = f"\n\n![{chart.title}, {chart.unit}: the numbers of the table](../{chart.path})"
        page = page.replace(text, text[:last] + shown + text[last:])
    return page
