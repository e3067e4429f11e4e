"""Which tensor of a frozen copy follows which of its network."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn

from compiled_rl.adapters import Key

PREFIX = "target_"  # of every name of a frozen copy
# Where a module keeps a tensor: another one may stand there after `loss.to(...)`.
Place = tuple[dict[str, Optional[Tensor]], str]


class Pair(NamedTuple):
    """A tensor of a frozen copy and that of the network, by their names in the loss."""

    target: str
    source: str
    target_place: Place
    source_place: Place

    @property
    def has_mean(self) -> bool:
        """Whether it can be averaged."""
        return has_mean(at(self.target_place))

    @property
    def distinct(self) -> bool:
        """Whether the copy has memory of its own."""
        return not at(self.target_place).is_set_to(at(self.source_place))


def has_mean(x: Tensor) -> bool:
    """Whether a tensor can be averaged; a count of batches cannot."""
    return x.is_floating_point() or x.is_complex()


def pairs_of(name: str, loss: nn.Module) -> list[Pair]:
    """Every tensor of every child ``target_X`` of a loss, each once, and its tensor of ``X``.

    Args:
        name: of who asks, for the errors.
        loss: ours, or one of TorchRL's, whose children are views of parameters.

    Raises:
        RuntimeError: there is no such child, a tensor of one has no counterpart, or requires a
            gradient.
    """
    places = dict(places_of(loss))
    names: dict[int, str] = {}
    copies: dict[int, str] = {}
    for slot, place in places.items():
        names.setdefault(id(at(place)), slot)
        if slot.startswith(PREFIX) and "." in slot:
            copies.setdefault(id(at(place)), slot)
    if not copies:
        raise RuntimeError(f"{name}: `loss_module` must have frozen copies `target_...`, got none")
    return [_pair(name, copy, places, names) for copy in copies.values()]


def _pair(name: str, copy: str, places: dict[str, Place], names: dict[int, str]) -> Pair:
    source = places.get(copy.removeprefix(PREFIX))
    if source is None:
        raise RuntimeError(f"{name}: the target `{copy}` must have a network, got none in the loss")
    if at(places[copy]).requires_grad:
        raise RuntimeError(f"{name}: the target `{copy}` must not require a gradient, but does")
    return Pair(copy, names[id(at(source))], places[copy], source)


def places_of(loss: nn.Module) -> Iterator[tuple[str, Place]]:
    """Every parameter and buffer; those of a module that has several names, under each."""
    for prefix, part in loss.named_modules(remove_duplicate=False):
        for owned in (part._parameters, part._buffers):
            for key, x in owned.items():
                if x is not None:
                    yield f"{prefix}.{key}" if prefix else key, (owned, key)


def at(place: Place) -> Tensor:
    """The tensor that stands there now."""
    owned, key = place
    tensor = owned[key]
    assert tensor is not None
    return tensor


@torch.no_grad()
def copy_networks(pairs: Iterable[Pair]) -> None:
    """Make the copies equal to their networks."""
    for pair in pairs:
        at(pair.target_place).copy_(at(pair.source_place))


def trees(pairs: Iterable[Pair]) -> tuple[Any, Any]:
    """The networks' tensors and the copies', as TensorDicts, as TorchRL's updaters have them."""
    from compiled_rl.adapters.tensordict import to_tensordict

    sources = {_path(pair.target.removeprefix(PREFIX)): at(pair.source_place) for pair in pairs}
    targets = {_path(pair.target): at(pair.target_place) for pair in pairs}
    return to_tensordict(sources), to_tensordict(targets)


def _path(name: str) -> Key:
    return tuple(name.split("."))
