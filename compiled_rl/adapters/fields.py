"""The field table: every tensor that a loss or an estimator reads or gives, declared once.

Dispatch, ``in_keys``, ``out_keys``, ``set_keys`` and the documentation are derived from it.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

Key = str | tuple[str, ...]


class Field(NamedTuple):
    """One tensor of a class.

    Attributes:
        name: what ``set_keys`` calls it.
        key: where it is found by default; a tuple reads a nested entry.
        kind: ``input`` is read when its computation needs it, ``output`` is given in the order of
            the table, ``metric`` is given too, but by name only (never in a tuple), ``written`` is
            where the TensorDict of the call gets the metric that is called as its key is here,
            ``computed`` is the key of a network's output, which is not read from the data.
        shape: in words.
        meaning: one line.
    """

    name: str
    key: Key
    kind: Literal["input", "output", "metric", "written", "computed"]
    shape: str
    meaning: str


def keyword(key: Key) -> str:
    """The keyword argument of a key: ``("next", "reward")`` is ``next_reward``."""
    return key if isinstance(key, str) else "_".join(key)


def in_next(key: Key) -> Key:
    """The same entry of the state that was entered."""
    return joined("next", key)


def is_next(key: Key) -> bool:
    """Whether it is an entry of the state that was entered."""
    return isinstance(key, tuple) and key[0] == "next"


def joined(*keys: Key) -> tuple[str, ...]:
    """One key, nested, of several."""
    return tuple(part for key in keys for part in ((key,) if isinstance(key, str) else key))


def suffixed(key: Key, suffix: str) -> Key:
    """The key with its last part prolonged."""
    return key + suffix if isinstance(key, str) else (*key[:-1], key[-1] + suffix)


def unique(keys: Iterable[Key]) -> tuple[Key, ...]:
    """The keys without repetition, in their first order."""
    return tuple(dict.fromkeys(keys))


def describe(fields: Iterable[Field]) -> str:
    """The table as text, for a docstring."""
    lines = ["", "    Fields (``name``, default key, shape, meaning):"]
    for field in fields:
        lines.append(
            f"        {field.kind:8} ``{field.name}`` {field.key!r} {field.shape}: {field.meaning}"
        )
    return "\n".join([*lines, "    "])
