"""Distribution families: what a policy's parameters mean. No parameters, no state."""

from abc import abstractmethod
from typing import ClassVar, Optional

import torch
from torch import Generator, Tensor, nn

from compiled_rl.functional import (
    categorical_entropy,
    categorical_kl,
    categorical_log_prob,
    categorical_mode,
    categorical_sample,
    normal_entropy,
    normal_kl,
    normal_log_prob,
    normal_mode,
    normal_sample,
)

Params = tuple[Tensor, ...]


class Family(nn.Module):
    """A distribution as functions of its parameter tensors, in the order of ``param_names``."""

    param_names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def log_prob(self, params: Params, action: Tensor) -> Tensor:
        """Log-probability of ``action``, ``[*B]``."""

    @abstractmethod
    def entropy(self, params: Params) -> Tensor:
        """Entropy, ``[*B]``."""

    @abstractmethod
    def kl(self, params: Params, other: Params) -> Tensor:
        """``KL(params || other)``, ``[*B]``."""

    @abstractmethod
    def mode(self, params: Params) -> Tensor:
        """The deterministic action."""

    @abstractmethod
    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """A sample from given noise, of the kind that ``draw_noise`` draws."""

    @abstractmethod
    def draw_noise(self, params: Params, generator: Optional[Generator] = None) -> Tensor:
        """Noise for one sample."""


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


_FAMILIES: dict[tuple[str, str], type[Family]] = {
    ("torch", "Categorical"): Categorical,
    ("torch", "OneHotCategorical"): OneHotCategorical,
    ("torchrl", "OneHotCategorical"): OneHotCategorical,
    ("torchrl", "IndependentNormal"): Normal,
}


def family_of(distribution: type | Family) -> Family:
    """The family that a distribution class stands for.

    Args:
        distribution: a class of torch or TorchRL, or a family or a family's class of ours.

    Returns:
        A ``Family``.

    Raises:
        TypeError: the class is in no table.
    """
    if isinstance(distribution, Family):
        return distribution
    if isinstance(distribution, type) and issubclass(distribution, Family):
        return distribution()
    name = getattr(distribution, "__name__", repr(distribution))
    library = getattr(distribution, "__module__", "").split(".")[0]
    if (library, name) not in _FAMILIES:
        known = ", ".join(".".join(key) for key in _FAMILIES)
        raise TypeError(
            f"family_of: `distribution` must be a compiled_rl Family or one of {known}, "
            f"got {library}.{name}"
        )
    return _FAMILIES[library, name]()
