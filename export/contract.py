"""What travels with an artefact: its names, shapes, versions, and what verification measured."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from compiled_rl.export.signature import modules_of, name_of
from compiled_rl.export.verify import Check
from compiled_rl.modules import ActionRescaler, ObservationNormalizer

Contract = dict[str, Any]


def make_contract(
    model: onnx.ModelProto, target: Any, dynamic: Sequence[str], checks: Sequence[Check]
) -> Contract:
    """The contract of a verified model; plain JSON values only."""
    return {
        "format": "onnx",
        "target": name_of(target),
        "inputs": [_tensor(x) for x in model.graph.input],
        "outputs": [_tensor(x) for x in model.graph.output],
        "dynamic": list(dynamic),
        **_inside(target),
        "versions": {
            "opset": model.opset_import[0].version,
            "ir": model.ir_version,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "verification": [{**check.sizes, "max_error": check.max_error} for check in checks],
    }


def write_contract(contract: Mapping[str, Any], artefact: Path, path: Path) -> None:
    """Write the contract of ``artefact`` to ``path``, with the artefact's SHA-256."""
    digest = hashlib.sha256(artefact.read_bytes()).hexdigest()
    path.write_text(json.dumps({**contract, "sha256": digest}, indent=2) + "\n")


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)),
        "shape": [dim.dim_param or dim.dim_value for dim in kind.shape.dim],
    }


def _inside(target: Any) -> dict[str, Any]:
    """What the graph holds already, for a reader: the normaliser and the action's range."""
    found: dict[str, Any] = {}
    for module in modules_of(target):
        if isinstance(module, ObservationNormalizer):
            found["normalizer"] = {"mean": module.mean.tolist(), "var": module.var.tolist()}
        if isinstance(module, ActionRescaler):
            found["action_range"] = {"low": module.low.tolist(), "high": module.high.tolist()}
    return found
