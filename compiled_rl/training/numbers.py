"""Numbers that a graph reads and a user sets: one tensor each, so that no value compiles anew."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class Number:
    """A 0-d tensor that is written to when its number has changed, and stays the same tensor.

    Args:
        tensor: 0-d, where and of the dtype that the graph wants it.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._held: Any = None

    def holding(self, number: float | Tensor) -> Tensor:
        """The tensor, with ``number`` in it."""
        if isinstance(number, Tensor):
            self.tensor.copy_(number)
        elif number != self._held:
            self.tensor.fill_(number)
        self._held = number
        return self.tensor

    def moved(self) -> float:
        """The number, after a graph has written to the tensor."""
        number = float(self.tensor)
        self._held = number
        return number


def writable(x: Tensor) -> Tensor:
    """What to write to in the place of ``x``.

    TorchDynamo loses what is written to a float64 number when it traces once more.
    """
    x = x.detach()
    return x.view(1) if x.dim() == 0 else x


def put(tensors: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    """Write what is new to where it was."""
    for name, tensor in tensors.items():
        if name in new and new[name] is not tensor:
            writable(tensor).copy_(new[name])
