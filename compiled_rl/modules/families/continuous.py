"""Families of continuous actions."""

from typing import Optional

import torch
from torch import Generator, Tensor

from compiled_rl.functional import (
    normal_entropy,
    normal_kl,
    normal_log_prob,
    normal_mode,
    normal_sample,
    tanh_normal_log_prob,
    tanh_normal_mode,
    tanh_normal_sample,
    tanh_normal_sample_with_log_prob,
    truncated_normal_entropy,
    truncated_normal_log_prob,
    truncated_normal_mode,
    truncated_normal_sample,
)
from compiled_rl.kernels.checks import check_bool, check_last, check_number
from compiled_rl.modules.families.base import (
    Family,
    Params,
    normal_like,
    option_like,
    option_repr,
    set_bounds,
    set_option,
    uniform_like,
)


class Normal(Family):
    """Diagonal normal over the last axis; parameters ``loc`` and ``scale``, both ``[*B, A]``."""

    param_names = ("loc", "scale")

    def log_prob(self, params: Params, action: Tensor) -> Tensor:
        """See ``functional.normal_log_prob``."""
        return normal_log_prob(action, *params)

    def entropy(self, params: Params) -> Tensor:
        """See ``functional.normal_entropy``."""
        return normal_entropy(*params)

    def kl(self, params: Params, other: Params) -> Tensor:
        """See ``functional.normal_kl``."""
        return normal_kl(*params, *other)

    def mode(self, params: Params) -> Tensor:
        """See ``functional.normal_mode``."""
        return normal_mode(*params)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """See ``functional.normal_sample``."""
        loc, scale = params
        return normal_sample(loc, scale, noise)

    def draw_noise(self, params: Params, generator: Optional[Generator] = None) -> Tensor:
        """Standard normal, of the shape of ``loc``."""
        return normal_like(params[0], generator)


class _Bounded(Family):
    """What families with a location, a scale and action bounds share.

    Args:
        low: lower bounds in units of the action, a number or ``[A]``, finite.
        high: upper bounds in units of the action, a number or ``[A]``, finite, above ``low``.
        tanh_loc: keep the location in bounds of its own, ``upscale * tanh(loc / upscale)``.
        upscale: those bounds, positive, a number or ``[A]``.

    Raises:
        ValueError: the bounds are not finite or not ordered.
    """

    param_names = ("loc", "scale")
    low: Tensor | float
    high: Tensor | float
    upscale: Tensor | float

    def __init__(
        self,
        low: Tensor | float = -1.0,
        high: Tensor | float = 1.0,
        tanh_loc: bool = False,
        upscale: Tensor | float = 5.0,
    ) -> None:
        super().__init__()
        set_bounds(self, low, high)
        if not isinstance(upscale, Tensor):
            check_number(type(self).__name__, "upscale", upscale, "positive")
        set_option(self, "upscale", upscale)
        self.tanh_loc = check_bool(type(self).__name__, "tanh_loc", tanh_loc)

    def _loc(self, params: Params) -> Tensor:
        loc = params[0]
        check_last(type(self).__name__, "loc", loc)
        if not self.tanh_loc:
            return loc
        upscale = option_like(self.upscale, loc)
        return upscale * torch.tanh(loc / upscale)

    def _bounds(self, loc: Tensor) -> tuple[Tensor, Tensor]:
        return option_like(self.low, loc), option_like(self.high, loc)

    def extra_repr(self) -> str:
        """The options."""
        return option_repr(self, "low", "high", "tanh_loc", "upscale")


class TanhNormal(_Bounded):
    """Normal squashed by tanh into bounds; parameters ``loc`` and ``scale``, both ``[*B, A]``.

        action = (high + low) / 2 + (high - low) / 2 * tanh(loc + scale * noise)

    The entropy has no closed form. The KL divergence is that of the normals before tanh: a
    bijection keeps it.

    Args:
        low: lower bounds in units of the action, a number or ``[A]``, finite.
        high: upper bounds in units of the action, a number or ``[A]``, finite, above ``low``.
        tanh_loc: use ``upscale * tanh(loc / upscale) + (high + low) / 2`` for ``loc``.
        upscale: bounds of the location, positive, a number or ``[A]``.

    Raises:
        ValueError: the bounds are not finite or not ordered.

    Reference: Haarnoja et al. 2018, arXiv:1801.01290, appendix C.
    """

    analytic_entropy = False

    def _loc(self, params: Params) -> Tensor:
        """TorchRL moves a location that was bounded to the middle of the action's bounds."""
        loc = super()._loc(params)
        if not self.tanh_loc:
            return loc
        low, high = self._bounds(loc)
        return loc + (high + low) / 2

    def log_prob(self, params: Params, action: Tensor) -> Tensor:
        """See ``functional.tanh_normal_log_prob``."""
        loc = self._loc(params)
        return tanh_normal_log_prob(action, loc, params[1], *self._bounds(loc))

    def kl(self, params: Params, other: Params) -> Tensor:
        """See ``functional.normal_kl``."""
        return normal_kl(self._loc(params), params[1], self._loc(other), other[1])

    def mode(self, params: Params) -> Tensor:
        """See ``functional.tanh_normal_mode``."""
        loc = self._loc(params)
        return tanh_normal_mode(loc, *self._bounds(loc))

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """See ``functional.tanh_normal_sample``."""
        loc = self._loc(params)
        return tanh_normal_sample(loc, params[1], noise, *self._bounds(loc))

    def sample_with_log_prob(self, params: Params, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See ``functional.tanh_normal_sample_with_log_prob``."""
        loc = self._loc(params)
        return tanh_normal_sample_with_log_prob(loc, params[1], noise, *self._bounds(loc))

    def draw_noise(self, params: Params, generator: Optional[Generator] = None) -> Tensor:
        """Standard normal, of the shape of ``loc``."""
        return normal_like(params[0], generator)


class TruncatedNormal(_Bounded):
    """Normal cut off at bounds; parameters ``loc`` and ``scale``, both ``[*B, A]``.

    Args:
        low: lower bounds in units of the action, a number or ``[A]``, finite.
        high: upper bounds in units of the action, a number or ``[A]``, finite, above ``low``.
        tanh_loc: use ``upscale * tanh(loc / upscale)`` for ``loc``.
        upscale: bounds of the location, positive, a number or ``[A]``.

    Raises:
        ValueError: the bounds are not finite or not ordered.

    Reference: Burkardt 2014, The Truncated Normal Distribution.
    """

    analytic_kl = False

    def log_prob(self, params: Params, action: Tensor) -> Tensor:
        """See ``functional.truncated_normal_log_prob``."""
        loc = self._loc(params)
        return truncated_normal_log_prob(action, loc, params[1], *self._bounds(loc))

    def entropy(self, params: Params) -> Tensor:
        """See ``functional.truncated_normal_entropy``."""
        loc = self._loc(params)
        return truncated_normal_entropy(loc, params[1], *self._bounds(loc))

    def mode(self, params: Params) -> Tensor:
        """See ``functional.truncated_normal_mode``."""
        loc = self._loc(params)
        return truncated_normal_mode(loc, *self._bounds(loc))

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """See ``functional.truncated_normal_sample``."""
        loc = self._loc(params)
        return truncated_normal_sample(loc, params[1], noise, *self._bounds(loc))

    def draw_noise(self, params: Params, generator: Optional[Generator] = None) -> Tensor:
        """Uniform in [0, 1), of the shape of ``loc``."""
        return uniform_like(params[0], generator)
