"""Names for keys: which there are, what they are by default, how they are set."""

from collections.abc import Iterable, Mapping
from typing import Any

from compiled_rl.adapters.fields import Key, joined
from compiled_rl.modules import CoefficientModule


class Keys(dict[str, Any]):
    """Keys by name, as items and as attributes.

    ``keys["reward"]`` is where the reward is found, ``("next", "reward")``, and ``keys.reward`` is
    what ``set_keys`` is told, ``"reward"``. They differ for the names ``entered`` only, which are
    read under ``"next"`` whatever their key.
    """

    __slots__ = ("_entered",)

    def __init__(self, keys: Mapping[str, Any], entered: Iterable[str] = ()) -> None:
        super().__init__(keys)
        self._entered = frozenset(entered)

    def __or__(self, other: Any) -> Any:
        return Keys({**self, **other}, self._entered)

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"`tensor_keys` has no `{name}`; it has {list(self)}")
        return _behind_next(self[name]) if name in self._entered else self[name]


def _behind_next(key: Any) -> Any:
    if isinstance(key, list):
        return [_behind_next(one) for one in key]
    rest = key[1:]
    return rest[0] if len(rest) == 1 else rest


class AcceptsKeys(CoefficientModule):
    """A module that finds its tensors under keys that a user may set.

    ``default_keys`` has the default of every name, ``tensor_keys`` what it is now.
    """

    in_keys: tuple[Key, ...] = ()
    out_keys: tuple[Key, ...] = ()
    default_keys: dict[str, Any]  # a key, or a list of them where a policy has several heads
    tensor_keys: Keys

    def __init__(self) -> None:
        super().__init__()
        self.default_keys = self.declared_keys()
        self.tensor_keys = Keys(self.default_keys)

    def declared_keys(self) -> dict[str, Any]:
        """The names that there are, and their default keys."""
        return {}

    @property
    def name(self) -> str:
        """The class's name, with which every error begins."""
        return type(self).__name__

    def wire(self) -> None:
        """Derive what depends on the keys; called when they were set."""

    def set_keys(self, **keys: Any) -> None:
        """Say under which keys the tensors are found; None restores a default.

        What is read under ``"next"`` by default (``reward``, ``done``, ``terminated``) is read
        there whatever its key. Of a policy with several heads, ``action`` and
        ``sample_log_prob`` are lists of keys, one a head. A refusal changes nothing.

        Raises:
            KeyError: the critic has no output of the key given for ``value``.
            TypeError: a key is neither a string nor a tuple of strings.
            ValueError: a name is not an input.
        """
        for name in keys:
            if name not in self.default_keys:
                raise ValueError(
                    f"{self.name}: `{name}` is not an accepted key; "
                    f"the accepted keys are {list(self.default_keys)}"
                )
        before = self.tensor_keys
        self.tensor_keys = before | {name: self.checked_key(name, x) for name, x in keys.items()}
        try:
            self.take_keys(**keys)
        except Exception:
            self.tensor_keys = before
            raise

    def take_keys(self, **keys: Any) -> None:
        """Hand on what was set; a refusal undoes it."""
        self.wire()

    def checked_key(self, name: str, key: Any) -> Any:
        """The key that is meant, or a sentence that says why it is none."""
        if key is None:
            return self.default_keys[name]
        if self.takes_several(name, key):
            return [self.checked_key(name, one) for one in key]
        parts = key if isinstance(key, tuple) else (key,)
        if not parts or not all(isinstance(part, str) for part in parts):
            raise TypeError(
                f"{self.name}: the key of `{name}` must be a string or a tuple of strings, "
                f"got {key!r}"
            )
        return entered_as(self.default_keys[name], key)

    def takes_several(self, name: str, key: Any) -> bool:
        """Whether it is a list of keys, and ``name`` may have one."""
        return isinstance(key, list)


def entered_as(default: Any, key: Any) -> Any:
    """The key, under ``"next"`` where the default is."""
    entered = isinstance(default, tuple) and default[0] == "next"
    starts = key[0] if isinstance(key, tuple) else key
    return joined("next", key) if entered and starts != "next" else key


def accepted_keys(declaration: Any) -> dict[str, Any]:
    """The names of a dataclass of keys, ``_AcceptedKeys`` of TorchRL's losses, and their defaults.

    What has no annotation, which is no field of a dataclass, counts as well.
    """
    made = declaration() if isinstance(declaration, type) else declaration
    named = {name: getattr(made, name) for name in dir(made) if not name.startswith("_")}
    return {name: key for name, key in named.items() if not callable(key)}
