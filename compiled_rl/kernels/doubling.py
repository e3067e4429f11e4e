"""The plain torch form of the recurrence: any device, any dtype, scriptable, exportable."""

import torch
from torch import Tensor

from compiled_rl.kernels.scalars import widened


def doubling(x: Tensor, decay: Tensor, time_dim: int, reverse: bool) -> Tensor:
    """The linear recurrence in ``log2(T)`` steps.

        y[t] = x[t] + decay[t] * y[t + 1]        (reverse)
        y[t] = x[t] + decay[t] * y[t - 1]        (not reverse)

    After a step of distance ``d`` each ``y[t]`` holds its own ``2 d`` terms, and ``decay[t]`` the
    product that carries it over to the next ``2 d``. Decays that stay above one for so long that
    their product overflows give NaN.

    Args:
        x: ``[*B, T]``; half precision is computed in float32.
        decay: of ``x``'s shape; never read at the step that the recurrence starts from.
        time_dim: the time axis.
        reverse: whether time runs backwards.

    Returns:
        ``y`` of ``x``'s shape and dtype.
    """
    dtype = x.dtype
    x, decay = widened(x), widened(decay)
    distance = 1
    while distance < x.size(time_dim):
        x = _combine(x, decay, x, distance, time_dim, reverse)
        decay = _combine(torch.zeros_like(decay), decay, decay, distance, time_dim, reverse)
        distance *= 2
    return x.to(dtype)


def _combine(
    x: Tensor, decay: Tensor, y: Tensor, distance: int, time_dim: int, reverse: bool
) -> Tensor:
    """``x[t] + decay[t] * y[t + distance]``, and ``x[t]`` where there is no ``t + distance``.

    The edge is cut off rather than multiplied by zero: nothing is read from the decay there.
    """
    inner = x.size(time_dim) - distance
    near = distance if not reverse else 0
    far = distance - near
    moved = torch.addcmul(
        x.narrow(time_dim, near, inner),
        decay.narrow(time_dim, near, inner),
        y.narrow(time_dim, far, inner),
    )
    if reverse:
        return torch.cat([moved, x.narrow(time_dim, inner, distance)], time_dim)
    return torch.cat([x.narrow(time_dim, 0, distance), moved], time_dim)


def bounded_doubling(
    x: Tensor, decay: Tensor, time_dim: int, reverse: bool, doublings: int
) -> Tensor:
    """``doubling`` in a number of steps that does not depend on ``T``, for exported graphs.

    Past ``T = 2 ** doublings`` the result is wrong without a word: whoever exports it must refuse
    longer inputs. A distance may be longer than ``T``, so the edge is padded and cut off; and no
    length is read, which a trace would take for a constant.

    Args and returns: as ``doubling``.
    """
    dtype = x.dtype
    x, decay = widened(x), widened(decay)
    # There and back: what is past the end now reaches the start of the recurrence times zero.
    decay = _shifted(_shifted(decay, 1, time_dim, not reverse), 1, time_dim, reverse)
    for step in range(doublings):
        x, decay = (
            torch.addcmul(x, decay, _shifted(x, 2**step, time_dim, reverse)),
            decay * _shifted(decay, 2**step, time_dim, reverse),
        )
    return x.to(dtype)


def _shifted(y: Tensor, distance: int, time_dim: int, reverse: bool) -> Tensor:
    """``y[t + distance]`` at ``t`` (``y[t - distance]`` where not reverse), zero past the end."""
    axis = time_dim % y.dim()
    edge = [0, distance] if reverse else [distance, 0]
    kept = slice(distance, None) if reverse else slice(None, -distance)
    padded = torch.nn.functional.pad(y, [0, 0] * (y.dim() - 1 - axis) + edge)
    return padded[(slice(None),) * axis + (kept,)]


def plain_recurrence(x: Tensor, decay: Tensor, time_dim: int, reverse: bool) -> Tensor:
    """The operator ``compiled_rl::linear_recurrence``, laid out as ``x`` and never an alias."""
    return torch.empty_like(x).copy_(doubling(x, decay, time_dim, reverse))
