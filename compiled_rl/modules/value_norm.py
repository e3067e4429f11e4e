"""Running normalisation of a critic's targets."""

from typing import ClassVar, Optional

import torch
from torch import Tensor, nn

from compiled_rl.functional.reduction import moments
from compiled_rl.kernels.checks import check_floating, check_number
from compiled_rl.modules.arguments import as_shape, check_tail, check_valid
from compiled_rl.modules.normalizer import in_a_row, pooled


class ValueNorm(nn.Module):
    """Running location and scale of value targets.

        normalize(value)   = (value - location) / scale
        denormalize(value) = value * scale + location

    A subclass says what they are, and how ``update`` moves them. Nothing else does: a loss that is
    given one updates it at a call in training mode with gradients enabled, and at no other;
    ``eval()`` of this module alone stops it.

    Args:
        shape: of what has statistics of its own, with which values end: 1 for values ``[*B, 1]``,
            ``(n, 1)`` for those of ``n`` agents, each on its own scale.
        epsilon: least variance, positive.
        device: of the statistics.

    Raises:
        ValueError: an argument is out of its range.
    """

    statistics: ClassVar[tuple[str, ...]] = ()  # buffers of `shape`, zero to begin with

    def __init__(
        self,
        *,
        shape: int | tuple[int, ...] = 1,
        epsilon: float = 1e-5,
        device: Optional[torch.device | str] = None,
    ) -> None:
        super().__init__()
        self.shape = as_shape(type(self).__name__, "shape", shape)
        self.epsilon = self._check_number("epsilon", epsilon, "positive")
        for name in self.statistics:
            self.register_buffer(name, torch.zeros(self.shape, device=device))

    def update(self, value_target: Tensor, mask: Optional[Tensor] = None) -> None:
        """Add a batch of value targets to the statistics.

        Args:
            value_target: ``[*B, *shape]``.
            mask: valid targets, bool ``[*B]``; None: all. Where none is, nothing moves.

        Raises:
            ValueError: the targets do not end in ``shape``, or the mask is not ``[*B]``.
        """
        raise NotImplementedError

    def location(self) -> Tensor:
        """What is subtracted, ``[*shape]``."""
        raise NotImplementedError

    def scale(self) -> Tensor:
        """What is divided by, ``[*shape]``: an advantage, which has no location, by this alone."""
        raise NotImplementedError

    def normalize(self, value_target: Tensor) -> Tensor:
        """The values ``[*B, *shape]`` on the scale of the statistics.

        Raises:
            ValueError: they do not end in ``shape``.
        """
        self._check("value_target", value_target)
        return (value_target - self.location()) / self.scale()

    def denormalize(self, normalised_value: Tensor) -> Tensor:
        """The inverse of ``normalize``.

        Raises:
            ValueError: the values do not end in ``shape``.
        """
        self._check("normalised_value", normalised_value)
        return normalised_value * self.scale() + self.location()

    def _check(self, name: str, x: Tensor, mask: Optional[Tensor] = None) -> None:
        held = self.location()
        check_floating(type(self).__name__, name, x)
        check_tail(type(self).__name__, name, x, list(self.shape), "the statistics", held)
        batch = x.shape[: x.dim() - len(self.shape)]
        check_valid(type(self).__name__, mask, batch, x, name)

    def _check_number(self, name: str, number: float, range_: str) -> float:
        check_number(type(self).__name__, name, number, range_)
        return number


class PopArtValueNorm(ValueNorm):
    """Moving averages of the targets and of their squares, as PopArt has them.

        running_mean    = beta * running_mean + (1 - beta) * mean(target)
        running_mean_sq = beta * running_mean_sq + (1 - beta) * mean(target^2)
        debiasing_term  = beta * debiasing_term + (1 - beta)

        location = running_mean / debiasing_term
        scale    = sqrt(max(running_mean_sq / debiasing_term - location^2, epsilon))

    The output layer is not rescaled as PopArt's is: the critic predicts values on their own scale.
    In float32 a mean a thousand times the deviation leaves nothing of the variance.

    Args:
        shape: see ``ValueNorm``.
        beta: how much stays of the averages at an update, in [0, 1).
        epsilon: least variance, and least ``debiasing_term``, positive.
        device: of the statistics.

    Raises:
        ValueError: an argument is out of its range.

    Reference: van Hasselt et al. 2016, arXiv:1602.07714; Hessel et al. 2018, arXiv:1809.04474;
    in multi-agent PPO, Yu et al. 2021, arXiv:2103.01955, sec. 5.1.
    """

    statistics: ClassVar[tuple[str, ...]] = ("running_mean", "running_mean_sq")
    running_mean: Tensor
    running_mean_sq: Tensor
    debiasing_term: Tensor

    def __init__(
        self,
        *,
        shape: int | tuple[int, ...] = 1,
        beta: float = 0.99999,
        epsilon: float = 1e-5,
        device: Optional[torch.device | str] = None,
    ) -> None:
        super().__init__(shape=shape, epsilon=epsilon, device=device)
        self.beta = self._check_number("beta", beta, "in [0, 1)")
        self.register_buffer("debiasing_term", torch.zeros((), device=device))

    @torch.no_grad()
    def update(self, value_target: Tensor, mask: Optional[Tensor] = None) -> None:
        """Move the averages; see ``ValueNorm``."""
        self._check("value_target", value_target, mask)
        flat, valid = in_a_row(value_target.to(self.running_mean.dtype), mask, self.shape)
        count, mean, squares = [x.squeeze(0) for x in moments(flat, valid, [0])]
        full = torch.full_like(self.debiasing_term, 1 - self.beta)
        rate = torch.where(count.flatten()[0] > 0, full, 0)
        self.running_mean.lerp_(mean, rate)
        self.running_mean_sq.lerp_(squares / count.clamp(min=1) + mean.square(), rate)
        self.debiasing_term.lerp_(torch.ones_like(self.debiasing_term), rate)

    def location(self) -> Tensor:
        """The mean without the zero that it began with."""
        return self.running_mean / self._debias()

    def scale(self) -> Tensor:
        """The standard deviation likewise."""
        variance = self.running_mean_sq / self._debias() - self.location().square()
        return variance.clamp(min=self.epsilon).sqrt()

    def _debias(self) -> Tensor:
        return self.debiasing_term.clamp(min=self.epsilon)


class RunningValueNorm(ValueNorm):
    """Mean and standard deviation of all targets that were ever seen.

        location = mean
        scale    = sqrt(max(m2 / count, epsilon))

    Args:
        shape: see ``ValueNorm``.
        epsilon: least variance, positive.
        device: of the statistics.

    Raises:
        ValueError: ``epsilon`` is not positive.

    Reference: Chan et al. 1979, Updating Formulae and a Pairwise Algorithm, eq. 2.1.
    """

    statistics: ClassVar[tuple[str, ...]] = ("mean", "m2")
    mean: Tensor
    m2: Tensor
    count: Tensor

    def __init__(
        self,
        *,
        shape: int | tuple[int, ...] = 1,
        epsilon: float = 1e-5,
        device: Optional[torch.device | str] = None,
    ) -> None:
        super().__init__(shape=shape, epsilon=epsilon, device=device)
        self.register_buffer("count", torch.zeros((), device=device))

    @torch.no_grad()
    def update(self, value_target: Tensor, mask: Optional[Tensor] = None) -> None:
        """Pool the targets with those before them; see ``ValueNorm``."""
        self._check("value_target", value_target, mask)
        seen = (self.count, self.mean, self.m2)
        count, mean, squares = pooled(*seen, value_target.to(self.mean.dtype), mask)
        self.count.copy_(count)
        self.mean.copy_(mean)
        self.m2.copy_(squares)

    def location(self) -> Tensor:
        """The mean."""
        return self.mean

    def scale(self) -> Tensor:
        """The standard deviation, biased."""
        return (self.m2 / self.count.clamp(min=1)).clamp(min=self.epsilon).sqrt()
