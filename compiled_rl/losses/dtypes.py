"""The precision of what a network gives, which autocast makes coarser than its parameters."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from compiled_rl.adapters import Data, Key


def widened(data: Data, keys: Iterable[Key], network: nn.Module) -> Data:
    """``data``, with what the network gave in no less than the precision of its parameters.

    Under autocast a network gives bfloat16 or float16, in which nothing ought to be summed.
    """
    first = next(network.parameters(), None)
    if first is None:
        return data
    return data | {key: _at_least(first.dtype, data[key]) for key in keys if key in data}


def _at_least(dtype: torch.dtype, x: Tensor) -> Tensor:
    """A distribution object, which stands for parameters, and what is not floating point stay."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    return x.to(torch.promote_types(dtype, x.dtype))
