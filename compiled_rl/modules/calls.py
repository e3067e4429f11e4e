"""Calling a module with other parameters than its own."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def slots_of(module: nn.Module) -> dict[str, str]:
    """Every place of a parameter or a buffer, each once, and the name that its tensor goes by."""
    names: dict[int, str] = {}
    slots: dict[str, str] = {}
    for prefix, part in module.named_modules():
        for name, x in (*part._parameters.items(), *part._buffers.items()):
            if x is not None:
                slot = f"{prefix}.{name}" if prefix else name
                slots[slot] = names.setdefault(id(x), slot)
    return slots


def call_with(
    module: nn.Module, slots: Mapping[str, str], tensors: Mapping[str, Tensor], *args: Any
) -> Any:
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
    placed = {slot: tensors[name] for slot, name in slots.items() if name in tensors}
    return functional_call(module, placed, args, tie_weights=False)
