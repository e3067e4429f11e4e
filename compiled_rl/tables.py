"""What the command line and the demo show: of files that were made, what they hold, how fast."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

from rich import box
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:  # torch, which playing does without
    from compiled_rl.export import Report
    from compiled_rl.export.latency import Latency
    from compiled_rl.export.stored import Graph

_RIGHT = ("size", "largest error", "latency", "ties", "median", "p99", "times eager")


def checks_table(title: str, reports: Sequence["Report"]) -> Table:
    """Every artefact with its size, its largest error against eager, and its latency."""
    table = _table(title, "artefact", "size", "checked at", "largest error", "latency")
    for report in reports:
        about = [escape(report.path.name), size_text(report.bytes)]
        for check in report.checks:
            error, latency = f"{check.max_error:.1e}", f"{check.latency_us:,.0f} us"
            table.add_row(*about, sizes_text(check.sizes), error, latency)
            about = ["", ""]
        table.add_section()
    return table


def latency_table(title: str, rows: Sequence["Latency"]) -> Table:
    """What each contender took at each size, and how many times as fast as eager it is."""
    eager = any(row.times_eager for row in rows)
    columns = ["size", "contender", "median", "p99", *(["times eager"] if eager else [])]
    table = _table(title, *columns)
    shown = None
    for row in rows:
        if shown not in (None, row.sizes):
            table.add_section()
        cells = [sizes_text(row.sizes) if row.sizes != shown else "", row.contender]
        cells += [_microseconds(row.median_us), _microseconds(row.p99_us)]
        if row.times_eager is not None:
            cells.append(f"{row.times_eager:.1f}")
        table.add_row(*cells)
        shown = row.sizes
    return table


def facts_table(facts: Mapping[str, Optional[str]]) -> Table:
    """Names and what is known under them; what is not known is left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, escape(value))
    return table


def contract_facts(contract: Mapping[str, Any]) -> dict[str, Optional[str]]:
    """What a contract says of the file as a whole."""
    limits = contract["max"]
    axes = [f"{x} (at most {limits[x]})" if x in limits else x for x in contract["dynamic"]]
    normalizer = contract.get("normalizer")
    return {
        "made of": contract["target"],
        "algorithm": contract.get("algorithm"),
        "any size": ", ".join(axes),
        "control rate": _with_unit(contract.get("control_rate"), "Hz"),
        "action scale": _with_unit(contract.get("action_scale")),
        "action offset": _with_unit(contract.get("action_offset")),
        "normaliser": normalizer and f"inside; clips at {normalizer['clip']:g}",
        "schedule": _pairs(contract.get("schedule") or {}),
        "versions": _pairs(contract["versions"]),
    }


def graph_facts(graph: "Graph") -> dict[str, Optional[str]]:
    """What is in a file, in a few words."""
    operators = ", ".join(f"{name} {count}" for name, count in graph.operators.items())
    return {
        "graph": f"{graph.nodes} nodes" if graph.operators else None,
        "operators": operators,
        "weights": size_text(graph.weights_bytes) if graph.operators else None,
        "library": size_text(graph.code_bytes) if graph.code_bytes else None,
    }


def entries_table(
    title: str, entries: Sequence[Mapping[str, Any]], state: Mapping[str, Any]
) -> Table:
    """Inputs or outputs; a column is there if it says something of one of them."""
    cells = [_entry(entry, state) for entry in entries]
    columns = [name for name in cells[0] if any(row[name] for row in cells)] if cells else []
    table = _table(title, *columns)
    for row in cells:
        table.add_row(*[escape(row[name]) for name in columns])
    return table


def verification_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """At which sizes a file was compared with eager when it was made."""
    tied = any(row.get("ties") for row in rows)
    columns = ["checked at", "largest error", *(["ties"] if tied else [])]
    table = _table("Verified when it was made", *columns)
    for row in rows:
        cells = [sizes_text(row["sizes"]), f"{row['max_error']:.1e}", str(row.get("ties", 0))]
        table.add_row(*cells[: len(columns)])
    return table


def size_text(count: int) -> str:
    """Bytes, as people read them."""
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:,.1f} KiB" if count < 1024**2 else f"{count / 1024**2:,.1f} MiB"


def sizes_text(sizes: Mapping[str, int]) -> str:
    """``batch 3, time 7``."""
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "its one size"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        right = column in _RIGHT
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


def _entry(entry: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, str]:
    name = entry["name"]
    low, high = entry.get("low"), entry.get("high")
    meaning = entry.get("meaning") or ""
    drawn = {"normal": "standard normal noise", "uniform": "noise in [0, 1)"}
    notes = [meaning, drawn.get(entry.get("noise", ""), ""), ", ".join(entry.get("components", []))]
    return {
        "name": name,
        "dtype": entry["dtype"],
        "shape": " x ".join("?" if x is None else str(x) for x in entry["shape"]) or "one number",
        "range": "" if low is None or high is None else f"{_number(low)} to {_number(high)}",
        "carried from": (state[name] or "itself") if name in state else "",
        "meaning": "; ".join(note for note in notes if note),
    }


def _number(x: float | list[float]) -> str:
    if not isinstance(x, list):
        return f"{x:g}"
    return _number(x[0]) if len(set(x)) == 1 else "(" + ", ".join(f"{y:g}" for y in x) + ")"


def _with_unit(x: Optional[float | list[float]], unit: str = "") -> Optional[str]:
    return None if x is None else f"{_number(x)} {unit}".strip()


def _pairs(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)


def _microseconds(x: float) -> str:
    return f"{x:,.1f} us" if x < 1000 else f"{x:,.0f} us"
