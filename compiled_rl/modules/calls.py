"""Calling a module with other parameters than its own."""

from collections.abc import Mapping
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
    collections: Any = [(prefix, module.get_submodule(prefix)) for prefix in slots.collections]
    own = [part._param_td for _, part in collections]
    for prefix, part in collections:
        part._param_td = _replaced(part._param_td, prefix, placed)
    try:
        return functional_call(module, placed, args, tie_weights=False)
    finally:
        for (_, part), before in zip(collections, own, strict=True):
            part._param_td = before


def _replaced(collection: Any, prefix: str, placed: dict[str, Tensor]) -> Any:
    """The TensorDict with those that are placed in it, which are taken."""
    flat = collection.flatten_keys(".")
    for key in list(flat.keys()):
        if f"{prefix}.{key}" in placed:
            flat[key] = placed.pop(f"{prefix}.{key}")
    return flat.unflatten_keys(".")
