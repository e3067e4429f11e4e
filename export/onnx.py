"""Export to ONNX, for a runtime without torch."""

from functools import partial
from pathlib import Path
from typing import Any, Optional, Unpack

import onnx
import onnx_ir
import onnxruntime
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.onnx._internal.exporter._errors import DispatchError
from torch.onnx._internal.exporter._fx_passes import decompose_with_registry
from torch.onnx._internal.exporter._registration import ONNXRegistry

from compiled_rl.export.artefact import Form, Translation, make
from compiled_rl.export.axes import Dynamic
from compiled_rl.export.errors import ExportError
from compiled_rl.export.options import Options
from compiled_rl.export.program import export_program, owner_of
from compiled_rl.export.runtime import OnnxModel
from compiled_rl.export.session import CPU
from compiled_rl.export.signature import Example, Target
from compiled_rl.export.simplified import simplified
from compiled_rl.export.subject import Subject
from compiled_rl.export.translations import TRANSLATIONS
from compiled_rl.export.verify import Report


def to_onnx(
    target: Target,
    example: Example,
    path: str | Path,
    dynamic: Dynamic = ("batch",),
    *,
    opset: int = 18,
    **options: Unpack[Options],
) -> Report:
    """Export a policy, a network, a function or a training step to an ONNX file that is the same.

    The file is verified in ONNX Runtime on the example, on zeros, and on fresh inputs at batch 1, 3
    and 64 (and at other lengths of a second dynamic axis, up to 700 if it is ``"time"``) before it
    is given its name, and a ``.contract.json`` is written beside it. A failure leaves no file, and
    an older file of that name as it was.

    Args:
        target: a ``Policy`` (its deterministic action), any module, a TensorDict module, a loss, or
            any function of tensors; bind arguments that are no tensors with ``functools.partial``.
            Or an ``UpdateStep``: parameters, moments and whatever else moves are inputs, and, as
            ``next.`` and the same name, outputs; what only another step on its loss moves is an
            input alone, to be told. Or ``UpdateEpochs``: as many updates as the
            input ``minibatches`` has rows, which are of the batch. ``OnnxTrainer`` runs both.
        example: one tensor, several, or tensors by name. Its values tell the kind of what
            verification draws: integers, and floats that are nowhere negative, stay within the
            example's range; other floats are standard normal.
        path: where to write, ending in ``.onnx``; missing folders are made.
        dynamic: the names of the leading axes that may have any size, ``("batch",)`` or
            ``("batch", "time")``; inputs of a lower rank have fewer of them. Or by input the name
            of each axis, None where it is fixed: ``{"x": ("batch", None), "h": (None, "batch")}``.
        opset: of ONNX, at least 18.
        **options: see ``Options``.

    Returns:
        A ``Report``: the path, the size, and what was measured at each size.

    Raises:
        ExportError: the target cannot be exported, or the file does not compute the same.

    Reference: Open Neural Network Exchange, opset 18, onnx.ai/onnx/operators.
    """
    if not isinstance(opset, int) or not 18 <= opset <= onnx.defs.onnx_opset_version():
        raise ExportError(
            f"to_onnx: `opset` must be from 18 to {onnx.defs.onnx_opset_version()}, got {opset!r}"
        )
    form = _ONNX._replace(translate=partial(_translate, opset=opset))
    return make(form, target, example, path, dynamic, None, options)


class OnnxTensors:
    """An ``OnnxModel`` that takes and returns tensors."""

    def __init__(self, path: Path) -> None:
        self.model = OnnxModel(path, providers=(CPU,))
        self.inputs, self.outputs = self.model.inputs, self.model.outputs

    def program(self, *tensors: Tensor) -> list[Any]:
        """The session alone."""
        arrays = {name: x.numpy() for name, x in zip(self.inputs, tensors, strict=True)}
        return self.model.session.run(None, arrays)

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """The outputs by name."""
        outputs = self.model(**{name: x.numpy() for name, x in tensors.items()})
        return {name: torch.from_numpy(x) for name, x in outputs.items()}


def _translate(subject: Subject, opset: int) -> Translation:
    model = _model(subject, opset)

    def write(path: Path, texts: dict[str, str]) -> None:
        onnx.helper.set_model_props(model, texts)
        onnx.save(model, path)

    versions = {
        "opset": model.opset_import[0].version,
        "ir": model.ir_version,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    return Translation(write, versions)


def _model(subject: Subject, opset: int) -> onnx.ModelProto:
    """The checked model, without traces of where it was made."""
    program = export_program(subject)
    try:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            dynamic_shapes=(subject.axes.dynamic_shapes(),),  # again, for the names of the axes
            input_names=list(subject.example),
            output_names=list(subject.outputs),
            opset_version=opset,
            custom_translation_table=TRANSLATIONS,
            optimize=False,
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        unknown = _without_conversion(program, error)
        if unknown is None:
            raise
        raise unknown from error
    assert exported is not None
    exported.model = simplified(exported.model)
    _strip(exported.model)
    model = exported.model_proto
    onnx.checker.check_model(model, full_check=True)
    return model


def _without_conversion(program: ExportedProgram, error: Exception) -> Optional[ExportError]:
    """The operator that ONNX has not, and the module that calls it; None if that is not why."""
    cause: Optional[BaseException] = error
    while cause is not None and not isinstance(cause, DispatchError):
        cause = cause.__cause__
    if cause is None:
        return None
    decomposed = decompose_with_registry(program, ONNXRegistry.from_torchlib())
    for node in decomposed.graph.nodes:
        if repr(node.target) in str(cause):
            return ExportError(
                f"{owner_of(node)} calls {node.target}, which has no ONNX form; write it in "
                "other operators, or export with to_pt2 or to_aotinductor"
            )
    return None


def _strip(model: Any) -> None:
    """Remove stack traces and source paths, ten times the size of a small graph."""
    for node in onnx_ir.traversal.RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        node.doc_string = None
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()


_ONNX = Form(
    "to_onnx", "onnx", ".onnx", lambda target: False, partial(_translate, opset=18), OnnxTensors
)
