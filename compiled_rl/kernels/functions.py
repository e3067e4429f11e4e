"""The public functions: arguments in, one operator, tensors out."""

from typing import Optional

import torch
from torch import Tensor
from torch.autograd import forward_ad

from compiled_rl.kernels import operators  # noqa: F401  (registers the operators)
from compiled_rl.kernels.checks import check_flag, check_like, check_time
from compiled_rl.kernels.doubling import doubling


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
        ValueError: the shapes or dtypes differ, ``x`` is not floating point or has no time axis,
            or ``mask`` is not bool.
    """
    check_time("linear_recurrence", "x", x, time_dim)
    check_like("linear_recurrence", "decay", decay, "x", x)
    if mask is not None:
        check_flag("linear_recurrence", "mask", mask, "x", x)
        zero = torch.zeros([], dtype=x.dtype, device=x.device)
        x, decay = torch.where(mask, x, zero), torch.where(mask, decay, zero)
    if torch.jit.is_scripting():
        return doubling(x, decay, time_dim, reverse)
    return torch.ops.compiled_rl.linear_recurrence(x, decay, time_dim, reverse)


def fused_gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: Tensor,
    lmbda: Tensor,
    mask: Optional[Tensor],
    time_dim: int,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation in one pass over memory, without a gradient.

        delta[t]     = reward[t] + gamma * (0 if terminated[t] else next_value[t]) - value[t]
        advantage[t] = delta[t] + gamma * lmbda * (0 if done[t] else advantage[t + 1])

    It has no gradient: ask ``fusable`` first. A terminated step is done. Masked steps come out as
    zero, cut the trace, and may hold NaN.

    Args:
        reward: ``[*B, T]``, floating point.
        value: ``[*B, T]``, as ``next_value`` of the reward's dtype.
        next_value: ``[*B, T]``; never used where terminated.
        terminated: bool ``[*B, T]``.
        done: bool ``[*B, T]``.
        gamma: floating point, 0-d.
        lmbda: floating point, 0-d.
        mask: valid steps, bool ``[*B, T]``, or None.
        time_dim: the time axis.

    Returns:
        ``advantage`` and ``value_target = advantage + value``, both ``[*B, T]``.

    Raises:
        ValueError: shapes or dtypes are not as above.
    """
    return torch.ops.compiled_rl.gae(
        reward, value, next_value, terminated, done, gamma, lmbda, mask, time_dim
    )


def fusable(*inputs: Tensor) -> bool:
    """Whether a forward-only kernel may run: nothing to differentiate or map, no graph to ship.

    Inside a transform of ``torch.func`` a tensor does not always tell that it is differentiated.
    """
    if torch.compiler.is_exporting() or torch._C._are_functorch_transforms_active():
        return False
    if forward_ad._current_level >= 0:
        return False
    return not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs))
