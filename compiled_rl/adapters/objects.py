"""A policy's distribution where it is an object, and not the parameters of a family."""

from typing import Any, Optional

import torch
from torch import Generator, Tensor

from compiled_rl.modules import Family
from compiled_rl.modules.families import Action
from compiled_rl.modules.families.monte_carlo import score_entropy


class GivenDistribution(Family):
    """A distribution that the network gives as an object: what the object can do.

    It cannot be recorded as tensors, so that there is no divergence from an earlier one.
    """

    param_names = ("distribution",)

    def log_prob(self, params: Any, action: Action) -> Tensor:
        """The object's."""
        log_prob: Tensor = params[0].log_prob(action)
        return log_prob

    def entropy(self, params: Any) -> Tensor:
        """The object's; it may have none."""
        entropy: Tensor = params[0].entropy()
        return entropy

    def estimated_entropy(self, params: Any, samples: int) -> Tensor:
        """The object's, or if it has none, the mean of ``-log_prob`` over samples that it draws."""
        try:
            return self.entropy(params)
        except NotImplementedError:
            return _sampled_entropy(params[0], samples)

    def mode(self, params: Any) -> Action:
        """The object's."""
        return params[0].mode

    def sample(self, params: Any, noise: Tensor) -> Action:
        """The object's, reparametrised if it can be; the noise is its own."""
        built = params[0]
        return built.rsample() if built.has_rsample else built.sample()

    def draw_noise(self, params: Any, generator: Optional[Generator] = None) -> Tensor:
        """Nothing: the object draws from torch's global generator, and from no other."""
        return torch.empty(0)


def _sampled_entropy(built: Any, samples: int) -> Tensor:
    """``-log_prob`` of samples, whose gradient is the entropy's, reparametrised or not."""
    if not built.has_rsample:
        return score_entropy(built.log_prob(built.sample((samples,))))
    log_prob: Tensor = built.log_prob(built.rsample((samples,)))
    return -log_prob.mean(0)
