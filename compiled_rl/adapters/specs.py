"""What a specification of an action says, TorchRL's or Gymnasium's, told without importing them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Optional

from torch import Tensor, nn

from compiled_rl.adapters.fields import Key
from compiled_rl.adapters.policy import Head


def action_dimensions(network: nn.Module, heads: Iterable[Head], spec: Any = None) -> Optional[int]:
    """How many numbers an action is; None if nothing says so.

    Args:
        network: a policy, which may have a ``spec``, or a ``rescale`` with bounds.
        heads: its distributions, whose families may have bounds.
        spec: TorchRL's, of the action or by key; or a space of Gymnasium; None: the policy's own.
    """
    heads = tuple(heads)
    spec = getattr(network, "spec", None) if spec is None else spec
    found = None if spec is None else _total(_leaf(spec, head.action_key) for head in heads)
    if found is None:
        found = _total(_bounds(head.family) for head in heads)
    return _bounds(getattr(network, "rescale", None)) if found is None else found


def _total(counts: Iterable[Optional[int]]) -> Optional[int]:
    """The sum; None if one is not known."""
    known = list(counts)
    return None if None in known else sum(count for count in known if count is not None)


def _bounds(module: Optional[nn.Module]) -> Optional[int]:
    """As many numbers as there are lower bounds, where each has its own."""
    low: Any = getattr(module, "low", None)
    return low.numel() if isinstance(low, Tensor) and low.dim() else None


def _leaf(spec: Any, key: Key) -> Optional[int]:
    """What a specification says of the action of one key; its batch axes do not count."""
    if not hasattr(spec, "keys"):
        return int(math.prod(spec.shape))
    inside = spec[key[:-1]] if isinstance(key, tuple) and len(key) > 1 else spec
    return _within(spec[key], inside.shape)


def _within(spec: Any, batch: Sequence[int]) -> Optional[int]:
    """Of one action, or of all that are grouped under a key."""
    if spec is None:
        return None
    if hasattr(spec, "keys"):
        return _total(_within(part, batch) for part in spec.values())
    return int(math.prod(spec.shape[len(batch) :]))


def action_bounds(spec: Any, key: Key) -> Optional[tuple[Any, Any]]:
    """The lower and the upper bounds of one action; None if it has none.

    Args:
        spec: TorchRL's, of the action or by key; or a space of Gymnasium.
        key: of the action.
    """
    batch = 0
    if hasattr(spec, "keys"):
        inside = spec[key[:-1]] if isinstance(key, tuple) and len(key) > 1 else spec
        spec, batch = spec[key], len(inside.shape)
    space = getattr(spec, "space", spec)
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    return None if low is None or high is None else (low[(0,) * batch], high[(0,) * batch])


def number_of_actions(spec: Any) -> Optional[int]:
    """How many discrete actions a specification of TorchRL or a space of Gymnasium has, if any."""
    count = getattr(getattr(spec, "space", spec), "n", None)
    return None if count is None else int(count)
