"""The public functions: arguments in, one operator, tensors out."""

from typing import Optional, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from compiled_rl.kernels import cpu, operators
from compiled_rl.kernels.checks import check_bool, check_flag, check_like, check_time
from compiled_rl.kernels.doubling import doubling
from compiled_rl.kernels.scalars import as_scalar, at_least_float
from compiled_rl.kernels.table import KERNELS

_PLAIN = (Tensor, torch.nn.Parameter)


def linear_recurrence(
    x: Tensor,
    decay: Tensor,
    mask: Optional[Tensor] = None,
    time_dim: int = -1,
    reverse: bool = True,
) -> Tensor:
    """The linear recurrence over time, under every estimator.

        y[t] = x[t] + decay[t] * y[t + 1]        (reverse)
        y[t] = x[t] + decay[t] * y[t - 1]        (not reverse)

    ``decay[t]`` is what reaches ``y[t]`` of its neighbour: zero where an episode is done. It is not
    read at the step that the recurrence starts from. Differentiable in ``x`` and
    ``decay``, any number of times.

    Args:
        x: ``[*B, T]``, floating point.
        decay: ``[*B, T]``, of ``x``'s dtype.
        mask: valid steps, bool ``[*B, T]``; others come out as zero, cut the trace, and may hold
            NaN.
        time_dim: the time axis.
        reverse: whether time runs backwards.

    Returns:
        ``y``, ``[*B, T]``.

    Raises:
        TypeError: ``x``, ``decay`` or ``mask`` is no tensor, or ``reverse`` neither True nor False.
        ValueError: the shapes or dtypes differ, ``x`` is not floating point or has no time axis,
            or ``mask`` is not bool.
    """
    check_time("linear_recurrence", "x", x, time_dim)
    check_like("linear_recurrence", "decay", decay, "x", x)
    check_bool("linear_recurrence", "reverse", reverse)
    if mask is not None:
        check_flag("linear_recurrence", "mask", mask, "x", x)
        zero = torch.zeros([], dtype=x.dtype, device=x.device)
        x, decay = torch.where(mask, x, zero), torch.where(mask, decay, zero)
    if torch.jit.is_scripting():
        return doubling(x, decay, time_dim, reverse)
    return torch.ops.compiled_rl.linear_recurrence(x, decay, time_dim, reverse)


def fused(
    name: str,
    tensors: tuple[Tensor, ...],
    scalars: tuple[float | Tensor, ...],
    mask: Optional[Tensor],
    time_dim: int,
) -> tuple[Tensor, ...]:
    """An estimator in one pass over memory, without a gradient: ask ``fusable`` first.

    Args:
        name: the estimator's name in ``KERNELS``, which also names what follows.
        tensors: its inputs, all of one shape ``[*B, T]``.
        scalars: floats or 0-d tensors.
        mask: valid steps, bool ``[*B, T]``, or None.
        time_dim: the time axis.

    Returns:
        Its outputs, of the inputs' shape.

    Raises:
        ValueError: a tensor's shape, dtype or device is not that of the first, a flag or the mask
            is not bool, or a scalar is not 0-d.
    """
    kernel = KERNELS[name]
    # Dispatch is a third of a small call's time, and would end in the same form on plain tensors.
    watched = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    if tensors[0].is_cpu and not watched:
        kernel.check(tensors, scalars, mask, time_dim)
        return cpu.fused(kernel, tensors, scalars, mask, time_dim)
    like = tensors[0].new_empty([], dtype=at_least_float(tensors[0].dtype))
    coefficients = [as_scalar(cast(float, x), like) for x in scalars]
    outputs = operators.FUSED[name](*tensors, *coefficients, mask, time_dim)
    return outputs if kernel.outputs > 1 else (outputs,)


def fusable(
    tensors: tuple[Tensor, ...], scalars: tuple[float | Tensor, ...], mask: Optional[Tensor]
) -> bool:
    """Whether a forward-only kernel may run: there is one, and nothing to differentiate or map.

    Nor a graph to ship, which would contain an operator that only this library has. Inside a
    transform of ``torch.func`` a tensor does not always tell that it is differentiated.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return False
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    given = tensors if mask is None else (*tensors, mask)
    for x in scalars:
        if isinstance(x, Tensor):
            if x.dim() != 0:
                return False
            given = (*given, x)
    gradients, compiling = torch.is_grad_enabled(), torch.compiler.is_compiling()
    for x in given:
        if not isinstance(x, Tensor):
            return False  # it is refused with the tensors that are none
        if gradients and x.requires_grad:
            return False
        # A negated view holds the numbers without their sign.
        if not compiling and (type(x) not in _PLAIN or x.is_neg()):
            return False
    first = tensors[0]
    return operators.has_fused(first.is_cpu, first.is_cuda, first.dtype)
