"""Proximal policy optimisation with an adaptive penalty on the divergence."""

from typing import Any, Optional, Unpack

import torch
from torch import Tensor, nn

from compiled_rl.adapters import Data, Field, Key, given, keyword
from compiled_rl.functional import next_beta, ppo_kl_penalty, reduce
from compiled_rl.functional.reduction import count_valid
from compiled_rl.kernels.checks import check_shape
from compiled_rl.losses.actor_critic import ENTROPY, INPUTS, Steps
from compiled_rl.losses.ppo import (
    CRITIC,
    KL_APPROX,
    VARIANCE,
    PPOLoss,
    PPOOptions,
    Ratio,
)
from compiled_rl.modules.arguments import check_count, check_flags

_KL_OF_SOME = "kl_of_some"  # for the rule alone: NaN if no step is valid


class KLPENPPOLoss(PPOLoss):
    """PPO with a penalty on the divergence, whose weight adapts to a target.

        ratio          = exp(log_prob - behavior_log_prob)
        loss_objective = -(ratio * advantage - beta * KL(old || new))
        loss_entropy   = -entropy_coeff * entropy
        loss_critic    = critic_coeff * distance(value, value_target)

        beta = beta * increment if mean KL > 1.5 * dtarg else
               beta * decrement if mean KL < dtarg / 1.5 else beta   after the loss has used it

    The old distribution's parameters must be recorded, under the keys under which the actor gives
    them. ``beta`` moves as running statistics do: at a call in training mode with gradients
    enabled, and at no other. The paper moves it once an update of the policy, after all epochs on
    the same data: set ``adapt_beta`` to False and call ``adapt``. So do inside
    ``torch.func.grad`` and ``vmap``, which let no buffer move. Nothing bounds ``beta``: moved to
    one side often enough it is zero, or infinite, for good.

    A ratio that overflows, of a log-ratio above 88 in float32, leaves neither the surrogate nor its
    gradient finite: ``max_importance_ratio`` bounds it.

    Args:
        actor_network: a ``Policy``, or a ``ProbabilisticTensorDictSequential``.
        critic_network: a plain module from ``observation`` to values, or a ``TensorDictModule``;
            None: no ``loss_critic``, and ``advantage`` must be given.
        dtarg: the divergence that an update should cause, in nats, positive.
        beta: the weight to begin with, at least 0.
        increment: at least 1.
        decrement: in (0, 1].
        samples_mc_kl: samples that estimate a divergence without a formula, at least 1. Their
            noise is drawn, unless it is given as ``kl_noise``.
        adapt_beta: whether ``beta`` moves by itself.
        clip_value: bound on the value's distance from the stored value; None or False: no bound.
        **options: see ``PPOLoss`` and ``ActorCriticLoss``.

    Raises:
        KeyError: the critic has no output of the key of ``value``, or a head has no coefficient.
        TypeError: a network is missing or of no known kind.
        ValueError: an argument is out of its range, or was given under two names with two values.

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 8 and sec. 4.
    """

    fields: tuple[Field, ...] = (
        *INPUTS,
        Field("loss_objective", "loss_objective", "output", "[]", "the penalised surrogate"),
        Field("kl", "kl", "output", "[]", "mean KL(old || new) in nats"),
        *ENTROPY,
        *CRITIC,
        KL_APPROX,
        VARIANCE,
    )

    dtarg: float
    increment: float
    decrement: float
    beta: Tensor

    def __init__(
        self,
        actor_network: Optional[nn.Module] = None,
        critic_network: Optional[nn.Module] = None,
        *,
        dtarg: float = 0.01,
        beta: float = 1.0,
        increment: float = 2.0,
        decrement: float = 0.5,
        samples_mc_kl: int = 1,
        adapt_beta: bool = True,
        clip_value: Optional[float | bool | Tensor] = None,
        **options: Unpack[PPOOptions],
    ) -> None:
        name = type(self).__name__
        super().__init__(actor_network, critic_network, clip_value=clip_value, **options)
        self._actor.check_recordable(name)
        self.samples_mc_kl = check_count(name, "samples_mc_kl", samples_mc_kl)
        check_flags(name, adapt_beta=adapt_beta)
        self.adapt_beta = adapt_beta
        self.register_coefficient("beta", beta, "at least 0")
        self.register_coefficient("dtarg", dtarg, "positive")
        self.register_coefficient("increment", increment, "at least 1")
        self.register_coefficient("decrement", decrement, "in (0, 1]")
        self._first_beta = float(beta)

    def reset(self) -> None:
        """Give ``beta`` the value that it began with."""
        self.beta.fill_(self._first_beta)

    def other_keys(self) -> tuple[Key, ...]:
        """The masks, the old distribution's parameters, and noise."""
        return (*super().other_keys(), *self._actor.param_keys, *self._actor.noise_keys("kl"))

    def surrogate(
        self, data: Data, policy: Data, proximal: Data, ratio: Ratio, steps: Steps
    ) -> dict[str, Tensor]:
        """The penalised surrogate."""
        self._check_old(proximal, policy)
        divergence = self._actor.kl(proximal, policy, self.samples_mc_kl)
        # Used before it moves, also by the gradient. A compiled backward computes what is cheap
        # anew, of a buffer that has moved (PyTorch's pull request 197039); not a cumulative sum.
        beta: Any = self.beta.reshape(1).cumsum(0).reshape([])
        log_probs = (ratio.log_prob, ratio.proximal)
        loss = ppo_kl_penalty(*log_probs, steps.advantage, divergence, beta, ratio.log_weight)
        mean = reduce(divergence.detach(), steps.mask)
        some = count_valid(divergence, steps.mask) > 0
        return {
            "loss_objective": reduce(loss, steps.mask, self.reduction),
            "kl": mean,
            _KL_OF_SOME: torch.where(some, mean, torch.nan),
        }

    def evaluate(self, data: Data) -> dict[str, Tensor]:
        """The losses and metrics by name; moves ``beta`` when nothing can fail any more."""
        outputs = super().evaluate(data)
        if self.adapt_beta and self.training and torch.is_grad_enabled():
            self.adapt(outputs[_KL_OF_SOME])
        return outputs

    @torch.no_grad()
    def adapt(self, kl: float | Tensor) -> None:
        """Move ``beta`` by the rule.

        Args:
            kl: mean KL(old || new) in nats, 0-d; NaN, the mean of nothing, leaves ``beta``.
        """
        kl = torch.as_tensor(kl, dtype=self.beta.dtype, device=self.beta.device)
        self.beta.copy_(next_beta(self.beta, kl, self.dtarg, self.increment, self.decrement))

    def _check_old(self, proximal: Data, policy: Data) -> None:
        for key in self._actor.param_keys:
            if key not in proximal:
                raise KeyError(
                    f"{self.name}: the parameter {key!r} of the old distribution was not found; "
                    f"the keys are {given(proximal)}"
                )
            self.check_recorded(keyword(key), proximal[key])
            name = keyword(key)
            check_shape(self.name, name, proximal[key], f"{name} of the actor", policy[key])
