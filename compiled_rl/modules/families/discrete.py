"""Families of discrete actions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Optional

import torch
from torch import Generator, Tensor, nn

from compiled_rl.functional import (
    bernoulli_entropy,
    bernoulli_kl,
    bernoulli_log_prob,
    bernoulli_mode,
    bernoulli_sample,
    categorical_entropy,
    categorical_kl,
    categorical_log_prob,
    categorical_mode,
    categorical_sample,
    multi_categorical_entropy,
    multi_categorical_kl,
    multi_categorical_log_prob,
    multi_categorical_mode,
    multi_categorical_sample,
)
from compiled_rl.kernels.checks import check_flag, check_last
from compiled_rl.modules.arguments import check_count
from compiled_rl.modules.families.base import Family, Params, uniform_like


class Categorical(Family):
    """Categorical over the last axis; actions are indices, ``[*B]``.

    Args:
        parameter: what the network gives, ``[*B, N]``: ``logits`` or ``probs``.

    Raises:
        ValueError: ``parameter`` is neither.
    """

    reparametrized = False

    def __init__(self, parameter: str = "logits") -> None:
        super().__init__()
        _check_parameter(type(self).__name__, parameter)
        self.param_names = (parameter,)

    def logits(self, params: Params) -> Tensor:
        """The parameters as logits; minus infinity forbids an action."""
        return params[0] if self.param_names[0] == "logits" else _log(params[0])

    def log_prob(self, params: Params, action: Tensor) -> Tensor:
        """See ``functional.categorical_log_prob``."""
        return categorical_log_prob(action, self.logits(params))

    def entropy(self, params: Params) -> Tensor:
        """See ``functional.categorical_entropy``."""
        return categorical_entropy(self.logits(params))

    def kl(self, params: Params, other: Params) -> Tensor:
        """See ``functional.categorical_kl``."""
        return categorical_kl(self.logits(params), self.logits(other))

    def mode(self, params: Params) -> Tensor:
        """See ``functional.categorical_mode``."""
        return categorical_mode(self.logits(params))

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """See ``functional.categorical_sample``."""
        return categorical_sample(self.logits(params), noise)

    def draw_noise(self, params: Params, generator: Optional[Generator] = None) -> Tensor:
        """Uniform in [0, 1), one number a class."""
        return uniform_like(params[0], generator)

    def extra_repr(self) -> str:
        """The options."""
        return f"parameter={self.param_names[0]!r}"


class OneHotCategorical(Categorical):
    """Categorical whose actions are one-hot vectors, int64 ``[*B, N]``.

    Args:
        parameter: what the network gives, ``[*B, N]``: ``logits`` or ``probs``.

    Raises:
        ValueError: ``parameter`` is neither.
    """

    def mode(self, params: Params) -> Tensor:
        """The mode of ``Categorical``, one-hot."""
        return nn.functional.one_hot(super().mode(params), params[0].shape[-1])

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """The sample of ``Categorical``, one-hot."""
        return nn.functional.one_hot(super().sample(params, noise), params[0].shape[-1])


class MaskedCategorical(Categorical):
    """Categorical over the allowed actions; the second parameter is ``mask``, bool ``[*B, N]``.

    True is allowed. A mask that allows nothing, as padding has it, allows everything: so that
    nothing becomes NaN there. It does where every allowed action has a probability of zero.

    Args:
        parameter: what the network gives, ``[*B, N]``: ``logits`` or ``probs``.

    Raises:
        ValueError: ``parameter`` is neither.
    """

    def __init__(self, parameter: str = "logits") -> None:
        super().__init__(parameter)
        self.param_names = (parameter, "mask")

    def logits(self, params: Params) -> Tensor:
        """The parameters as logits; minus infinity forbids an action."""
        logits, mask = super().logits(params), params[1]
        check_last(type(self).__name__, self.param_names[0], logits)
        check_flag(type(self).__name__, "mask", mask, self.param_names[0], logits)
        allowed = mask | ~mask.any(-1, keepdim=True)
        return torch.where(allowed, logits, torch.full_like(logits, -torch.inf))


class MaskedOneHotCategorical(OneHotCategorical, MaskedCategorical):
    """``MaskedCategorical`` whose actions are one-hot vectors, int64 ``[*B, N]``.

    Args:
        parameter: what the network gives, ``[*B, N]``: ``logits`` or ``probs``.

    Raises:
        ValueError: ``parameter`` is neither.
    """


class MultiCategorical(Family):
    """Several categorical actions side by side, int64 ``[*B, K]``: gymnasium's MultiDiscrete.

    The parameter is ``logits``, ``[*B, sum(nvec)]``, the actions' logits one after the other.

    Args:
        nvec: number of classes of each action, K integers.

    Raises:
        ValueError: ``nvec`` is empty or has a number below one.
    """

    reparametrized = False
    param_names = ("logits",)

    def __init__(self, nvec: Sequence[int]) -> None:
        super().__init__()
        sized = isinstance(nvec, Iterable) and not isinstance(nvec, str | Mapping)
        sizes = list(nvec) if sized else []
        if not sizes:
            raise ValueError(
                f"{type(self).__name__}: `nvec` must be positive integers, got {nvec!r}"
            )
        self.nvec = [check_count(type(self).__name__, "nvec", n) for n in sizes]

    def log_prob(self, params: Params, action: Tensor) -> Tensor:
        """See ``functional.multi_categorical_log_prob``."""
        return multi_categorical_log_prob(action, params[0], self.nvec)

    def entropy(self, params: Params) -> Tensor:
        """See ``functional.multi_categorical_entropy``."""
        return multi_categorical_entropy(params[0], self.nvec)

    def kl(self, params: Params, other: Params) -> Tensor:
        """See ``functional.multi_categorical_kl``."""
        return multi_categorical_kl(params[0], other[0], self.nvec)

    def mode(self, params: Params) -> Tensor:
        """See ``functional.multi_categorical_mode``."""
        return multi_categorical_mode(params[0], self.nvec)

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """See ``functional.multi_categorical_sample``."""
        return multi_categorical_sample(params[0], noise, self.nvec)

    def draw_noise(self, params: Params, generator: Optional[Generator] = None) -> Tensor:
        """Uniform in [0, 1), one number a class."""
        return uniform_like(params[0], generator)

    def extra_repr(self) -> str:
        """The options."""
        return f"nvec={self.nvec}"


class MultiOneHotCategorical(MultiCategorical):
    """``MultiCategorical`` whose actions are one-hot vectors side by side, ``[*B, sum(nvec)]``.

    Args:
        nvec: number of classes of each action, K integers.

    Raises:
        ValueError: ``nvec`` is empty or has a number below one.
    """

    def mode(self, params: Params) -> Tensor:
        """The mode of ``MultiCategorical``, one-hot."""
        return self._one_hot(super().mode(params))

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """The sample of ``MultiCategorical``, one-hot."""
        return self._one_hot(super().sample(params, noise))

    def _one_hot(self, indices: Tensor) -> Tensor:
        parts = zip(indices.unbind(-1), self.nvec, strict=True)
        return torch.cat([nn.functional.one_hot(index, n) for index, n in parts], -1)


class Bernoulli(Family):
    """Yes-or-no actions, independent over the last axis: zeros and ones, ``[*B, A]``.

    Args:
        parameter: what the network gives, ``[*B, A]``: ``logits`` or ``probs`` of a one.

    Raises:
        ValueError: ``parameter`` is neither.
    """

    reparametrized = False

    def __init__(self, parameter: str = "logits") -> None:
        super().__init__()
        _check_parameter(type(self).__name__, parameter)
        self.param_names = (parameter,)

    def logits(self, params: Params) -> Tensor:
        """The parameters as logits; probabilities stay off zero and one, as torch's do."""
        (x,) = params
        return x if self.param_names == ("logits",) else x.logit(torch.finfo(x.dtype).eps)

    def log_prob(self, params: Params, action: Tensor) -> Tensor:
        """See ``functional.bernoulli_log_prob``."""
        return bernoulli_log_prob(action, self.logits(params))

    def entropy(self, params: Params) -> Tensor:
        """See ``functional.bernoulli_entropy``."""
        return bernoulli_entropy(self.logits(params))

    def kl(self, params: Params, other: Params) -> Tensor:
        """See ``functional.bernoulli_kl``."""
        return bernoulli_kl(self.logits(params), self.logits(other))

    def mode(self, params: Params) -> Tensor:
        """See ``functional.bernoulli_mode``."""
        return bernoulli_mode(self.logits(params))

    def sample(self, params: Params, noise: Tensor) -> Tensor:
        """See ``functional.bernoulli_sample``."""
        return bernoulli_sample(self.logits(params), noise)

    def draw_noise(self, params: Params, generator: Optional[Generator] = None) -> Tensor:
        """Uniform in [0, 1), one number an action."""
        return uniform_like(params[0], generator)

    def extra_repr(self) -> str:
        """The options."""
        return f"parameter={self.param_names[0]!r}"


def _check_parameter(family: str, parameter: str) -> None:
    if parameter not in ("logits", "probs"):
        raise ValueError(f"{family}: `parameter` must be 'logits' or 'probs', got {parameter!r}")


def _log(probs: Tensor) -> Tensor:
    """The logarithm, without a gradient at zero, where it would be infinite."""
    positive = probs > 0
    log = torch.where(positive, probs, torch.ones_like(probs)).log()
    return torch.where(positive, log, torch.full_like(log, -torch.inf))
