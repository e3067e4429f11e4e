"""The command ``compiled-rl``: export, inspect, verify, time and play files, and the demo.

Torch is imported by the commands that need it alone: playing a file does without.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from enum import StrEnum, auto
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

from compiled_rl.export.errors import CorruptedError, ExportError, InstallationError
from compiled_rl.extras import what_is_missing

try:
    import typer
    from rich.console import Console
    from typer.core import TyperGroup

    from compiled_rl import tables
    from compiled_rl.export.stored import read_contract, read_graph
    from compiled_rl.export.vouched import contract_beside
except ModuleNotFoundError as missing:
    raise SystemExit(what_is_missing("compiled-rl", missing)) from None

if TYPE_CHECKING:
    from compiled_rl.export import Report
    from compiled_rl.export.recipe import Recipe

FAILED, USAGE, NEWER = 1, 2, 3


class Form(StrEnum):
    """What can be exported to."""

    onnx = auto()
    pt2 = auto()
    aoti = auto()
    torchscript = auto()


# The function of a form, and what its files end in; two forms end in `.pt2`.
_FORMS = {
    Form.onnx: ("to_onnx", ".onnx"),
    Form.pt2: ("to_pt2", ".pt2"),
    Form.aoti: ("to_aotinductor", ".aoti.pt2"),
    Form.torchscript: ("to_torchscript", ".pt"),
}

_ONNX_ALONE, _BATCHES = [Form.onnx], [1, 64, 4096]

output, errors = Console(), Console(stderr=True)


class _Commands(TyperGroup):
    """The commands, of which each refusal is one sentence on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Run one."""
        try:
            return super().invoke(ctx)
        except (ExportError, CorruptedError) as error:
            _refuse(str(error), FAILED)
        except ModuleNotFoundError as error:
            _refuse(what_is_missing(f"`{ctx.invoked_subcommand}`", error), USAGE)
        except (OSError, ValueError, InstallationError) as error:
            _refuse(str(error), USAGE)
        except MemoryError as error:
            _refuse(f"there is not enough memory: {error}", USAGE)


app = typer.Typer(
    cls=_Commands,
    name="compiled-rl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 fine; 1 a file could not be made, does not compute the same, or is "
    "corrupted; 2 a wrong call; 3 a newer file is in the way; 130 interrupted.",
)

Artefact = Annotated[Path, typer.Argument(metavar="ARTEFACT", show_default=False)]
Against = Annotated[str, typer.Option(metavar="FILE.py:make", help="What it was made of.")]
Seed = Annotated[int, typer.Option(min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"compiled-rl {version('compiled_rl')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """Ship what was trained: files that prove themselves."""


@app.command()
def export(
    recipe: Annotated[str, typer.Argument(metavar="FILE.py:make", show_default=False)],
    to: Annotated[
        list[Form],
        typer.Option(metavar="FORM", help="onnx, pt2, aoti or torchscript; again for several."),
    ] = _ONNX_ALONE,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")] = Path("."),
    name: Annotated[
        Optional[str], typer.Option(help="Of the files; else of the function, or of FILE.")
    ] = None,
    dynamic: Annotated[
        Optional[str], typer.Option(metavar="AXES", help="Leading axes of any size: batch,time.")
    ] = None,
    max_time: Annotated[Optional[int], typer.Option(min=1, help="The longest time.")] = None,
    opset: Annotated[int, typer.Option(help="Of ONNX.")] = 18,
    force: Annotated[bool, typer.Option("--force", help="Replace what is newer, too.")] = False,
    as_json: Json = False,
) -> None:
    """Export what a function of yours returns, verified.

    `make()` returns `(target, example)`, or `(target, example, options)`, a dict with keywords of
    `to_onnx`, and `max_time`. A file that is newer than FILE.py stays, unless you say `--force`.
    """
    file, function = _split(recipe)
    name = name or (file.stem if function == "make" else function)
    paths = {form: out / f"{name}{_FORMS[form][1]}" for form in to}
    if not force:
        _keep_newer(file, paths.values())
    axes = None if dynamic is None else tuple(dynamic.split(","))
    given: Any = {"dynamic": axes, "max_time": max_time}
    with _working(f"Loading {file.name}"):
        made = _read(recipe)
        made = made._replace(**{k: x for k, x in given.items() if x is not None})
    reports, failures = _export_all(made, paths, opset)
    if as_json:
        _print_json({"artefacts": [_report_json(x) for x in reports], "failures": failures})
    elif reports:
        output.print(tables.checks_table("Artefacts, in their runtimes against eager", reports))
    for failure in failures:
        _complain(failure)
    if failures:
        raise typer.Exit(FAILED)


def _export_all(
    recipe: "Recipe", paths: Mapping[Form, Path], opset: int
) -> tuple[list["Report"], list[str]]:
    """What was made, and a sentence on each that could not be."""
    reports, failures = [], []
    for form, path in paths.items():
        try:
            with _working(f"Exporting {path.name}"):
                reports.append(_export(recipe, form, path, opset))
        except ExportError as error:
            failures.append(str(error))
    return reports, failures


def _export(recipe: "Recipe", form: Form, path: Path, opset: int) -> "Report":
    import compiled_rl.export

    own: Any = {"opset": opset} if form is Form.onnx else {"max_time": recipe.max_time}
    to = getattr(compiled_rl.export, _FORMS[form][0])
    report: Report = to(
        recipe.target, recipe.example, path, recipe.dynamic, **own, **recipe.options
    )
    return report


def _keep_newer(file: Path, paths: Any) -> None:
    if not file.is_file():
        return
    for path in paths:
        if path.exists() and path.stat().st_mtime > file.stat().st_mtime:
            _refuse(f"{path} is newer than {file}; replace it with --force", NEWER)


@app.command()
def inspect(artefact: Artefact, as_json: Json = False) -> None:
    """Show what a file promises and holds, and whether it is whole."""
    _need_whole(artefact)
    with _working(f"Reading {artefact.name}"):
        contract = read_contract("compiled-rl", artefact)
        graph = read_graph(artefact, contract["format"])
    size, whole = artefact.stat().st_size, contract_beside(artefact) is not None
    if as_json:
        about = {"path": str(artefact), "bytes": size, "sha256": "matches" if whole else None}
        inside = {**graph._asdict(), "nodes": graph.nodes}
        _print_json({**about, "contract": contract, "graph": inside})
        return
    facts = {
        "file": f"{artefact.name}, {contract['format']}, {tables.size_text(size)}",
        "SHA-256": "matches the contract beside it" if whole else "unknown: no contract beside it",
        **tables.graph_facts(graph),
        **tables.contract_facts(contract),
    }
    output.print()
    output.print(tables.facts_table(facts))
    output.print()
    output.print(tables.entries_table("Inputs", contract["inputs"], contract["state"]))
    output.print(tables.entries_table("Outputs", contract["outputs"], {}))
    output.print(tables.verification_table(contract.get("verification", [])))


@app.command()
def verify(artefact: Artefact, against: Against, as_json: Json = False) -> None:
    """Compare a file with eager again, on fresh inputs."""
    _need_whole(artefact)
    with _working(f"Comparing {artefact.name} with eager"):
        from compiled_rl.export.again import verify_artefact

        recipe = _read(against)
        report = verify_artefact(artefact, recipe.target, recipe.example, **recipe.options)
    if as_json:
        _print_json(_report_json(report))
    else:
        output.print(tables.checks_table("In its runtime against eager, on fresh inputs", [report]))


@app.command()
def bench(
    artefact: Artefact,
    batch: Annotated[list[int], typer.Option(min=1, help="Rows; again for several.")] = _BATCHES,
    length: Annotated[int, typer.Option(min=1, help="Of every other axis of any size.")] = 16,
    threads: Annotated[int, typer.Option(min=1, help="That a call may use.")] = 1,
    against: Annotated[
        Optional[str], typer.Option(metavar="FILE.py:make", help="Time eager, too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time a call: the median, and what one in a hundred exceeds."""
    from compiled_rl.export.latency import time_artefact

    _need_whole(artefact)
    with _working(f"Timing {artefact.name}"):
        eager = against and _eager(artefact, against)
        rows = time_artefact(artefact, batch, length, threads, eager or None)
    if as_json:
        told = [row._asdict() for row in rows]
        _print_json({"path": str(artefact), "threads": threads, "rows": told})
    else:
        counted = "1 thread" if threads == 1 else f"{threads} threads"
        output.print(tables.latency_table(f"A call of {artefact.name}, {counted}", rows))


def _eager(artefact: Path, against: str) -> Any:
    """What the file was made of, as a module of positional tensors."""
    from compiled_rl.export.again import subject_as
    from compiled_rl.export.signature import modules_of

    recipe = _read(against)
    for module in modules_of(recipe.target):
        module.eval()
    contract = read_contract("compiled-rl", artefact)
    return subject_as(contract, recipe.target, recipe.example, recipe.options).module


@app.command()
def play(
    artefact: Artefact,
    env: Annotated[str, typer.Option(metavar="ID", help="As Gymnasium knows it.")],
    episodes: Annotated[int, typer.Option(min=1)] = 20,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Play episodes with ONNX Runtime alone: torch is not imported."""
    import gymnasium

    from compiled_rl.examples.play import play as played

    _need_whole(artefact)
    try:
        with _working(f"Playing {env}"):
            returns = played(artefact, env, episodes, seed)
    except gymnasium.error.Error as error:
        raise ValueError(f"{env} could not be made: {error}") from error
    mean = sum(returns) / len(returns)
    if as_json:
        _print_json({"env": env, "seed": seed, "mean_return": mean, "returns": returns})
    else:
        output.print(f"mean return {mean:.1f} of {episodes} episodes of {env}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR")] = Path("runs/demo"),
    steps: Annotated[int, typer.Option(min=1)] = 100_000,
    seed: Seed = 0,
    compile: bool = True,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from a checkpoint.")] = False,
) -> None:
    """Train CartPole, export it, prove the files, and play."""
    from compiled_rl.examples.demo import main as show

    show(out, steps, seed, compile, resume)


def main() -> None:
    """Run the command line."""
    app()


def _split(recipe: str) -> tuple[Path, str]:
    file, colon, function = recipe.rpartition(":")
    if not colon or not function.isidentifier():
        raise ValueError(f"the recipe must be FILE.py:make, got {recipe}")
    return Path(file), function


def _read(recipe: str) -> "Recipe":
    file, function = _split(recipe)
    _need(file)
    from compiled_rl.export.recipe import read_recipe

    return read_recipe(file, function)


def _need(file: Path) -> None:
    """Before torch is imported, which takes a while."""
    if not file.is_file():
        raise FileNotFoundError(f"there must be a file {file}, got none")


def _need_whole(artefact: Path) -> None:
    """Before its runtime is imported, too."""
    _need(artefact)
    contract_beside(artefact)


@contextmanager
def _working(on: str) -> Iterator[None]:
    """A spinner where there is a terminal; what the user's code prints goes to stderr."""
    with redirect_stdout(sys.stderr), errors.status(f"{on} …"):
        yield


def _report_json(report: "Report") -> dict[str, Any]:
    checks = [check._asdict() for check in report.checks]
    return {"path": str(report.path), "bytes": report.bytes, "checks": checks}


def _print_json(x: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(x, indent=2))


def _complain(sentence: str) -> None:
    typer.secho(f"compiled-rl: {' '.join(sentence.split())}", fg="red", err=True)


def _refuse(sentence: str, code: int) -> NoReturn:
    _complain(sentence)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
