"""What every estimator asks of the neighbours in time."""

from typing import Optional

import torch
from torch import Tensor

from compiled_rl.functional.scalars import where_valid, widened


def following(x: Tensor, time_dim: int) -> Tensor:
    """``x[t + 1]`` at ``t``; zero, or False, past the end."""
    padding = [0, 0] * (x.dim() - 1 - time_dim % x.dim()) + [0, 1]
    # A slice to the end names no size, which a trace would keep for good.
    behind = torch.nn.functional.pad(x, padding).transpose(0, time_dim)[1:]
    return behind.transpose(0, time_dim)


def cuts(terminated: Tensor, done: Tensor, mask: Optional[Tensor], time_dim: int) -> Tensor:
    """Where nothing of the next step reaches this one: episode over, or no valid step follows."""
    valid = torch.ones_like(done) if mask is None else mask
    return terminated | done | ~following(valid, time_dim)


def bootstrap_value(next_value: Tensor, terminated: Tensor, mask: Optional[Tensor]) -> Tensor:
    """The value of the state entered, zero where the task ended there or the step is not valid.

    In the dtype to compute in.
    """
    return where_valid(mask, widened(next_value)).masked_fill(terminated, 0.0)
