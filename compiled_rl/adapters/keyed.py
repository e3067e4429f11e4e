"""What losses and estimators share: inputs found by key, outputs given by name."""

from typing import Any, ClassVar, Self

from torch import Tensor

from compiled_rl.adapters.dispatch import Data, given, output_type
from compiled_rl.adapters.fields import Field, Key, describe, in_next, unique
from compiled_rl.adapters.plain import EnsembleForm, PlainForm, RefusedForm
from compiled_rl.modules import CoefficientModule, Ensemble


class KeyedModule(CoefficientModule):
    """A module that declares ``fields`` and derives every list of keys from them.

    A subclass registers its networks as ordinary attributes, makes their plain forms in
    ``networks``, and calls ``wire`` at the end of its constructor.
    """

    fields: tuple[Field, ...] = ()
    fixed: ClassVar[tuple[str, ...]] = ()  # attributes that are what they were made
    settable: ClassVar[tuple[str, ...]] = ("input",)  # the kinds of fields whose key may be set
    in_keys: tuple[Key, ...] = ()
    out_keys: tuple[Key, ...] = ()
    output_names: tuple[str, ...] = ()
    default_keys: dict[str, Any]  # a key, or a list of them where a policy has several heads
    tensor_keys: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__doc__ = (cls.__doc__ or "") + describe(cls.fields)

    def __init__(self) -> None:
        super().__init__()
        self.default_keys = {f.name: f.key for f in self.fields if f.kind in self.settable}
        self.tensor_keys = dict(self.default_keys)
        self._selected: tuple[str, ...] = ()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        output_type(self.name, self.output_names)  # in this process, too

    def __setattr__(self, name: str, value: Any) -> None:
        known = name in self.__dict__ or name in self.__dict__.get("_modules", ())
        if known and name in self.fixed and "_forms" in self.__dict__:
            raise AttributeError(
                f"{self.name}: `{name}` is fixed when it is made; make another {self.name}"
            )
        super().__setattr__(name, value)

    @property
    def name(self) -> str:
        """The class's name, with which every error begins."""
        return type(self).__name__

    def networks(self) -> tuple[PlainForm | EnsembleForm, ...]:
        """Make the plain forms of the networks that are evaluated."""
        raise NotImplementedError

    def other_keys(self) -> tuple[Key, ...]:
        """Keys that are read beside those of the networks and the fields."""
        return ()

    def absent(self) -> set[str]:
        """The declared outputs that this instance, as configured, does not give."""
        return set()

    def wire(self) -> None:
        """Derive every list of keys from the fields, the networks and the keys that were set."""
        self._forms = self.networks()
        roots = [key for network in self._forms for key in network.in_keys]
        nexts = [in_next(key) for key in roots]
        inputs = [field.name for field in self.fields if field.kind == "input"]
        read = [key for name in inputs for key in self.keys_of(name)]
        self.in_keys = unique([*roots, *read, *nexts, *self.other_keys()])
        given = self._outputs()
        self._given = self._selected or tuple(field.name for field in given)
        outputs = tuple(field.name for field in given if field.kind == "output")
        self._nested = {field.name: field.key for field in given if field.key != field.name}
        self.output_names = self._selected or outputs
        self.out_keys = tuple(self.tensor_keys.get(name, name) for name in self.output_names)
        output_type(self.name, self.output_names)  # made now: a compiled call only finds it

    def _outputs(self) -> list[Field]:
        """What this instance, as configured, computes."""
        computed = [field for field in self.fields if field.kind in ("output", "metric")]
        return [field for field in computed if field.name not in self.absent()]

    def select_out_keys(self, *names: str) -> Self:
        """Give these outputs only, in this order, in whatever form; metrics may be among them.

        Raises:
            ValueError: there is no such output; nothing is changed then.
        """
        known = [field.name for field in self._outputs()]
        for name in names:
            if name not in known:
                raise ValueError(f"{self.name}: `{name}` is not an output; the outputs are {known}")
        self._selected = names
        self.wire()
        return self

    def reset_out_keys(self) -> Self:
        """Give every output again."""
        self._selected = ()
        self.wire()
        return self

    def keys_of(self, name: str) -> tuple[Key, ...]:
        """The keys of the input ``name``: one, or as many as the policy has heads."""
        key = self.tensor_keys[name]
        return tuple(key) if isinstance(key, list) else (key,)

    def check_fresh(self) -> None:
        """Refuse to go on when a submodule of a network was replaced.

        Raises:
            RuntimeError: one was.
        """
        for network in self._forms:
            network.check_fresh()

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
        self.tensor_keys = before | {name: self._key(name, key) for name, key in keys.items()}
        try:
            self.wire()
        except KeyError:
            self.tensor_keys = before
            raise

    def _key(self, name: str, key: Any) -> Any:
        if key is None:
            return self.default_keys[name]
        if isinstance(key, list) and len(key) == len(self.keys_of(name)) > 1:
            return [self._key(name, one) for one in key]
        parts = key if isinstance(key, tuple) else (key,)
        if not parts or not all(isinstance(part, str) for part in parts):
            raise TypeError(
                f"{self.name}: the key of `{name}` must be a string or a tuple of strings, "
                f"got {key!r}"
            )
        default = self.default_keys[name]
        entered = isinstance(default, tuple) and default[0] == "next"
        return in_next(key) if entered and parts[0] != "next" else key

    def plain_critic(
        self, network: Any, name: str = "value", reads: tuple[Key, ...] = ("observation",)
    ) -> Any:
        """The plain form of a critic, whose output must have the key of the field ``name``.

        A critic's only output is the value, under whatever key, unless another key was set. Of
        several, a key that has yet to be set may say which is: without it, calls are refused.

        Args:
            network: a plain module, which reads ``reads``, a TensorDict module, or an ``Ensemble``.
            name: of the field.
            reads: keys.

        Raises:
            KeyError: it has no output of the key that was set.
        """
        form = EnsembleForm if isinstance(network, Ensemble) else PlainForm
        critic = form(network, self.tensor_keys[name], reads)
        unset = self.tensor_keys[name] == self.default_keys[name]
        if unset and len(critic.out_keys) == 1:
            self.default_keys[name] = critic.out_keys[0]
            self.tensor_keys = self.tensor_keys | {name: critic.out_keys[0]}
        if self.tensor_keys[name] in critic.out_keys:
            critic.keep([self.tensor_keys[name]])
            return critic
        why = (
            f"{self.name}: the key {self.tensor_keys[name]!r} for `{name}` must be an output "
            f"of the critic, whose outputs are {list(critic.out_keys)}"
        )
        if unset:
            return RefusedForm(network, why)
        raise KeyError(why)

    def require(self, data: Data, name: str, why: str = "") -> Tensor:
        """The input ``name``, or an error that says what is missing and what is there."""
        (tensor,) = self.require_each(data, name, why)
        return tensor

    def require_each(self, data: Data, name: str, why: str = "") -> tuple[Tensor, ...]:
        """The input ``name`` as ``require`` does it, of each head of the policy."""
        for key in self.keys_of(name):
            if key not in data:
                raise KeyError(
                    f"{self.name}: the key {key!r} for `{name}` was not found"
                    f"{why and ', needed ' + why}; "
                    f"the keys are {given(data)}"
                )
        return tuple(data[key] for key in self.keys_of(name))
