"""Calling a module with other parameters than its own."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.func import functional_call


class Slots(NamedTuple):
    """Every place of a parameter or a buffer.

    Attributes:
        names: by place, the name that its tensor goes by.
        owners: by place, the module that has it.
        collections: the TensorDictParams, which compute with tensors of a TensorDict of their own,
            whatever a functional call puts in the place of their parameters.
    """

    names: dict[str, str]
    owners: dict[str, str]
    collections: tuple[str, ...]


def slots_of(module: nn.Module) -> Slots:
    """The places, each once."""
    names: dict[int, str] = {}
    slots: dict[str, str] = {}
    owners: dict[str, str] = {}
    parts = dict(module.named_modules())
    for prefix, part in parts.items():
        for name, x in (*part._parameters.items(), *part._buffers.items()):
            if x is not None:
                slot = f"{prefix}.{name}" if prefix else name
                slots[slot] = names.setdefault(id(x), slot)
                owners[slot] = prefix
    collections = [prefix for prefix, part in parts.items() if holds_tensordict(part)]
    return Slots(slots, owners, tuple(collections))


def holds_tensordict(module: nn.Module) -> bool:
    """Whether it is a TensorDictParams; TorchRL's networks of several agents have one."""
    return hasattr(module, "_param_td")


def parameters_at(module: nn.Module, slots: Slots) -> dict[str, Tensor]:
    """The parameters that are there at the call, by name.

    TorchDynamo walks over no module that was written to, as TorchRL's networks of several agents
    write to theirs; here it need not.
    """
    found: dict[str, Tensor] = {}
    for slot, prefix in slots.owners.items():
        own = module.get_submodule(prefix)._parameters
        x = own.get(slot[len(prefix) + 1 :] if prefix else slot)
        if x is not None and slots.names[slot] == slot:
            found[slot] = x
    return found


def call_with(module: nn.Module, slots: Slots, tensors: Mapping[str, Tensor], *args: Any) -> Any:
    """Call a module with ``tensors``, by name, in the place of its own; gradients reach them.

    ``torch.func.functional_call`` alone fills the place of a module that is held under two names
    twice, and after the call puts back what it took out the second time: not the parameter, but
    the tensor of the call.

    Args:
        module: called with ``args``.
        slots: ``slots_of(module)``, which need be asked for once.
        tensors: by the names of ``named_parameters`` and ``named_buffers``.
        *args: of the call.
    """
    placed = {slot: tensors[name] for slot, name in slots.names.items() if name in tensors}
    collections = collections_in(module, slots)
    own = [
        _put(collection, _taken(placed, f"{prefix}."))
        for prefix, collection in zip(slots.collections, collections, strict=True)
    ]
    try:
        return call_filled(
            collections, functional_call, module, placed, args, None, tie_weights=False
        )
    finally:
        for collection, before in zip(collections, own, strict=True):
            _put(collection, before)


def collections_in(module: nn.Module, slots: Slots) -> list[Any]:
    """The collections of a module, ``slots`` being its places."""
    return [module.get_submodule(prefix) for prefix in slots.collections]


def _taken(placed: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those of a collection, which a functional call would not find."""
    slots = [slot for slot in placed if slot.startswith(prefix)]
    return {slot.removeprefix(prefix): placed.pop(slot) for slot in slots}


def _put(collection: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put tensors in the place of a collection's own, which are returned."""
    before = {}
    for name, x in tensors.items():
        places = _places(collection, name)
        before[name], places[name] = places[name], x
    return before


def _places(collection: Any, name: str) -> dict[str, Tensor]:
    own = collection._parameters
    places: dict[str, Tensor] = own if name in own else collection._buffers
    return places


def call_filled(
    collections: Sequence[Any], function: Callable[..., Any], *args: Any, **options: Any
) -> Any:
    """Call a function while collections compute with the tensors that are now in their places."""
    own = [collection._param_td for collection in collections]
    for collection in collections:
        collection._param_td = filled(collection)
    try:
        return function(*args, **options)
    finally:
        for collection, before in zip(collections, own, strict=True):
            collection._param_td = before


def filled(collection: Any) -> Any:
    """A collection's TensorDict, with the tensors that are now in their places."""
    own, held = tensors_in(collection), collection._param_td
    leaves = {_name(key): x for key, x in held.items(True, True)}
    if all(own[name] is x for name, x in leaves.items()):
        return held
    # A stack may be in the place of one, and one in that of a stack.
    first = next(iter(leaves))
    more = own[first].dim() - leaves[first].dim()
    batch = [*own[first].shape[: max(more, 0)], *held.batch_size[max(-more, 0) :]]
    return held.named_apply(lambda key, _: own[_name(key)], nested_keys=True, batch_size=batch)


def deep_copy(network: nn.Module, kept: Mapping[Tensor, Tensor]) -> nn.Module:
    """A deep copy with tensors that are given in the place of some.

    ``copy.deepcopy`` alone copies what a TensorDictParams holds, even if something else holds it.
    """
    memo: dict[int, Any] = {id(x): other for x, other in kept.items()}
    for part in network.modules():
        if holds_tensordict(part):
            collection: Any = part
            memo[id(part)] = made = collection.clone(recurse=False)
            _put(made, {name: copy.deepcopy(x, memo) for name, x in tensors_in(made).items()})
            made._param_td = filled(made)
    return copy.deepcopy(network, memo)


def tensors_in(collection: Any) -> dict[str, Tensor]:
    """The tensors that are now in a collection's places, by name."""
    return {**collection._parameters, **collection._buffers}


def _name(key: str | tuple[str, ...]) -> str:
    return key if isinstance(key, str) else ".".join(key)


def make_reachable(module: nn.Module) -> None:
    """Let ``torch.func.functional_call`` find the tensors of collections by their names.

    It looks for ``params.0.weight`` in a module ``params.0``. There is none, and a
    TensorDictParams makes one for the occasion, which nothing computes with. A copy of the module
    has to be made reachable, too.
    """
    for part in module.modules():
        if holds_tensordict(part):
            firsts = {name.split(".")[0] for name in tensors_in(part) if "." in name}
            # Not as children: they have no tensors of their own.
            part.__dict__.update({first: _Place(part, first) for first in firsts})


class _Place(nn.Module):
    """The tensors of a collection whose names begin with ``path``, under the rest of the name."""

    def __init__(self, collection: nn.Module, path: str) -> None:
        super().__init__()
        self.__dict__.update(_collection=collection, _path=path)

    def __reduce__(self) -> tuple[Any, ...]:
        """It is nothing in a file, which then can be read without this library."""
        return type(None), ()

    def __getattr__(self, name: str) -> Any:
        path, own = f"{self._path}.{name}", tensors_in(self._collection)
        if path in own:
            return own[path]
        if any(other.startswith(f"{path}.") for other in own):
            return _Place(self._collection, path)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        _put(self._collection, {f"{self._path}.{name}": value})
