"""Normalisation of a critic's targets by the span between two of their quantiles."""

from typing import ClassVar, Optional

import torch
from torch import Tensor

from compiled_rl.functional.processes import check_whole
from compiled_rl.kernels.checks import check_bool
from compiled_rl.modules.normalizer import in_a_row
from compiled_rl.modules.value_norm import ValueNorm


class PercentileValueNorm(ValueNorm):
    """The span between a low and a high quantile of the targets, as moving averages.

        low   = low + rate * (low quantile of the batch - low),   high likewise

        location = low if center else 0
        scale    = max(high - low, min_scale)

    Args:
        shape: see ``ValueNorm``.
        quantiles: the low one and the high one, in [0, 1].
        rate: how far the averages move at an update, in [0, 1].
        min_scale: least scale, positive: small values are not magnified.
        center: whether ``low`` is subtracted.
        epsilon: for the sake of the others; ``min_scale`` is the bound here.
        device: of the statistics.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Hafner et al. 2023, arXiv:2301.04104.
    """

    statistics: ClassVar[tuple[str, ...]] = ("low", "high")
    low: Tensor
    high: Tensor

    def __init__(
        self,
        *,
        shape: int | tuple[int, ...] = 1,
        quantiles: tuple[float, float] = (0.05, 0.95),
        rate: float = 0.01,
        min_scale: float = 1.0,
        center: bool = False,
        epsilon: float = 1e-5,
        device: Optional[torch.device | str] = None,
    ) -> None:
        super().__init__(shape=shape, epsilon=epsilon, device=device)
        self.quantiles = _quantiles(quantiles)
        self.rate = self._check_number("rate", rate, "in [0, 1]")
        self.min_scale = self._check_number("min_scale", min_scale, "positive")
        self.center = check_bool("PercentileValueNorm", "center", center)

    @torch.no_grad()
    def update(self, value_target: Tensor, mask: Optional[Tensor] = None) -> None:
        """Move the quantiles; see ``ValueNorm``."""
        self._check("value_target", value_target, mask)
        flat, valid = in_a_row(value_target.to(self.low.dtype), mask, self.shape)
        low, high = torch.lerp(self._now(), self._quantiles(flat, valid), self.rate)
        self.low.copy_(low)
        self.high.copy_(high)

    def _now(self) -> Tensor:
        return torch.stack([self.low, self.high])

    def _quantiles(self, flat: Tensor, valid: Optional[Tensor]) -> Tensor:
        """Both, ``[2, *shape]``: NaN where a valid target is; where none is valid, the averages."""
        check_whole("PercentileValueNorm", "quantiles")
        if flat.shape[0] == 0:
            return self._now()
        levels = flat.new_tensor(self.quantiles)
        if valid is None:
            return torch.quantile(flat, levels, dim=0)
        found = torch.nanquantile(torch.where(valid, flat, torch.nan), levels, dim=0)
        found = torch.where((valid & flat.isnan()).any(0), torch.nan, found)
        return torch.where(valid.any(0), found, self._now())

    def location(self) -> Tensor:
        """The low quantile if ``center``, else zero."""
        return self.low if self.center else torch.zeros_like(self.low)

    def scale(self) -> Tensor:
        """The span."""
        return (self.high - self.low).clamp(min=self.min_scale)


def _quantiles(quantiles: tuple[float, float]) -> tuple[float, float]:
    """Two numbers, the lower first."""
    two = isinstance(quantiles, tuple | list) and len(quantiles) == 2
    numbers = [x for x in quantiles if isinstance(x, float | int)] if two else []
    if len(numbers) < 2 or not 0 <= numbers[0] < numbers[1] <= 1:
        raise ValueError(
            "PercentileValueNorm: `quantiles` must be two in [0, 1], the lower first, "
            f"got {quantiles!r}"
        )
    return float(numbers[0]), float(numbers[1])
