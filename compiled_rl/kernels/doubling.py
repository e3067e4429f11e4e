"""The plain torch form of the recurrence: any device, any dtype, scriptable, exportable."""

import torch
from torch import Tensor


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
    real = _at_least_float(dtype)
    x, decay = x.to(real), decay.to(real)
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


def plain_recurrence(x: Tensor, decay: Tensor, time_dim: int, reverse: bool) -> Tensor:
    """The operator ``compiled_rl::linear_recurrence``, laid out as ``x`` and never an alias."""
    return torch.empty_like(x).copy_(doubling(x, decay, time_dim, reverse))


def _at_least_float(dtype: torch.dtype) -> torch.dtype:
    if dtype == torch.float16 or dtype == torch.bfloat16:
        return torch.float32
    return dtype
