"""Hyper-parameters that a user anneals, as 0-d buffers."""

from numbers import Real
from typing import Any, Optional

import torch
from torch import Tensor, nn

from compiled_rl.kernels.checks import check_number

# What a coefficient may be, as a refusal says it.
RANGES = (
    "a number",
    "finite",
    "positive",
    "at least 0",
    "at least 1",
    "in [0, 1]",
    "in [0, 1)",
    "in (0, 1]",
)


class CoefficientModule(nn.Module):
    """A module whose hyper-parameters are 0-d buffers: assigning a number copies in place.

    A buffer is an input of a compiled graph, so a new value never compiles a new one; and it is
    in the state dict, so a checkpoint restores it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ranges: dict[str, str] = {}  # of each coefficient, in the words of a refusal

    def register_coefficient(
        self, name: str, value: Optional[float | Tensor], range_: str = "a number"
    ) -> None:
        """Register ``value`` as the buffer ``name``; None says that there is none, for good.

        What is learned stays what it is: a ``Parameter`` is registered as one, and a tensor that
        requires grad is not copied.

        Args:
            name: of the attribute.
            value: what it is at first.
            range_: what it may be, now and when it is assigned: one of ``RANGES``.

        Raises:
            ValueError: the value is a bool, not a scalar, or out of its range, which is unknown.
        """
        if range_ not in RANGES:
            raise ValueError(f"{type(self).__name__}: `range_` must be in {RANGES}, got {range_!r}")
        self._ranges[name] = range_
        if value is None:
            self.register_buffer(name, None)
            return
        self.check_coefficient(name, value)
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Tensor) and value.requires_grad:
            self.register_buffer(name, value)
        else:
            self.register_buffer(name, _copied(value))

    def check_coefficient(self, name: str, value: Any) -> None:
        """Refuse what the coefficient may not be."""
        check_range(type(self).__name__, name, value, self._ranges.get(name, "a number"))

    def __setattr__(self, name: str, value: Any) -> None:
        if not self._is_coefficient(name):
            super().__setattr__(name, value)
            return
        held = getattr(self, name)
        if (held is None) != (value is None):
            raise AttributeError(
                f"{type(self).__name__}: `{name}` is given or None from the start, got {value!r}"
            )
        if value is None:
            return
        self.check_coefficient(name, value)
        if isinstance(value, Tensor) and value.requires_grad:
            super().__setattr__(name, value)
        elif isinstance(value, Tensor) and value.dim() and value.shape != held.shape:
            super().__setattr__(name, value.to(held, copy=True))
        else:
            with torch.no_grad():  # what is learned takes a number, too
                held.copy_(torch.as_tensor(value, dtype=held.dtype))

    def _is_coefficient(self, name: str) -> bool:
        """Whether it was registered as one, or as a 0-d buffer, which takes any number."""
        buffer = self.__dict__.get("_buffers", {}).get(name)
        scalar = buffer is not None and buffer.dim() == 0
        return scalar or name in self.__dict__.get("_ranges", ())


def _copied(value: float | Tensor) -> Tensor:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    dtype = value.dtype if isinstance(value, Tensor) and floating else torch.get_default_dtype()
    return torch.as_tensor(value, dtype=dtype).detach().clone()


def holds(condition: Tensor) -> bool:
    """Whether a condition on values holds for all; on the ``meta`` device there are none to ask."""
    return condition.is_meta or bool(condition.all())


def check_range(owner: str, name: str, value: Any, range_: str) -> None:
    """Refuse what is neither a number nor a 0-d tensor of one, and one out of a range.

    The value of a tensor is asked where there is one: in a graph, and on ``meta``, there is none.
    """
    number = isinstance(value, Real | Tensor) and not isinstance(value, bool)
    if isinstance(value, Tensor):
        number = value.dim() == 0 and value.dtype != torch.bool and not value.is_complex()
    if not number:
        got = (
            f"{value.dtype} of shape {list(value.shape)}"
            if isinstance(value, Tensor)
            else repr(value)
        )
        raise ValueError(f"{owner}: `{name}` must be a float or a 0-d tensor, got {got}")
    if not isinstance(value, Tensor):
        check_number(owner, name, value, range_)
    elif not (value.is_meta or torch.compiler.is_compiling()):
        check_number(owner, name, float(value.detach()), range_)
