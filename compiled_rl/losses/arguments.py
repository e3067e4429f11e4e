"""The arguments of losses: two spellings, coefficients by head, kinds and ranges."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from torch import nn

from compiled_rl.adapters import Key, keyword
from compiled_rl.adapters.fields import suffixed

NOT_GIVEN: Any = object()  # where None is a value


def one_spelling(owner: str, missing: Any, **values: Any) -> Any:
    """The value of an argument that has several names; ``missing`` where none was given.

    Raises:
        ValueError: it was given under two names with two values.
    """
    given = {name: x for name, x in values.items() if x is not missing}
    chosen = next(iter(given.values()), missing)
    if any(x is not chosen and x != chosen for x in given.values()):
        names = " and ".join(f"`{name}`" for name in given)
        raise ValueError(
            f"{owner}: {names} are one argument, got {' and '.join(map(str, given.values()))}"
        )
    return chosen


def check_options(owner: str, options: Mapping[str, Any], known: Any) -> None:
    """Refuse what is no keyword argument; ``known`` is the ``TypedDict`` of those that are."""
    for name in options:
        if name in ("gamma", "lmbda"):
            raise TypeError(f"{owner}: `{name}` must be given to `make_value_estimator`")
        if name not in known.__optional_keys__:
            names = sorted(known.__optional_keys__)
            raise TypeError(f"{owner}: `{name}` is not an argument; the options are {names}")


def by_head(
    owner: str, coefficients: Mapping[Key, float], actions: Sequence[Key]
) -> dict[str, float]:
    """A coefficient a head, in the heads' order, by the name of its buffer.

    A head is named by the key of its action, by that of its entropy or of its log-probability, or
    by the last part of its key if no other head ends so.

    Raises:
        KeyError: a head has no coefficient, or a coefficient no head.
    """
    ends = Counter(_end(action) for action in actions)
    left, found = dict(coefficients), {}
    for action in actions:
        names = [action, suffixed(action, "_entropy"), suffixed(action, "_log_prob")]
        names += [_end(action)] if ends[_end(action)] == 1 else []
        name = next((name for name in names if name in left), None)
        found[f"entropy_coeff_{keyword(action)}"] = _take(owner, left, name, action)
    if left:
        raise KeyError(
            f"{owner}: `entropy_coeff` must be by head, {list(actions)}, got also {list(left)}"
        )
    return found


def check_actor(owner: str, actor: Any) -> nn.Module:
    """A module; of which kind, its plain form says."""
    if not isinstance(actor, nn.Module):
        raise TypeError(
            f"{owner}: `actor_network` must be a Policy or a ProbabilisticTensorDictSequential, "
            f"got {'None' if actor is None else type(actor).__name__}"
        )
    return actor


def check_distance(owner: str, kind: Any, argument: str = "loss_critic_type") -> Any:
    """A kind of distance between values."""
    if kind not in ("l1", "l2", "smooth_l1"):
        raise ValueError(f"{owner}: `{argument}` must be 'l1', 'l2' or 'smooth_l1', got {kind!r}")
    return kind


def _take(owner: str, left: dict[Key, float], name: Optional[Key], action: Key) -> float:
    if name is None:
        raise KeyError(f"{owner}: `entropy_coeff` must be given for the head {action!r}")
    return left.pop(name)


def _end(action: Key) -> str:
    return action if isinstance(action, str) else action[-1]
