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
    in_eval_mode,
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
    tolerance: float = 1e-5,
) -> Report:
    """Export a policy, a network or a function to an ONNX file that computes the same.

    The file is verified in ONNX Runtime on fresh inputs at batch 1, 3 and 64 (and at other lengths
    of a second dynamic axis) before it is given its name, and a ``.contract.json`` is written
    beside it. A failure leaves no file, and an older file of that name as it was.

    Args:
        target: a ``Policy`` (its deterministic action), any module, or any function of tensors.
            Bind arguments that are no tensors with ``functools.partial``.
        example: one tensor, several, or tensors by name; the values only tell the kind of what
            verification draws: within [0, 1] stays there, positive everywhere stays positive, and
            an integer stays within the example's range.
        path: where to write, ending in ``.onnx``; missing folders are made.
        dynamic: the names of the leading axes that may have any size, ``("batch",)`` or
            ``("batch", "time")``; inputs of a lower rank have fewer of them.
        output_names: of the outputs; None: the fields of a named tuple, the keys of a dict,
            ``action`` for a policy, ``output`` for a single tensor.
        tolerance: allowed error, relative to one plus the expected magnitude.

    Returns:
        A ``Report``: the path, the size, and what was measured at each size.

    Raises:
        ExportError: the target cannot be exported, or the file does not compute the same.

    Reference: Open Neural Network Exchange, opset 18, onnx.ai/onnx/operators.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ExportError(f"to_onnx: `path` must end in .onnx, got {path.name}")
    named = {
        name: _at_least_two(x, len(dynamic)) for name, x in named_example(target, example).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_eval_mode(target), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        outputs = names_of_outputs(target, named, output_names)
        explicit = Explicit(target, list(named))
        made = Path(folder) / path.name
        model = _translate(explicit, named, outputs, dynamic)
        onnx.save(model, made)
        checks = verify(made, explicit, named, outputs, dynamic, tolerance)
        contract = make_contract(model, target, dynamic, checks)
        onnx.helper.set_model_props(model, {CONTRACT_KEY: json.dumps(contract)})
        onnx.save(model, made)
        beside = made.with_suffix(".contract.json")
        write_contract(contract, made, beside)
        size = made.stat().st_size
        os.replace(beside, path.with_suffix(".contract.json"))
        os.replace(made, path)
    return Report(path, size, checks)


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
            _check_pure(program)
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
        except ExportError:
            raise
        except Exception as error:
            name = name_of(explicit.target)
            raise ExportError(f"to_onnx: {name} could not be exported: {_why(error)}") from error
    assert exported is not None
    _strip(exported.model)
    model = exported.model_proto
    onnx.checker.check_model(model, full_check=True)
    return model


def _why(error: BaseException) -> str:
    """The first words of the error at the root."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__


def _check_pure(program: torch.export.ExportedProgram) -> None:
    """Refuse a target that changes a buffer: ONNX would silently drop the change."""
    mutated = program.run_decompositions({}).graph_signature.buffers_to_mutate
    if mutated:
        raise ExportError(
            "to_onnx: the target must not change its buffers, "
            f"got changes of {sorted(set(mutated.values()))}; make state an input and an output"
        )


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
