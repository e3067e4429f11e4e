"""Numbers that a graph reads and a user sets: one tensor each, so that no value compiles anew."""

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
