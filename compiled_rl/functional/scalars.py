"""Scalars and masks on their way into a formula."""

from typing import Optional

import torch
from torch import Tensor

from compiled_rl.kernels.scalars import as_scalar

__all__ = ["as_scalar", "where_valid"]


def where_valid(mask: Optional[Tensor], x: Tensor) -> Tensor:
    """``x`` where ``mask`` holds, zero elsewhere; selects, so a NaN under the mask vanishes."""
    if mask is None:
        return x
    return torch.where(mask, x, torch.zeros_like(x))
