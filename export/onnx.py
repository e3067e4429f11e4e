"""Export to ONNX: made, verified and only then given its name."""

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import onnx
import onnx_ir
import torch
from torch import Tensor

from compiled_rl.export.contract import make_contract, write_contract
from compiled_rl.export.errors import ExportError
from compiled_rl.export.runtime import CONTRACT_KEY
from compiled_rl.export.signature import (
    Example,
    Explicit,
    Target,
    at_rest,
    name_of,
    named_example,
)
from compiled_rl.export.signature import (
    output_names as names_of_outputs,
)
from compiled_rl.export.translations import TRANSLATIONS
from compiled_rl.export.verify import Report, verify

_OPSET = 18


def to_onnx(
    target: Target,
    example: Example,
    path: str | Path,
    dynamic: Sequence[str] = ("batch",),
    *,
    output_names: Optional[Sequence[str]] = None,
    tolerance: Optional[float] = None,
) -> Report:
    """Export a policy, a network or a function to an ONNX file that computes the same.

    The file is verified in ONNX Runtime on fresh inputs at batch 1, 3 and 64 (and at other lengths
    of a second dynamic axis) before it is given its name, and a ``.contract.json`` is written
    beside it. A failure leaves no file, and an older file of that name as it was.

    Args:
        target: a ``Policy`` (its deterministic action), any module, or any function of tensors.
            Bind arguments that are no tensors with ``functools.partial``.
        example: one tensor, several, or tensors by name. Its values tell the kind of what
            verification draws: integers, and floats that are nowhere negative, stay within the
            example's range; other floats are standard normal.
        path: where to write, ending in ``.onnx``; missing folders are made.
        dynamic: the names of the leading axes that may have any size, ``("batch",)`` or
            ``("batch", "time")``; inputs of a lower rank have fewer of them.
        output_names: of the outputs; None: the fields of a named tuple, the keys of a dict,
            ``action`` for a policy, ``output`` for a single tensor.
        tolerance: allowed error, relative to the output's largest magnitude; None: 1e-5, and 1e-11
            in float64, where python numbers in the target must be float64 tensors to stay exact.

    Returns:
        A ``Report``: the path, the size, and what was measured at each size.

    Raises:
        ExportError: the target cannot be exported, or the file does not compute the same.

    Reference: Open Neural Network Exchange, opset 18, onnx.ai/onnx/operators.
    """
    path = _writable(Path(path))
    dynamic = _axes(dynamic)
    named = {
        name: _at_least_two(x, len(dynamic)) for name, x in named_example(target, example).items()
    }
    with _folder_beside(path) as folder:
        made = folder / path.name
        with at_rest(target):
            outputs = names_of_outputs(target, named, output_names)
        with at_rest(target):
            explicit = Explicit(target, list(named))
            model = _translate(explicit, named, outputs, dynamic)
            onnx.save(model, made)
            checks = verify(made, explicit, named, outputs, dynamic, tolerance)
        contract = make_contract(model, target, dynamic, checks)
        onnx.helper.set_model_props(model, {CONTRACT_KEY: json.dumps(contract)})
        onnx.save(model, made)
        write_contract(contract, made, _contract_of(made))
        size = made.stat().st_size
        _contract_of(path).unlink(missing_ok=True)  # never one that is another file's
        os.replace(made, path)
        os.replace(_contract_of(made), _contract_of(path))
    return Report(path, size, checks)


def _writable(path: Path) -> Path:
    if path.suffix != ".onnx" or path.is_dir():
        raise ExportError(f"to_onnx: `path` must be a file that ends in .onnx, got {path}")
    return path


def _axes(dynamic: Sequence[str]) -> tuple[str, ...]:
    if isinstance(dynamic, str) or len(set(dynamic)) != len(dynamic):
        raise ExportError(
            f"to_onnx: `dynamic` must be a sequence of different axis names, got {dynamic!r}"
        )
    return tuple(dynamic)


def _contract_of(path: Path) -> Path:
    return path.with_suffix(".contract.json")


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


def _translate(
    explicit: Explicit,
    example: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Sequence[str],
) -> onnx.ModelProto:
    """The checked model, without traces of where it was made."""
    dims = [torch.export.Dim(name) for name in dynamic]
    shapes = tuple(dict(enumerate(dims[: x.dim()])) for x in example.values())
    with _quiet():
        try:
            program = torch.export.export(
                explicit, tuple(example.values()), dynamic_shapes=(shapes,)
            )
            exported = torch.onnx.export(
                program,
                dynamo=True,
                dynamic_shapes=(shapes,),  # again, for the names of the axes
                input_names=list(example),
                output_names=list(outputs),
                opset_version=_OPSET,
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
            assert exported is not None
            _strip(exported.model)
            model = exported.model_proto
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:
            name = name_of(explicit.target)
            raise ExportError(f"to_onnx: {name} could not be exported: {_why(error)}") from error
    return model


def _why(error: BaseException) -> str:
    """The first words of the error at the root."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__


def _strip(model: Any) -> None:
    """Remove stack traces and source paths, ten times the size of a small graph."""
    for node in onnx_ir.traversal.RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        node.doc_string = None
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()


def _at_least_two(x: Tensor, leading: int) -> Tensor:
    """The example with no dynamic axis of size one, which torch would take for a constant."""
    for axis in range(min(leading, x.dim())):
        if x.shape[axis] == 1:
            x = torch.cat([x, x], axis)
    return x


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks on packages that are not installed and on what is verified."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
