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
)
from compiled_rl.modules.families.base import Family, Params


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
        loc = params[0]
        return torch.randn(loc.shape, generator=generator, dtype=loc.dtype, device=loc.device)
