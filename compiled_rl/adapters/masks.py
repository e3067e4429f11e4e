"""What lies under a mask is replaced before a network sees it."""

from collections.abc import Iterable
from typing import Optional

import torch
from torch import Tensor

from compiled_rl.adapters.dispatch import Data
from compiled_rl.adapters.fields import Key, in_next
from compiled_rl.adapters.steps import START


def select_valid(data: Data, mask: Optional[Tensor], masks: Iterable[Key]) -> Data:
    """The data with a copy of a valid step wherever the mask forbids one.

    So nothing there reaches a network, and the network sees nothing that it could not have seen:
    zeros may be outside its domain. The copy is of the first valid step; without one it is ones,
    or zeros of what counts something. Of a mask and of a start, which say where a step is, nothing
    is copied: they are False there, and no episode starts amid valid steps.

    Args:
        data: tensors by key; those that do not begin with the shape of ``mask`` stay as they are.
        mask: valid steps, bool ``[*B]``; None: all are.
        masks: the keys under which masks are found.
    """
    if mask is None:
        return data
    first, flags = _first_valid(mask), {START, in_next(START), *masks}
    return {key: _select(x, mask, None if key in flags else first) for key, x in data.items()}


def _first_valid(mask: Tensor) -> Tensor:
    """Where the first valid step is among all, ``[1]``; their number if there is none."""
    return torch.cat([mask.reshape(-1), mask.new_ones(1)]).int().argmax(0, keepdim=True)


def _select(x: Tensor, mask: Tensor, first: Optional[Tensor]) -> Tensor:
    if x.shape[: mask.dim()] != mask.shape:
        return x
    step = x.new_zeros(()) if first is None else _step_at(x, first, mask.dim())
    return torch.where(beside(mask, x), x, step)


def _step_at(x: Tensor, index: Tensor, batch: int) -> Tensor:
    """The step at ``index`` of all; the one behind the last, which is made up, is always there."""
    counts = not x.is_floating_point() and x.dtype != torch.bool
    behind = x.new_full((1, *x.shape[batch:]), 0 if counts else 1)
    steps = torch.cat([x.unsqueeze(0).flatten(0, batch), behind])
    return steps.index_select(0, index).squeeze(0)


def beside(mask: Tensor, x: Tensor) -> Tensor:
    """The mask with the axes that ``x`` has beyond it."""
    return mask.reshape(mask.shape + (1,) * (x.dim() - mask.dim()))
