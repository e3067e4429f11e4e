"""Hyper-parameters that a user anneals, as 0-d buffers."""

from numbers import Real
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from compiled_rl.kernels.checks import check_number, is_in_range

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
_DIGITS = 6  # the sums of a schedule may end a rounding beyond the last


class CoefficientModule(nn.Module):
    """A module whose hyper-parameters are 0-d buffers: assigning a number copies in place.

    A buffer is an input of a compiled graph, so a new value never compiles a new one; and it is
    in the state dict, so a checkpoint restores it.
    """

    _ranges: dict[str, str]

    def register_coefficient(
        self,
        name: str,
        value: Optional[float | Tensor],
        range_: str = "a number",
        optional: bool = False,
    ) -> None:
        """Register ``value`` as the buffer ``name``, which is held to its range from now on.

        What is learned stays what it is: a ``Parameter`` is registered as one, and a tensor that
        requires grad is not copied. The values of tensors are asked on a CPU, where nothing traces
        or transforms. What is moved in place, by ``+=`` for instance, has moved when it is refused.

        Args:
            name: of the attribute.
            value: what it is at first.
            range_: what it may be: ``"a number"``, ``"finite"``, ``"positive"``, ``"at least 0"``,
                ``"at least 1"``, ``"in [0, 1]"``, ``"in [0, 1)"`` or ``"in (0, 1]"``. What is
                assigned may be beyond the end by rounding, less than a millionth.
            optional: whether it may be None, which says that there is none, for good.

        Raises:
            ValueError: the value is no number, or out of its range, or there is no such range.
        """
        if range_ not in RANGES:
            raise ValueError(f"{type(self).__name__}: `range_` must be in {RANGES}, got {range_!r}")
        if value is not None or not optional:
            self.check_coefficient(name, value, range_)
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        elif value is None or (isinstance(value, Tensor) and value.requires_grad):
            self.register_buffer(name, value)
        else:
            self.register_buffer(name, _copied(value))
        self.__dict__.setdefault("_ranges", {})[name] = range_
        self.place(name)

    def home(self) -> Optional[torch.device]:
        """Where coefficients belong; None: where they are."""
        return None

    def place(self, name: str) -> None:
        """Put a coefficient where it belongs; a ``Parameter`` stays where it is."""
        home, buffer = self.home(), self._buffers.get(name)
        if home is not None and buffer is not None:
            self._buffers[name] = buffer.to(home)

    def check_coefficient(
        self, name: str, value: Any, range_: str, digits: Optional[int] = None
    ) -> None:
        """Refuse what the coefficient may not be; see ``check_range``."""
        check_range(type(self).__name__, name, value, range_, digits)

    def __setattr__(self, name: str, value: Any) -> None:
        range_ = self._range_of(name, value)
        if range_ is None:
            super().__setattr__(name, value)
            return
        held = getattr(self, name)
        if (held is None) != (value is None):
            raise AttributeError(
                f"{type(self).__name__}: `{name}` is given or None from the start, got {value!r}"
            )
        if value is None:
            return
        self.check_coefficient(name, value, range_, _DIGITS)
        if isinstance(value, Tensor) and value.requires_grad:
            super().__setattr__(name, value)
        elif held.is_meta:
            super().__setattr__(name, _copied(value))
        elif isinstance(value, Tensor) and value.dim() and value.shape != held.shape:
            super().__setattr__(name, value.to(held, copy=True))
        else:
            with torch.no_grad():  # what is learned takes a number, too
                held.copy_(torch.as_tensor(value, dtype=held.dtype))

    def _range_of(self, name: str, value: Any) -> Optional[str]:
        """That of a coefficient; a 0-d buffer of anybody's is one that takes any number."""
        state = self.__dict__
        buffers = state.get("_buffers", {})
        if name not in buffers and name not in state.get("_parameters", {}):
            return None
        if name in state.get("_ranges", {}):
            return self._ranges[name]
        held = buffers.get(name)
        number = isinstance(value, Real) or (isinstance(value, Tensor) and value.dim() == 0)
        return "a number" if number and held is not None and held.dim() == 0 else None


def _copied(value: float | Tensor) -> Tensor:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    dtype = value.dtype if isinstance(value, Tensor) and floating else torch.get_default_dtype()
    return torch.as_tensor(value, dtype=dtype).detach().clone()


def holds(condition: Tensor) -> bool:
    """Whether a condition on values holds for all; on the ``meta`` device there are none to ask."""
    return condition.is_meta or bool(condition.all())


def check_range(
    owner: str, name: str, value: Any, range_: str, digits: Optional[int] = None
) -> None:
    """Refuse what is neither a number nor a 0-d tensor of one, and one out of a range.

    With ``digits``, one that rounded to so many is in it, is.
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
    if isinstance(value, Tensor):
        if range_ == "a number" or not has_value(value):
            return
        value = float(value.detach())
    if not is_in_range(value, range_):
        check_number(owner, name, value if digits is None else round(value, digits), range_)


def has_value(x: Tensor) -> bool:
    """Whether it can be asked for its value, at no cost: on a CPU, and nothing traces it."""
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x) or isinstance(x, FakeTensor)
    traced = torch._C._get_tracing_state() is not None or get_proxy_mode() is not None
    return not wrapped and not traced
