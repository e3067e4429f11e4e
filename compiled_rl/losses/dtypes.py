"""The precision of what a network gives, which autocast makes coarser than its parameters."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from compiled_rl.adapters import Data, Key


def widened(data: Data, keys: Iterable[Key], network: nn.Module) -> Data:
    """``data``, with what the network gave in no less than the precision of its parameters.

    Under autocast a network gives bfloat16 or float16, in which nothing ought to be summed.
    """
    coarse = [key for key in keys if key in data and _is_coarse(data[key])]
    first = next(network.parameters(), None) if coarse else None  # to look for it takes a while
    if first is None:
        return data
    return data | {
        key: data[key].to(torch.promote_types(first.dtype, data[key].dtype)) for key in coarse
    }


def _is_coarse(x: Tensor) -> bool:
    """Whether it is in half precision; a distribution object, which stands for tensors, is not."""
    return isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16)
