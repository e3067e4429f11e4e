"""Hyper-parameters that a user anneals, as 0-d buffers."""

from numbers import Real
from typing import Any, Optional

import torch
from torch import Tensor, nn


class CoefficientModule(nn.Module):
    """A module whose hyper-parameters are 0-d buffers: assigning a number copies in place.

    A buffer is an input of a compiled graph, so a new value never compiles a new one; and it is
    in the state dict, so a checkpoint restores it.
    """

    def register_coefficient(self, name: str, value: Optional[float | Tensor]) -> None:
        """Register ``value`` as the buffer ``name``; None says that there is none, for good.

        What is learned stays what it is: a ``Parameter`` is registered as one, and a tensor that
        requires grad is not copied.

        Raises:
            ValueError: the value is a bool, or not a scalar.
        """
        if value is None:
            self.register_buffer(name, None)
            return
        check_coefficient(type(self).__name__, name, value)
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Tensor) and value.requires_grad:
            self.register_buffer(name, value)
        else:
            self.register_buffer(name, _copied(value))

    def __setattr__(self, name: str, value: Any) -> None:
        state = self.__dict__
        held = {**state.get("_parameters", {}), **state.get("_buffers", {})}
        if name not in held:
            super().__setattr__(name, value)
        elif name in state["_buffers"] and (held[name] is None) != (value is None):
            raise AttributeError(
                f"{type(self).__name__}: `{name}` is given or None from the start, got {value!r}"
            )
        elif not _replaces(value):
            check_coefficient(type(self).__name__, name, value)
            with torch.no_grad():  # what is learned takes a number, too
                held[name].copy_(torch.as_tensor(value, dtype=held[name].dtype))
        else:
            super().__setattr__(name, value)


def _copied(value: float | Tensor) -> Tensor:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    dtype = value.dtype if isinstance(value, Tensor) and floating else torch.get_default_dtype()
    return torch.as_tensor(value, dtype=dtype).detach().clone()


def holds(condition: Tensor) -> bool:
    """Whether a condition on values holds for all; on the ``meta`` device there are none to ask."""
    return condition.is_meta or bool(condition.all())


def _replaces(value: Any) -> bool:
    """Whether it takes the buffer's place: what is learned, several numbers, None."""
    if isinstance(value, Tensor):
        return value.dim() > 0 or value.requires_grad
    return value is None


def check_coefficient(owner: str, name: str, value: Any) -> None:
    """Refuse what is neither a number, of which NaN is none, nor a 0-d tensor of one."""
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
    if not isinstance(value, Tensor) and value != value:
        raise ValueError(f"{owner}: `{name}` must be a number, got {value}")
