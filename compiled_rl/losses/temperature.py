"""The temperature of a maximum-entropy loss: how much a nat of entropy is worth."""

import math
from collections.abc import Callable
from typing import Any, Optional

import torch
from torch import Tensor, nn

from compiled_rl.functional import reduce, temperature_loss
from compiled_rl.modules import CoefficientModule
from compiled_rl.modules.coefficients import check_range


class Temperature(CoefficientModule):
    """What a loss with a temperature is, too: it holds, bounds and learns it.

        alpha      = exp(clip(log_alpha, min_log_alpha, max_log_alpha))
        loss_alpha = -log_alpha * (log_prob + target_entropy)

    ``log_alpha`` is a ``Parameter``, or a buffer if it is fixed; the bounds and the target entropy
    are buffers. A bound holds the temperature and not the parameter behind it, which a forward
    call must not move: instead, a gradient that would push it further out is zero.
    """

    log_alpha: Any  # 0-d tensors all: assign a number, and it is copied in place
    min_log_alpha: Any
    max_log_alpha: Any
    target_entropy: Any

    def register_temperature(
        self,
        alpha_init: float,
        min_alpha: Optional[float],
        max_alpha: Optional[float],
        fixed_alpha: bool,
        target_entropy: Any,
    ) -> None:
        """Register all of it, from the arguments of a loss."""
        owner = type(self).__name__
        self.register_coefficient("alpha_init", alpha_init, "positive")
        self.register_coefficient("target_entropy", target_entropy, "finite")
        low, high = _bound(owner, "min_alpha", min_alpha), _bound(owner, "max_alpha", max_alpha)
        if low is not None and high is not None and low > high:
            raise ValueError(
                f"{owner}: `min_alpha` must not be above `max_alpha`, got {min_alpha:g} and "
                f"{max_alpha:g}"
            )
        log_alpha = torch.tensor(math.log(alpha_init), dtype=torch.get_default_dtype())
        log_alpha = _clipped(log_alpha, low, high)
        self.fixed_alpha = fixed_alpha
        self.register_coefficient("min_log_alpha", low, optional=True)
        self.register_coefficient("max_log_alpha", high, optional=True)
        self.register_coefficient(
            "log_alpha", log_alpha if fixed_alpha else nn.Parameter(log_alpha)
        )

    def _bounded(self) -> Any:
        """``log_alpha`` within its bounds."""
        return _clipped(self.log_alpha, self.min_log_alpha, self.max_log_alpha)

    def temperature(self) -> Any:
        """``alpha``, without a gradient."""
        return self._bounded().detach().exp()

    def temperature_terms(
        self, log_prob: Tensor, mask: Optional[Tensor], **reduction: Any
    ) -> dict[str, Tensor]:
        """The temperature, its loss, and the entropy that it is to hold.

        Args:
            log_prob: of an action that the policy drew, or minus its entropy, ``[*B]``.
            mask: valid steps, bool ``[*B]``.
            **reduction: of the loss, as ``functional.reduce`` takes it.
        """
        log_prob = log_prob.detach()
        rises = reduce(log_prob + self.target_entropy, mask) > 0
        loss = temperature_loss(log_prob, self._learned(rises), self.target_entropy)
        return {
            "loss_alpha": reduce(loss, mask, **reduction),
            "alpha": self.temperature(),
            "entropy": reduce(-log_prob, mask),
        }

    def _learned(self, rises: Tensor) -> Any:
        """``log_alpha`` within its bounds; without a gradient where it would go further out.

        Where it were clamped alone it would never come back; where its gradient were always kept
        it would go far out while the policy cannot reach its target, and come back late.
        """
        bounded: Tensor = self._bounded().detach()
        outside = torch.where(rises, self.log_alpha > bounded, self.log_alpha < bounded)
        return bounded + torch.where(outside, 0.0, self.log_alpha - self.log_alpha.detach())


def automatic(
    owner: str, argument: str, count: Optional[int], entropy: Callable[[int], float]
) -> float:
    """The target entropy of a policy of which one knows how many numbers or actions it has."""
    if count is None:
        raise ValueError(
            f"{owner}: `{argument}` or `target_entropy` must be given where nothing else says how "
            "many there are, got None and 'auto'"
        )
    return float(entropy(count))


def _clipped(x: Tensor, low: Optional[Tensor], high: Optional[Tensor]) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


def _bound(owner: str, argument: str, alpha: Optional[float]) -> Optional[Tensor]:
    """The logarithm of a bound; None for none. A temperature is above zero without a bound."""
    if alpha is None:
        return None
    if argument == "min_alpha":
        check_range(owner, argument, alpha, "at least 0")
        if alpha == 0:
            return None
    check_range(owner, argument, alpha, "positive")
    return torch.as_tensor(alpha, dtype=torch.get_default_dtype()).log()
