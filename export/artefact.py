"""How every file comes into being: translated, written, verified, and only then named."""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Optional

from torch import Tensor

from compiled_rl.export.axes import Axes, check_axes, check_example
from compiled_rl.export.contract import Contract, make_contract, verified, write_contract
from compiled_rl.export.errors import ExportError
from compiled_rl.export.signature import (
    Example,
    Explicit,
    Target,
    at_rest,
    name_of,
    named_example,
    output_names,
)
from compiled_rl.export.verify import Model, Report, draw_trials, try_eager, verify, verify_bound


class Translation(NamedTuple):
    """A target in another form: what writes it to a file, and the versions that it depends on."""

    write: Callable[[Path, Contract], None]
    versions: dict[str, Any]


class Form(NamedTuple):
    """What is different from one kind of file to the next."""

    function: str  # that the user called, for the error's sentence
    name: str
    suffix: str
    bounded: Callable[[Target], bool]  # whether a dynamic time needs a bound
    translate: Callable[[Explicit, dict[str, Tensor], Sequence[str], Axes], Translation]
    load: Callable[[Path], Model]


def make(
    form: Form,
    target: Target,
    example: Example,
    path: str | Path,
    dynamic: Sequence[str],
    max_time: Optional[int],
    outputs: Optional[Sequence[str]],
    tolerance: Optional[float],
) -> Report:
    """A file of this form at ``path``, with its contract beside it; all or nothing.

    Args and raises: as ``to_pt2``, for one of many.
    """
    with _speaking_as(form.function):
        path = _writable(Path(path), form.suffix)
        axes = check_axes(dynamic, max_time, form.bounded(target))
        named = check_example(named_example(target, example), axes)
        with at_rest(target):
            names = output_names(target, named, outputs)
        with _folder_beside(path) as folder:
            made = folder / path.name
            with at_rest(target):
                contract, report = _make(form, target, named, names, axes, made, tolerance)
            write_contract(contract, made, contract_of(made))
            contract_of(path).unlink(missing_ok=True)  # never one that is another file's
            os.replace(made, path)
            os.replace(contract_of(made), contract_of(path))
        return report._replace(path=path)


def contract_of(path: Path) -> Path:
    """Where the contract of an artefact is: ``gae.onnx`` and ``gae.pt2`` may be side by side."""
    return path.with_name(path.name + ".contract.json")


def _make(
    form: Form,
    target: Target,
    example: dict[str, Tensor],
    outputs: Sequence[str],
    axes: Axes,
    made: Path,
    tolerance: Optional[float],
) -> tuple[Contract, Report]:
    """The file, verified as it is loaded, and written again with what was measured."""
    explicit = Explicit(target, list(example))
    with _translating(target):
        itself = try_eager(explicit, example, outputs, {"the example": 1})
        trials = draw_trials(explicit, example, outputs, axes)
        translation = form.translate(explicit, example, outputs, axes)
        contract = make_contract(form.name, target, axes, trials, translation.versions)
        translation.write(made, contract)
        model = form.load(made)
    checks = verify(model, [itself, *trials], tolerance)[1:]
    verify_bound(model, example, axes)
    contract = verified(contract, checks)
    with _translating(target):
        translation.write(made, contract)
    return contract, Report(made, made.stat().st_size, checks)


def _writable(path: Path, suffix: str) -> Path:
    if path.suffix != suffix or path.is_dir():
        raise ExportError(f"`path` must be a file that ends in {suffix}, got {path}")
    return path


@contextmanager
def _speaking_as(function: str) -> Iterator[None]:
    """Every refusal begins with the function that the user called."""
    try:
        yield
    except ExportError as error:
        raise ExportError(f"{function}: {error}") from error.__cause__


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder on the path's own disk; a failure leaves no folder that was not there."""
    missing = [folder for folder in (path.parent, *path.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            yield Path(folder)
    except BaseException:
        for made in missing:
            if made.exists() and not any(made.iterdir()):
                made.rmdir()
        raise


@contextmanager
def _translating(target: Target) -> Iterator[None]:
    """Without remarks on packages that are not installed and on what is verified."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ExportError as error:  # what walks over a graph appends where it was
        raise ExportError(str(error).partition("\n")[0]) from error
    except Exception as error:
        raise ExportError(f"{name_of(target)} could not be exported: {_why(error)}") from error
    finally:
        logger.setLevel(level)


def _why(error: BaseException) -> str:
    """The first words of the error at the root."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
