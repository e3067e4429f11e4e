"""Scalars and masks on their way into a formula."""

from typing import Optional

import torch
from torch import Tensor

from compiled_rl.kernels.checks import check_floating, check_number, check_shape
from compiled_rl.kernels.indices import at
from compiled_rl.kernels.scalars import as_scalar, at_least_float, widened

__all__ = [
    "as_scalar",
    "at_index",
    "at_least_float",
    "coefficient",
    "resolution",
    "scalar",
    "where_valid",
    "widened",
]


def scalar(
    function: str, name: str, value: float, like: Tensor, range_: str = "a number"
) -> Tensor:
    """A number, or a 0-d tensor, as ``as_scalar`` makes it; refused as ``check_number`` does it."""
    check_number(function, name, value, range_)
    return as_scalar(value, like)


def coefficient(
    function: str, name: str, value: float, reward: Tensor, mask: Optional[Tensor]
) -> Tensor:
    """A discount or a trace decay as a tensor: one for all steps, or one a step.

    Raises:
        TypeError: it is no number.
        ValueError: it is not in [0, 1], or it has dimensions, and they are not the reward's.
    """
    if isinstance(value, Tensor):
        if value.dim() != 0:
            check_floating(function, name, value)
            check_shape(function, name, value, "reward", reward)
            return where_valid(mask, as_scalar(value, reward))
    return scalar(function, name, value, reward, "in [0, 1]")


def at_index(function: str, x: Tensor, action: Tensor) -> Tensor:
    """Of each row of ``x``, ``[*B, N]``, the element of an action, ``[*B]``.

    Raises:
        ValueError: an action is no integer or, on a CPU, not in [0, N - 1].
    """
    if action.is_floating_point() or action.dtype == torch.bool:
        raise ValueError(
            f"{function}: `action` as indices must be of an integer dtype, got {action.dtype}"
        )
    if not torch.jit.is_scripting():
        return at(function, x, action.long())
    return x.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)


def where_valid(mask: Optional[Tensor], x: Tensor) -> Tensor:
    """``x`` where ``mask`` holds, zero elsewhere; selects, so a NaN under the mask vanishes."""
    if mask is None:
        return x
    return torch.where(mask, x, torch.zeros_like(x))


def resolution(dtype: torch.dtype) -> float:
    """The decimal resolution of a dtype; ``torch.finfo`` is not scriptable."""
    if dtype == torch.float64:
        return 1e-15
    if dtype == torch.float16:
        return 1e-3
    return 1e-2 if dtype == torch.bfloat16 else 1e-6
