"""Running normalisation of observations."""

from typing import Optional

import torch
from torch import Tensor, nn

from compiled_rl.functional.reduction import moments
from compiled_rl.kernels.checks import check_number
from compiled_rl.modules.arguments import as_shape, check_tail, check_valid


class ObservationNormalizer(nn.Module):
    """Shift and scale observations by the mean and variance of all that were seen.

        normalised = clip((observation - mean) / sqrt(var + epsilon), -clip, clip)

    Calling it changes nothing; only ``update`` moves the statistics, so that a loss or a
    deployed policy never learns from what it is merely shown.

    Args:
        shape: of one observation.
        clip: bound of the result, in standard deviations, positive.
        epsilon: added to the variance, positive.

    Raises:
        ValueError: a size or ``epsilon`` is not positive, or observations do not end in ``shape``.

    Reference: Andrychowicz et al. 2020, arXiv:2006.05990, appendix B.8; the update, Chan et al.
    1979, Updating Formulae and a Pairwise Algorithm, eq. 2.1.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: int | tuple[int, ...], clip: float = 10.0, epsilon: float = 1e-8):
        super().__init__()
        shape = as_shape("ObservationNormalizer", "shape", shape)
        check_number("ObservationNormalizer", "clip", clip, "positive")
        check_number("ObservationNormalizer", "epsilon", epsilon, "positive")
        self.clip = clip
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, observation: Tensor) -> Tensor:
        """Normalise ``observation``, ``[*B, *shape]``."""
        self._check(observation, None)
        # Not `-`, which torch has not for flags.
        scaled = (observation + -self.mean) * torch.rsqrt(self.var + self.epsilon)
        return scaled.clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, observation: Tensor, mask: Optional[Tensor] = None) -> None:
        """Add a batch of observations to the statistics.

        Args:
            observation: ``[*B, *shape]``.
            mask: valid observations, bool ``[*B]``; None: all.

        Raises:
            ValueError: the observations do not end in ``shape``, or the mask is not ``[*B]``.
        """
        self._check(observation, mask)
        seen = (self.count, self.mean, self.var * self.count)
        count, mean, squares = pooled(*seen, observation.to(self.mean.dtype), mask)
        self.var.copy_(torch.where(count > 0, squares / count.clamp(min=1), self.var))
        self.mean.copy_(mean)
        self.count.copy_(count)

    def _check(self, observation: Tensor, mask: Optional[Tensor]) -> None:
        owner, tail = "ObservationNormalizer", list(self.mean.shape)
        # Of integers and flags, too: pixels and contacts.
        check_tail(owner, "observation", observation, tail, "mean", self.mean)
        batch = observation.shape[: observation.dim() - len(tail)]
        check_valid(owner, mask, batch, observation, "observation")


def pooled(
    count: Tensor, mean: Tensor, squares: Tensor, x: Tensor, mask: Optional[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and sum of squared deviations of all that was seen, with a batch more.

    Args:
        count: how many were seen, 0-d.
        mean: of them, ``[*shape]``.
        squares: the sum of their squared deviations, ``[*shape]``.
        x: the batch, ``[*B, *shape]``.
        mask: valid elements, bool ``[*B]``; None: all.

    Reference: Chan et al. 1979, Updating Formulae and a Pairwise Algorithm, eq. 2.1.
    """
    flat, valid = in_a_row(x, mask, mean.shape)
    number, added, scatter = [part.squeeze(0) for part in moments(flat, valid, [0])]
    count, before = count + number.flatten()[0], count
    share = number / count.clamp(min=1)
    delta = added - mean
    return count, mean + delta * share, squares + scatter + delta.square() * before * share


def in_a_row(
    x: Tensor, mask: Optional[Tensor], shape: tuple[int, ...]
) -> tuple[Tensor, Optional[Tensor]]:
    """``x``, ``[*B, *shape]``, as ``[N, *shape]``, and its mask ``[*B]`` for every element."""
    flat = x.reshape(-1, *shape)
    if mask is None:
        return flat, None
    return flat, mask.reshape(-1, *[1] * len(shape)).expand_as(flat)
