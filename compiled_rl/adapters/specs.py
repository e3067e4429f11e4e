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

    Raises:
        ValueError: the specification is of something else than actions of continuous numbers.
    """
    heads = tuple(heads)
    spec = getattr(network, "spec", None) if spec is None else spec
    found = None if spec is None else _total(_numbers(spec, head.action_key) for head in heads)
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


def action_bounds(spec: Any, key: Key) -> Optional[tuple[Any, Any]]:
    """The lower and the upper bounds of one action, numbers or ``[A]``; None if it has none.

    Args:
        spec: TorchRL's, of the action or by key; or a space of Gymnasium.
        key: of the action.

    Raises:
        ValueError: the specification has no such key, or is of several actions.
    """
    leaf, batch = _of_action(spec, key)
    found = _low_and_high(leaf)
    if found is None:
        return None
    _check_axes(leaf, len(batch))
    low, high = [x[(0,) * len(batch)] for x in found]
    return low, high


def _of_action(spec: Any, key: Key) -> tuple[Any, Sequence[int]]:
    """What a specification says of the action of one key, and the batch axes that it has there."""
    if not hasattr(spec, "keys"):
        return spec, ()
    if getattr(spec, "shape", None) is None or key not in spec.keys(True):
        raise ValueError(
            f"`action_spec` must be of the action, or TorchRL's Composite with the key {key!r}, "
            f"got {type(spec).__name__} with the keys {list(spec.keys())}"
        )
    inside = spec[key[:-1]] if isinstance(key, tuple) and len(key) > 1 else spec
    return spec[key], inside.shape


def _numbers(spec: Any, key: Key) -> Optional[int]:
    """How many numbers the action of one key is."""
    return _within(*_of_action(spec, key))


def _within(spec: Any, batch: Sequence[int]) -> Optional[int]:
    """Of one action, or of all that are grouped under a key; batch axes do not count."""
    if spec is None:
        return None
    if hasattr(spec, "keys"):
        return _total(_within(part, batch) for part in spec.values())
    if _low_and_high(spec) is None:
        raise ValueError(f"`action_spec` must be of continuous numbers, got {spec!r}")
    _check_axes(spec, len(batch))
    return int(math.prod(spec.shape[len(batch) :]))


def _low_and_high(spec: Any) -> Optional[tuple[Any, Any]]:
    """The bounds of numbers, infinite ones too; None of discrete actions."""
    space = getattr(spec, "space", spec)
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    return None if low is None or high is None else (low, high)


def _check_axes(spec: Any, batch: int) -> None:
    """Refuse axes beyond the batch's and the action's own: which are the batch's is not said."""
    if len(spec.shape) > batch + 1:
        raise ValueError(
            "`action_spec` must be of one action, [A], or a Composite that has the shape of a "
            f"batch of them, got the shape {list(spec.shape)}"
        )


def number_of_actions(spec: Any) -> Optional[int]:
    """How many discrete actions a specification of TorchRL or a space of Gymnasium has, if any."""
    count = getattr(getattr(spec, "space", spec), "n", None)
    return None if count is None else int(count)
