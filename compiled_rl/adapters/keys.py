"""Names for keys: which there are, what they are by default, how they are set."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Self

from compiled_rl.adapters.fields import Key, joined
from compiled_rl.modules import CoefficientModule
from compiled_rl.modules.arguments import check_key


class Keys(dict[str, Any]):
    """Keys by name, as items and as attributes; they are set by ``set_keys`` alone.

    ``keys["reward"]`` is where the reward is found, ``("next", "reward")``, and ``keys.reward`` is
    what ``set_keys`` is told, ``"reward"``. They differ for the names ``entered`` only, which are
    read under ``"next"`` whatever their key.

    An attribute is found before a method of the same name: a key may be called ``copy``.
    """

    def __init__(self, keys: Mapping[str, Any], entered: Iterable[str] = ()) -> None:
        super().__init__(keys)
        told = {name: _behind_next(key) for name, key in keys.items() if name in entered}
        vars(self).update({**keys, **told})

    def __or__(self, other: Any) -> Any:
        return Keys({**self, **other}, _entered(self))

    def __call__(self) -> Self:
        """Itself: TorchRL's ``default_keys`` are a class, of which scripts make an instance."""
        return self

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"`tensor_keys` has no `{name}`; it has {list(self)}")

    def __setattr__(self, name: str, key: Any) -> None:
        raise AttributeError(f"`tensor_keys`: `{name}` must be set by `set_keys`, got {key!r}")

    __setitem__ = __setattr__

    def __reduce__(self) -> Any:
        return Keys, (dict(self), _entered(self))


def _entered(keys: Keys) -> list[str]:
    """The names that are read under ``"next"``: those that are told otherwise."""
    return [name for name in keys if vars(keys)[name] != keys[name]]


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
    default_keys: Keys  # a key, or a list of them where a policy has several heads
    tensor_keys: Keys

    def __init__(self) -> None:
        super().__init__()
        self.default_keys = self.tensor_keys = Keys(self.declared_keys(), self.names_entered())

    @classmethod
    def declared_keys(cls) -> dict[str, Any]:
        """The names that there are, and their default keys."""
        return {}

    @classmethod
    def names_entered(cls) -> Iterable[str]:
        """The names that are read under ``"next"``."""
        return ()

    @property
    def name(self) -> str:
        """The class's name, with which every error begins."""
        return type(self).__name__

    def take_defaults(self, **keys: Any) -> None:
        """Other defaults, which the networks say; no key was set yet."""
        self.default_keys = self.default_keys | keys
        self.tensor_keys = self.tensor_keys | keys

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
        check_key(self.name, name, key)
        if isinstance(key, tuple) and len(key) == 1:  # a TensorDict has them in one place
            key = key[0]
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

    What has no annotation, which is no field of a dataclass, counts as well if it is public.
    """
    made = declaration() if isinstance(declaration, type) else declaration
    declared = [field.name for field in fields(made)] if is_dataclass(made) else []
    public = [name for name in dir(made) if not name.startswith("_") and name not in declared]
    others = [name for name in public if not callable(getattr(made, name))]
    return {name: getattr(made, name) for name in (*declared, *others)}
