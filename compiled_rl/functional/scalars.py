"""Scalars and masks on their way into a formula."""

from typing import Optional

import torch
from torch import Tensor


def as_scalar(value: float, like: Tensor) -> Tensor:
    """A float or a 0-d tensor as a 0-d tensor of ``like``'s dtype and device; keeps its gradient.

    As a tensor a coefficient never becomes a constant of a compiled graph, so a new value never
    compiles a new one.
    """
    if isinstance(value, Tensor):
        return value.to(dtype=like.dtype, device=like.device)
    return torch.scalar_tensor(value, dtype=like.dtype, device=like.device)


def where_valid(mask: Optional[Tensor], x: Tensor) -> Tensor:
    """``x`` where ``mask`` holds, zero elsewhere; selects, so a NaN under the mask vanishes."""
    if mask is None:
        return x
    return torch.where(mask, x, torch.zeros_like(x))
