"""How every file comes into being: translated, written, verified, and only then named."""

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from compiled_rl.export.axes import Dynamic
from compiled_rl.export.contract import (
    as_json,
    make_contract,
    verified,
    write_contract,
)
from compiled_rl.export.errors import ExportError
from compiled_rl.export.names import CONTRACT_KEY, STATE_KEY, contract_of, text_of
from compiled_rl.export.options import Deployment, Options, check_options
from compiled_rl.export.reasons import reason
from compiled_rl.export.schema import Contract, Format
from compiled_rl.export.signature import Example, Target, at_rest
from compiled_rl.export.subject import Subject, subject_of
from compiled_rl.export.trials import draw_trials
from compiled_rl.export.verify import Model, Report, verify, verify_bound


class Translation(NamedTuple):
    """A target in another form: what writes it to a file, and the versions that it depends on.

    ``write`` is given texts by name, which the file is to hold as well.
    """

    write: Callable[[Path, dict[str, str]], None]
    versions: dict[str, Any]


class Form(NamedTuple):
    """What is different from one kind of file to the next."""

    function: str  # that the user called, for the error's sentence
    name: Format
    suffix: str
    bounded: Callable[[Target], bool]  # whether a dynamic time needs a bound
    translate: Callable[[Subject], Translation]
    load: Callable[[Path], Model]
    fitted: Callable[[Subject], Subject] = lambda subject: subject  # to what this kind asks of it


def make(
    form: Form,
    target: Target,
    example: Example,
    path: str | Path,
    dynamic: Dynamic,
    max_time: Optional[int],
    options: Options,
) -> Report:
    """A file of this form at ``path``, with its contract beside it; all or nothing.

    Args and raises: as ``to_pt2``, for one of many.
    """
    with speaking_as(form.function), torch.random.fork_rng(devices=[]):
        check_options(options)
        _check_given(target, example, path)
        path = _writable(Path(path), form.suffix)
        bounded = form.bounded(target)
        with at_rest(target):
            subject = subject_of(target, example, dynamic, max_time, bounded, options)
        subject = form.fitted(subject)
        with _folder_beside(path) as folder:
            made = folder / path.name
            with at_rest(target):
                contract, report = _make(form, subject, made, options)
            write_contract(contract, made, contract_of(made))
            contract_of(path).unlink(missing_ok=True)  # never one that is another file's
            os.replace(made, path)
            os.replace(contract_of(made), contract_of(path))
        return report._replace(path=path)


def _make(form: Form, subject: Subject, made: Path, options: Options) -> tuple[Contract, Report]:
    """The file, verified as it is loaded, and written again with what was measured."""
    deployment = options.get("deployment", Deployment())
    with _translating(subject.target):
        trials = draw_trials(subject)
        translation = form.translate(subject)
        contract = make_contract(form.name, subject, deployment, trials, translation.versions)
        translation.write(made, _texts(contract, subject))
        model = form.load(made)
    checks = verify(model, subject, trials, options.get("tolerance"))
    verify_bound(model, subject)
    contract = verified(contract, checks)
    with _translating(subject.target):
        translation.write(made, _texts(contract, subject))
    return contract, Report(made, made.stat().st_size, checks)


def _texts(contract: Contract, subject: Subject) -> dict[str, str]:
    texts = {CONTRACT_KEY: json.dumps(as_json(contract))}
    if subject.held:
        texts[STATE_KEY] = text_of({name: x.cpu().numpy() for name, x in subject.held.items()})
    return texts


def _check_given(target: Any, example: Any, path: Any) -> None:
    """Refuse what is of no kind that can be exported, or written to."""
    if not callable(target):
        raise ExportError(f"`target` must be a function or a module, got a {type(target).__name__}")
    if isinstance(example, str) or not isinstance(example, Tensor | Sequence | Mapping):
        raise ExportError(f"`example` must hold tensors, got a {type(example).__name__}")
    if not isinstance(path, str | os.PathLike):
        raise ExportError(f"`path` must be the name of a file, got a {type(path).__name__}")


def _writable(path: Path, suffix: str) -> Path:
    if path.suffix != suffix or path.is_dir():
        raise ExportError(f"`path` must be a file that ends in {suffix}, got {path}")
    return path


@contextmanager
def speaking_as(function: str) -> Iterator[None]:
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
        raise ExportError(reason(target, error)) from error
    finally:
        logger.setLevel(level)
