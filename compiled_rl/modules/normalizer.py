"""Running normalisation of observations."""

from typing import Optional

import torch
from torch import Tensor, nn


class ObservationNormalizer(nn.Module):
    """Shift and scale observations by the mean and variance of all that were seen.

        normalised = clip((observation - mean) / sqrt(var + epsilon), -clip, clip)

    Calling it changes nothing; only ``update`` moves the statistics, so that a loss or a
    deployed policy never learns from what it is merely shown.

    Args:
        shape: of one observation.
        clip: bound of the result, in standard deviations, positive.
        epsilon: added to the variance, positive.

    Reference: Andrychowicz et al. 2020, arXiv:2006.05990, appendix B.8; the update, Chan et al.
    1979, Updating Formulae and a Pairwise Algorithm, eq. 2.1.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: int | tuple[int, ...], clip: float = 10.0, epsilon: float = 1e-8):
        super().__init__()
        self.clip = clip
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, observation: Tensor) -> Tensor:
        """Normalise ``observation``, ``[*B, *shape]``."""
        self._check(observation, None)
        scaled = (observation - self.mean) * torch.rsqrt(self.var + self.epsilon)
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
        seen = observation if mask is None else observation[mask]
        seen = seen.reshape(-1, *self.mean.shape).to(self.mean.dtype)
        if len(seen) == 0:
            return
        batch_var, batch_mean = torch.var_mean(seen, 0, correction=0)
        total = self.count + len(seen)
        weight = len(seen) / total
        delta = batch_mean - self.mean
        self.var.lerp_(batch_var, weight).add_(delta.square() * weight * (1 - weight))
        self.mean.add_(delta * weight)
        self.count.copy_(total)

    def _check(self, observation: Tensor, mask: Optional[Tensor]) -> None:
        batch = observation.shape[: observation.dim() - self.mean.dim()]
        if observation.shape != batch + self.mean.shape:
            raise ValueError(
                f"ObservationNormalizer: `observation` must end in {list(self.mean.shape)}, "
                f"got {list(observation.shape)}"
            )
        if mask is not None and (mask.shape != batch or mask.dtype != torch.bool):
            raise ValueError(
                f"ObservationNormalizer: `mask` must be torch.bool of shape {list(batch)}, "
                f"got {mask.dtype} of shape {list(mask.shape)}"
            )
