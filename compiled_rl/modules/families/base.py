"""What every distribution family can do."""

from abc import abstractmethod
from typing import Any, Optional

from torch import Generator, Tensor, nn

Params = tuple[Tensor, ...]
Action = Any  # a tensor; of Composite, a dict of them by head
Noise = Any  # likewise


class Family(nn.Module):
    """A distribution as functions of its parameter tensors, in the order of ``param_names``.

    Options are given to the constructor; a family has no parameters of its own. Where an analytic
    form is missing (``analytic_entropy``, ``analytic_kl``), samples estimate it:
    ``-sample_with_log_prob(params, noise)[1]`` has the entropy as its mean.
    """

    param_names: tuple[str, ...]
    analytic_entropy: bool = True
    analytic_kl: bool = True

    @abstractmethod
    def log_prob(self, params: Params, action: Action) -> Tensor:
        """Log-probability of ``action``, ``[*B]``."""

    def entropy(self, params: Params) -> Tensor:
        """Entropy, ``[*B]``.

        Raises:
            NotImplementedError: there is no closed form.
        """
        raise NotImplementedError(f"{type(self).__name__}: the entropy has no closed form")

    def kl(self, params: Params, other: Params) -> Tensor:
        """``KL(params || other)``, ``[*B]``.

        Raises:
            NotImplementedError: there is no closed form.
        """
        raise NotImplementedError(f"{type(self).__name__}: the KL divergence has no closed form")

    @abstractmethod
    def mode(self, params: Params) -> Action:
        """The deterministic action."""

    @abstractmethod
    def sample(self, params: Params, noise: Noise) -> Action:
        """A sample from given noise, of the kind that ``draw_noise`` draws."""

    def sample_with_log_prob(self, params: Params, noise: Noise) -> tuple[Action, Tensor]:
        """A sample and its log-probability ``[*B]``, in the stablest form that there is."""
        action = self.sample(params, noise)
        return action, self.log_prob(params, action)

    @abstractmethod
    def draw_noise(self, params: Params, generator: Optional[Generator] = None) -> Noise:
        """Noise for one sample."""
