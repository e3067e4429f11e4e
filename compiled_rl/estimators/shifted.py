"""The states of a sequence and those entered, in one sequence for one call of the critic."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from compiled_rl.functional.sequences import cuts


class Slots(NamedTuple):
    """Where each step's two states stand; all ``[*B, T]``, time last, but ``source``.

    Attributes:
        source: for each slot, its place among the T states followed by the T states entered,
            ``[*B, T + budget]``.
        position: the slot of the state left; that of the state entered is the next one.
        valid: whether there was room for both.
    """

    source: Tensor
    position: Tensor
    valid: Tensor


def make_slots(terminated: Tensor, done: Tensor, mask: Optional[Tensor], budget: int) -> Slots:
    """Lay out a slot a state, and one for the state entered wherever no state of its own follows.

    Behind a step that is not done and has a valid step behind it, the state entered is that one's.
    Where the task ended, the state entered has no value, and no slot.
    """
    time = done.shape[-1]
    steps = torch.arange(time, device=done.device).expand_as(done)
    entered = cuts(terminated, done, mask, -1) & ~terminated
    entered = entered if mask is None else entered & mask
    position = steps + entered.long().cumsum(-1) - entered.long()
    slots = time + budget
    needed = position + (~terminated).long()
    # One slot more than there are takes what has no room.
    own = position.clamp(max=slots)
    extra = torch.where(entered, position + 1, slots).clamp(max=slots)
    source = torch.zeros((*done.shape[:-1], slots + 1), dtype=torch.long, device=done.device)
    source = source.scatter(-1, own, steps).scatter(-1, extra, steps + time)
    return Slots(source[..., :slots], position, needed < slots)


def take(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """``x`` at ``index``, ``[*B, S]`` with time last, along its time axis ``dim``."""
    index = index.movedim(-1, dim)
    index = index.reshape(index.shape + (1,) * (x.dim() - index.dim()))
    return x.gather(dim, index.expand(*index.shape[: dim + 1], *x.shape[dim + 1 :]))
