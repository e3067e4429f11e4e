"""Families of one action."""

from typing import Optional

import torch
from torch import Generator, Tensor

from compiled_rl.functional import deterministic_log_prob, tanh_normal_mode
from compiled_rl.kernels.checks import check_last, check_number
from compiled_rl.modules.families.base import (
    Family,
    Params,
    option_like,
    option_repr,
    set_bounds,
)


class Deterministic(Family):
    """All the probability on one action; parameter ``param``, ``[*B, A]``.

    Args:
        atol: how far an action may be from the parameter, in units of the action.
        rtol: likewise, relative to the parameter.

    Raises:
        ValueError: a tolerance is negative.
    """

    param_names = ("param",)

    def __init__(self, atol: float = 1e-6, rtol: float = 1e-6) -> None:
        super().__init__()
        check_number(type(self).__name__, "atol", atol, "at least 0")
        check_number(type(self).__name__, "rtol", rtol, "at least 0")
        self.atol, self.rtol = atol, rtol

    def log_prob(self, params: Params, action: Tensor) -> Tensor:
        """See ``functional.deterministic_log_prob``."""
        return deterministic_log_prob(action, self.mode(params), self.atol, self.rtol)

    def entropy(self, params: Params) -> Tensor:
        """Zero: nothing is uncertain."""
        check_last(type(self).__name__, "param", params[0])
        return torch.zeros_like(params[0][..., 0])

    def kl(self, params: Params, other: Params) -> Tensor:
        """Zero where the actions are the same, else infinite."""
        return 0 - self.log_prob(other, self.mode(params))

    def mode(self, params: Params) -> Tensor:
        """The action."""
        check_last(type(self).__name__, "param", params[0])
        return params[0].clone()

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """The action, whatever the noise; the gradient reaches the parameter."""
        return self.mode(params)

    def draw_noise(self, params: Params, generator: Optional[Generator] = None) -> Tensor:
        """Zeros of the shape of the parameter."""
        return torch.zeros_like(params[0])

    def extra_repr(self) -> str:
        """The options."""
        return option_repr(self, "atol", "rtol")


class TanhDeterministic(Deterministic):
    """All the probability on one squashed action; parameter ``param``, ``[*B, A]``.

        action = middle + (high - low) / 2 * tanh(param + middle),   middle = (high + low) / 2

    Args:
        low: lower bounds in units of the action, a number or ``[A]``, finite.
        high: upper bounds in units of the action, a number or ``[A]``, finite, above ``low``.
        atol: how far an action may be from the squashed one, in units of the action.
        rtol: likewise, relative to the squashed action.

    Raises:
        ValueError: the bounds are not finite or not ordered.
    """

    low: Tensor | float
    high: Tensor | float

    def __init__(
        self,
        low: Tensor | float = -1.0,
        high: Tensor | float = 1.0,
        atol: float = 1e-6,
        rtol: float = 1e-6,
    ) -> None:
        super().__init__(atol, rtol)
        set_bounds(self, low, high)

    def mode(self, params: Params) -> Tensor:
        """See ``functional.tanh_normal_mode``."""
        (param,) = params
        check_last(type(self).__name__, "param", param)
        low, high = option_like(self.low, param), option_like(self.high, param)
        return tanh_normal_mode(param + (high + low) / 2, low, high)

    def extra_repr(self) -> str:
        """The options."""
        return option_repr(self, "low", "high", "atol", "rtol")
