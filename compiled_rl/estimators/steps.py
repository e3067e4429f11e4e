"""What an estimator's formula is given."""

from typing import NamedTuple, Optional

from torch import Tensor


class Steps(NamedTuple):
    """What an estimator may ask for, one value a step; ``time_dim`` is their time axis."""

    reward: Tensor
    value: Optional[Tensor]
    next_value: Tensor
    terminated: Tensor
    done: Tensor
    log_prob: Optional[Tensor] = None
    behavior_log_prob: Optional[Tensor] = None
    steps_to_next: Optional[Tensor] = None
    group: Optional[Tensor] = None
    mask: Optional[Tensor] = None
    time_dim: int = -1


def both(mask: Optional[Tensor], other: Optional[Tensor]) -> Optional[Tensor]:
    """The steps that two masks allow, either of which may be missing."""
    if mask is None or other is None:
        return other if mask is None else mask
    return mask & other
