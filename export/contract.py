"""What travels with an artefact: its names, shapes, versions, and what verification measured."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor

from compiled_rl.export.axes import Axes
from compiled_rl.export.signature import modules_of, name_of
from compiled_rl.export.verify import Check, Trial, dtype_name
from compiled_rl.modules import ActionRescaler, ObservationNormalizer

Contract = dict[str, Any]


def make_contract(
    form: str, target: Any, axes: Axes, trials: Sequence[Trial], versions: Mapping[str, Any]
) -> Contract:
    """The contract of an artefact that is not yet verified; plain JSON values only.

    An axis is a size, the name of the axis that it follows, or null where it is neither.
    """
    first = trials[0]
    return {
        "format": form,
        "target": name_of(target),
        "inputs": [_tensor(name, x, axes.named_shape(x)) for name, x in first.inputs.items()],
        "outputs": [
            _tensor(name, x, _followed(name, x, trials)) for name, x in first.expected.items()
        ],
        "dynamic": list(axes.names),
        "max": axes.limits,
        **_inside(target),
        "versions": {"torch": torch.__version__, **versions},
    }


def verified(contract: Contract, checks: Sequence[Check]) -> Contract:
    """The contract with what was measured."""
    rows = [{**check.sizes, "max_error": check.max_error} for check in checks]
    return {**contract, "verification": rows}


def write_contract(contract: Mapping[str, Any], artefact: Path, path: Path) -> None:
    """Write the contract of ``artefact`` to ``path``, with the artefact's SHA-256."""
    digest = hashlib.sha256(artefact.read_bytes()).hexdigest()
    path.write_text(json.dumps({**contract, "sha256": digest}, indent=2) + "\n")


def _tensor(name: str, x: Tensor, shape: Sequence[int | str | None]) -> dict[str, Any]:
    return {"name": name, "dtype": dtype_name(x), "shape": list(shape)}


def _followed(name: str, x: Tensor, trials: Sequence[Trial]) -> list[int | str | None]:
    """The shape of an output, as the sizes that were tried tell."""
    shapes = zip(*[trial.expected[name].shape for trial in trials], strict=True)
    return [_axis(list(sizes), [trial.sizes for trial in trials]) for sizes in shapes]


def _axis(seen: list[int], tried: Sequence[Mapping[str, int]]) -> Optional[int | str]:
    for name in tried[0]:
        if [sizes[name] for sizes in tried] == seen:
            return name
    return seen[0] if seen == seen[:1] * len(seen) else None


def _inside(target: Any) -> dict[str, Any]:
    """What the graph holds already, for a reader: the normaliser and the action's range."""
    found: dict[str, Any] = {}
    for module in modules_of(target):
        if isinstance(module, ObservationNormalizer):
            found["normalizer"] = {"mean": module.mean.tolist(), "var": module.var.tolist()}
        if isinstance(module, ActionRescaler):
            found["action_range"] = {"low": module.low.tolist(), "high": module.high.tolist()}
    return found
