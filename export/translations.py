# mypy: ignore-errors
# onnxscript reads these functions as a language of its own.
"""Operators that ONNX has not: the recurrence over time is a ``Scan``."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, Union

import torch
from onnxscript import DOUBLE, FLOAT, graph, script
from onnxscript import opset18 as op

TFloat = TypeVar("TFloat", bound=Union[FLOAT, DOUBLE])


@script()
def _scan(x: TFloat, decay: TFloat, into: Sequence[int], out_of: Sequence[int]) -> TFloat:
    """The recurrence over axis 0; a direction of 1 runs from the end."""
    start = op.CastLike(op.ConstantOfShape(op.Shape(x, start=1)), x)

    @graph()
    def step(y, x_t, decay_t):
        y_t = op.Add(x_t, op.Mul(decay_t, y))
        out_t = op.Identity(y_t)
        return y_t, out_t

    _last, ys = op.Scan(
        start,
        x,
        decay,
        body=step,
        num_scan_inputs=2,
        scan_input_directions=into,
        scan_output_directions=out_of,
    )
    return ys


def _linear_recurrence(x: Any, decay: Any, time_dim: int, reverse: bool) -> Any:
    """The operator as a ``Scan`` over axis 0, with the time axis brought there and back."""
    direction = int(reverse)
    directions = {"into": [direction, direction], "out_of": [direction]}
    rank = len(x.shape)
    axis = time_dim % rank
    if axis == 0:
        return _scan(x, decay, **directions)
    there = [axis, *(i for i in range(rank) if i != axis)]
    back = [there.index(i) for i in range(rank)]
    x, decay = op.Transpose(x, perm=there), op.Transpose(decay, perm=there)
    return op.Transpose(_scan(x, decay, **directions), perm=back)


@script()
def _erfinv(y: TFloat) -> TFloat:
    """Winitzki's formula, then Halley's method on ``Erf``, which gains all of float32's digits."""
    a = op.CastLike(op.Constant(value_float=0.147), y)
    half = op.CastLike(op.Constant(value_float=0.5), y)
    one = op.CastLike(op.Constant(value_float=1.0), y)
    pi = op.CastLike(op.Constant(value_float=3.14159265), y)
    slope = op.CastLike(op.Constant(value_float=1.12837917), y)
    log = op.Log((one - y) * (one + y))
    t = one / (half * pi * a) + half * log
    x = op.Sign(y) * op.Sqrt(op.Sqrt(t * t - log / a) - t)
    d = op.Erf(x) - y
    x = x - d / (slope * op.Exp(-x * x) + x * d)
    d = op.Erf(x) - y
    return x - d / (slope * op.Exp(-x * x) + x * d)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.compiled_rl.linear_recurrence.default: _linear_recurrence,
    torch.ops.aten.erfinv.default: _erfinv,
}
