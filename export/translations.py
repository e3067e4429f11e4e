# mypy: ignore-errors
# onnxscript reads these functions as a language of its own.
"""Operators of ours in ONNX: the recurrence over time is a ``Scan``."""

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


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.compiled_rl.linear_recurrence.default: _linear_recurrence,
}
