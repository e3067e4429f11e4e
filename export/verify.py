"""Prove that a file computes what eager computes, on inputs that it has not seen."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, cycle
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Generator, Tensor

from compiled_rl.export.errors import ExportError
from compiled_rl.export.runtime import OnnxModel

# The first dynamic axis takes the first row, batch 1, 3 and 64; those after it take turns.
_SIZES = ((1, 3, 64), (23, 1, 7), (5, 2, 1))


class Check(NamedTuple):
    """One size at which the file was compared: the largest absolute error, the median latency."""

    sizes: dict[str, int]
    max_error: float
    latency_us: float


class Report(NamedTuple):
    """What was measured of an artefact before it was given its name."""

    path: Path
    bytes: int
    checks: list[Check]

    @property
    def max_error(self) -> float:
        """The largest absolute error at any size."""
        return max(check.max_error for check in self.checks)


def verify(
    path: Path,
    eager: Callable[..., tuple[Tensor, ...]],
    example: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Sequence[str],
    tolerance: Optional[float],
) -> list[Check]:
    """Compare every output of the file with eager's on fresh inputs of several sizes.

    Args:
        path: of the ONNX file.
        eager: what it must compute, positional tensors in the order of ``example``.
        example: inputs like those that it will see.
        outputs: names, in the order of ``eager``.
        dynamic: names of the leading axes that may change.
        tolerance: allowed error, relative to the output's largest magnitude; None: by its dtype.

    Raises:
        ExportError: the file's names are others, or an output differs.
    """
    model = OnnxModel(path)
    if model.inputs != list(example) or model.outputs != list(outputs):
        raise ExportError(
            f"to_onnx: the file must have the inputs {list(example)} and outputs {list(outputs)}, "
            f"got {model.inputs} and {model.outputs}"
        )
    generator = Generator().manual_seed(0)
    _check(model, eager, dict(example), {"the example": 1}, tolerance)
    return [
        _check(model, eager, _fresh_inputs(example, sizes, generator), sizes, tolerance)
        for sizes in _sizes(dynamic)
    ]


def _check(
    model: OnnxModel,
    eager: Callable[..., tuple[Tensor, ...]],
    inputs: dict[str, Tensor],
    sizes: dict[str, int],
    tolerance: Optional[float],
) -> Check:
    with torch.no_grad():
        expected = eager(*inputs.values())
    arrays = {name: x.numpy() for name, x in inputs.items()}
    got = model(**arrays)
    errors = [
        _error(name, got[name], x.numpy(), sizes, tolerance)
        for name, x in zip(model.outputs, expected, strict=True)
    ]
    return Check(sizes, max(errors), _latency_us(lambda: model.session.run(None, arrays)))


def _error(
    name: str,
    got: np.ndarray,
    expected: np.ndarray,
    sizes: dict[str, int],
    tolerance: Optional[float],
) -> float:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise ExportError(
            f"to_onnx: the output `{name}` at {sizes} must be {expected.dtype} of shape "
            f"{list(expected.shape)}, got {got.dtype} of shape {list(got.shape)}"
        )
    if expected.dtype.kind != "f":
        allowed = magnitude = 0.0
    else:
        allowed = tolerance or (1e-11 if expected.dtype == np.float64 else 1e-5)
        magnitude = _largest(expected, np.zeros_like(expected))
        if expected.size and not np.isfinite(expected).any():
            raise ExportError(
                f"to_onnx: the output `{name}` at {sizes} must have a finite value to be verified, "
                "got none; give an example of the kind of values that the target takes"
            )
    if not np.allclose(got, expected, rtol=allowed, atol=allowed * magnitude, equal_nan=True):
        raise ExportError(
            f"to_onnx: the output `{name}` at {sizes} must equal eager's to {allowed:g}, "
            f"got an error of {_largest(got, expected):.3g} at a magnitude of {magnitude:.3g}"
        )
    return _largest(got, expected)


def _largest(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference of what is finite in both."""
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(got) & np.isfinite(expected)
    return float(np.abs(got[finite] - expected[finite]).max(initial=0.0))


def _latency_us(run: Callable[[], object], calls: int = 50) -> float:
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times) * 1e6)


def _sizes(dynamic: Sequence[str]) -> list[dict[str, int]]:
    columns = dict(zip(dynamic, chain(_SIZES[:1], cycle(_SIZES[1:])), strict=False))
    return [{name: sizes[k] for name, sizes in columns.items()} for k in range(len(_SIZES))]


def _fresh_inputs(
    example: Mapping[str, Tensor], sizes: dict[str, int], generator: Generator
) -> dict[str, Tensor]:
    new = list(sizes.values())
    return {
        name: _fresh(x, [*new[: x.dim()], *x.shape[len(new) :]], generator)
        for name, x in example.items()
    }


def _fresh(example: Tensor, shape: Sequence[int], generator: Generator) -> Tensor:
    """Random values of the example's kind: what is not negative stays within its range."""
    if example.dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if not example.is_floating_point():
        start, stop = int(example.min()), int(example.max()) + 1
        return torch.randint(start, stop, shape, generator=generator, dtype=example.dtype)
    low, high = float(example.min()), float(example.max())
    if 0 <= low < high:
        uniform = torch.rand(shape, generator=generator, dtype=example.dtype)
        return low + uniform * (high - low)
    normal = torch.randn(shape, generator=generator, dtype=example.dtype)
    return normal.abs() + 0.1 if low > 0 else normal
