# mypy: ignore-errors
# onnxscript reads these functions as a language of its own.
"""Operators that ONNX has not: the recurrence over time is a ``Scan``."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, Union

import torch
from onnxscript import BOOL, DOUBLE, FLOAT, graph, script
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


# Giles 2012, Approximating the erfinv function, table 5: exact to float32's last digits.
_CENTRE = [2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087]
_CENTRE += [-0.00125372503, -0.00417768164, 0.246640727, 1.50140941]
_TAIL = [-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773]
_TAIL += [-0.0076224613, 0.00943887047, 1.00167406, 2.83297682]


def _erfinv(y: Any) -> Any:
    """A polynomial in the middle and another one in the tails, where ``Erf`` has no digits left."""

    def polynomial(coefficients: Sequence[float], x: Any) -> Any:
        total = _like(y, coefficients[0])
        for coefficient in coefficients[1:]:
            total = op.Add(op.Mul(total, x), _like(y, coefficient))
        return total

    one, five = _like(y, 1.0), _like(y, 5.0)
    w = op.Neg(op.Log(op.Mul(op.Sub(one, y), op.Add(one, y))))
    centre = polynomial(_CENTRE, op.Sub(w, _like(y, 2.5)))
    tail = polynomial(_TAIL, op.Sub(op.Sqrt(op.Max(w, five)), _like(y, 3.0)))
    return op.Mul(y, op.Where(op.Less(w, five), centre, tail))


def _where(condition: Any, x: Any, other: Any) -> Any:
    """ONNX Runtime selects no flags."""
    if x.dtype != BOOL.dtype or other.dtype != BOOL.dtype:
        return op.Where(condition, x, other)
    return op.Or(op.And(condition, x), op.And(op.Not(condition), other))


def _lerp(start: Any, end: Any, weight: float) -> Any:
    """As torch computes it; its own translation computes both ends, and chooses."""
    near = weight < 0.5
    share = _like(start, weight if near else 1 - weight)
    step = op.Mul(op.Sub(end, start), share)
    return op.Add(start, step) if near else op.Sub(end, step)


def _expm1(x: Any) -> Any:
    """Near zero by ``sinh``, where ``exp(x) - 1`` has no digits left."""
    one, half = _like(x, 1.0), _like(x, 0.5)
    sinh = op.Sinh(op.Mul(half, x))
    near = op.Mul(op.Add(sinh, sinh), op.Exp(op.Mul(half, x)))
    return op.Where(op.Less(op.Abs(x), half), near, op.Sub(op.Exp(x), one))


def _log1p(x: Any) -> Any:
    """Near zero by ``atanh``, where ``1 + x`` has rounded ``x`` away."""
    atanh = op.Atanh(op.Div(x, op.Add(x, _like(x, 2.0))))
    far = op.Log(op.Add(x, _like(x, 1.0)))
    return op.Where(op.Less(op.Abs(x), _like(x, 0.5)), op.Add(atanh, atanh), far)


def _like(x: Any, value: float) -> Any:
    return op.CastLike(op.Constant(value_float=value), x)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.compiled_rl.linear_recurrence.default: _linear_recurrence,
    torch.ops.aten.erfinv.default: _erfinv,
    torch.ops.aten.expm1.default: _expm1,
    torch.ops.aten.log1p.default: _log1p,
    torch.ops.aten.where.self: _where,
    torch.ops.aten.lerp.Scalar: _lerp,
}
