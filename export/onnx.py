"""Export to ONNX, for a runtime without torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import onnx
import onnx_ir
import onnxruntime
import torch
from torch import Tensor

from compiled_rl.export.artefact import Form, Translation, make
from compiled_rl.export.axes import Axes
from compiled_rl.export.contract import Contract
from compiled_rl.export.names import CONTRACT_KEY
from compiled_rl.export.program import export_program
from compiled_rl.export.runtime import OnnxModel
from compiled_rl.export.signature import Example, Explicit, Target
from compiled_rl.export.translations import TRANSLATIONS
from compiled_rl.export.verify import Report

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
    of a second dynamic axis, up to 700 if it is ``"time"``) before it is given its name, and a
    ``.contract.json`` is written beside it. A failure leaves no file, and an older file of that
    name as it was.

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
    return make(_ONNX, target, example, path, dynamic, None, output_names, tolerance)


class _Tensors:
    """An ``OnnxModel`` that takes and returns tensors."""

    def __init__(self, path: Path) -> None:
        self.model = OnnxModel(path)
        self.inputs, self.outputs = self.model.inputs, self.model.outputs

    def program(self, *tensors: Tensor) -> list[Any]:
        arrays = {name: x.numpy() for name, x in zip(self.inputs, tensors, strict=True)}
        return self.model.session.run(None, arrays)

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        outputs = self.model(**{name: x.numpy() for name, x in tensors.items()})
        return {name: torch.from_numpy(x) for name, x in outputs.items()}


def _translate(
    explicit: Explicit, example: dict[str, Tensor], outputs: Sequence[str], axes: Axes
) -> Translation:
    model = _model(explicit, example, outputs, axes)

    def write(path: Path, contract: Contract) -> None:
        onnx.helper.set_model_props(model, {CONTRACT_KEY: json.dumps(contract)})
        onnx.save(model, path)

    versions = {
        "opset": model.opset_import[0].version,
        "ir": model.ir_version,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    return Translation(write, versions)


def _model(
    explicit: Explicit, example: dict[str, Tensor], outputs: Sequence[str], axes: Axes
) -> onnx.ModelProto:
    """The checked model, without traces of where it was made."""
    exported = torch.onnx.export(
        export_program(explicit, example, axes),
        dynamo=True,
        dynamic_shapes=(axes.dynamic_shapes(example),),  # again, for the names of the axes
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
    return model


def _strip(model: Any) -> None:
    """Remove stack traces and source paths, ten times the size of a small graph."""
    for node in onnx_ir.traversal.RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        node.doc_string = None
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()


_ONNX = Form("to_onnx", "onnx", ".onnx", lambda target: False, _translate, _Tensors)
