"""What calling a network may move, such as batch normalisation's statistics, and its way back."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from compiled_rl.training.pairs import PREFIX, Place, at, places_of

Saved = list[tuple[Place, Tensor, Tensor]]


def statistics_of(loss: nn.Module) -> list[Place]:
    """Where a loss has its buffers, but for frozen copies: those no call moves."""
    parameters = {id(module._parameters) for module in loss.modules()}
    return [
        place
        for name, place in places_of(loss)
        if not name.startswith(PREFIX) and id(place[0]) not in parameters
    ]


@torch.no_grad()
def saved(places: Iterable[Place]) -> Saved:
    """What stands there now: the place, the tensor and a copy of its values."""
    return [(place, at(place), at(place).clone()) for place in places]


@torch.no_grad()
def put_back(before: Saved) -> None:
    """Undo what was done to buffers, in place or by putting another there."""
    for (owned, key), tensor, values in before:
        owned[key] = tensor
        tensor.copy_(values)
