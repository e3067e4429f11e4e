"""Families of discrete actions."""

from typing import Optional

import torch
from torch import Generator, Tensor, nn

from compiled_rl.functional import (
    categorical_entropy,
    categorical_kl,
    categorical_log_prob,
    categorical_mode,
    categorical_sample,
)
from compiled_rl.modules.families.base import Family, Params


class Categorical(Family):
    """Categorical over the last axis; parameter ``logits``, ``[*B, N]``; actions are indices."""

    param_names = ("logits",)

    def log_prob(self, params: Params, action: Tensor) -> Tensor:
        """See ``functional.categorical_log_prob``."""
        return categorical_log_prob(action, *params)

    def entropy(self, params: Params) -> Tensor:
        """See ``functional.categorical_entropy``."""
        return categorical_entropy(*params)

    def kl(self, params: Params, other: Params) -> Tensor:
        """See ``functional.categorical_kl``."""
        return categorical_kl(*params, *other)

    def mode(self, params: Params) -> Tensor:
        """See ``functional.categorical_mode``."""
        return categorical_mode(*params)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """See ``functional.categorical_sample``."""
        (logits,) = params
        return categorical_sample(logits, noise)

    def draw_noise(self, params: Params, generator: Optional[Generator] = None) -> Tensor:
        """Uniform in [0, 1), of the shape of ``logits``."""
        logits = params[0]
        return torch.rand(
            logits.shape, generator=generator, dtype=logits.dtype, device=logits.device
        )


class OneHotCategorical(Categorical):
    """Categorical whose actions are one-hot vectors, int64 ``[*B, N]``."""

    def mode(self, params: Params) -> Tensor:
        """The mode of ``Categorical``, one-hot."""
        return _one_hot(super().mode(params), params)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """The sample of ``Categorical``, one-hot."""
        return _one_hot(super().sample(params, noise), params)


def _one_hot(index: Tensor, params: Params) -> Tensor:
    return nn.functional.one_hot(index, params[0].shape[-1])


class Composite(Family):
    """."""
