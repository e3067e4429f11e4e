"""What losses and estimators share: inputs found by key, outputs given by name."""

from typing import Any, ClassVar, Self

from torch import Tensor

from compiled_rl.adapters.dispatch import Data, given, output_type
from compiled_rl.adapters.fields import Field, Key, describe, in_next, is_next, unique
from compiled_rl.adapters.keys import AcceptsKeys, Keys, entered_as
from compiled_rl.adapters.plain import EnsembleForm, PlainForm, RefusedForm
from compiled_rl.modules import Ensemble


class KeyedModule(AcceptsKeys):
    """A module that declares ``fields`` and derives every list of keys from them.

    A subclass registers its networks as ordinary attributes, makes their plain forms in
    ``networks``, and calls ``wire`` at the end of its constructor.
    """

    fields: tuple[Field, ...] = ()
    fixed: ClassVar[tuple[str, ...]] = ()  # attributes that are what they were made
    settable: ClassVar[tuple[str, ...]] = ("input",)  # the kinds of fields whose key may be set
    output_names: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.default_keys = Keys(cls.declared_keys(), cls.names_entered())
        cls.__doc__ = (cls.__doc__ or "") + describe(cls.fields)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._selected: tuple[str, ...] = ()

    @classmethod
    def declared_keys(cls) -> dict[str, Any]:
        """Those of the fields; a default that a subclass has in ``_AcceptedKeys`` stands before."""
        own = {field.name: field.key for field in cls.fields if field.kind in cls.settable}
        others = super().declared_keys()
        return own | {name: entered_as(own.get(name), key) for name, key in others.items()}

    @classmethod
    def names_entered(cls) -> list[str]:
        """The fields that are found under ``"next"`` by default."""
        return [field.name for field in cls.fields if is_next(field.key)]

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
        self.out_keys = tuple(dict.get(self.tensor_keys, x, x) for x in self.output_names)
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

    def takes_several(self, name: str, key: Any) -> bool:
        """As many as the policy has heads, if it has several."""
        return isinstance(key, list) and len(key) == len(self.keys_of(name)) > 1

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
            self.take_defaults(**{name: critic.out_keys[0]})
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
