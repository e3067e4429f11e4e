"""Advantage actor-critic."""

from typing import Optional, Unpack

from torch import Tensor, nn

from compiled_rl.adapters import Data, Field
from compiled_rl.functional import policy_gradient, reduce
from compiled_rl.losses.actor_critic import (
    ENTROPY,
    INPUTS,
    ActorCriticLoss,
    EntropyOptions,
    Steps,
)
from compiled_rl.losses.arguments import check_options
from compiled_rl.losses.parts import A2CParts


class A2CLoss(A2CParts, ActorCriticLoss):
    """Advantage actor-critic.

        loss_objective = -log_prob * advantage
        loss_entropy   = -entropy_coeff * entropy
        loss_critic    = critic_coeff * distance(value, value_target)

    The recorded actions must be those of the policy that learns: after one update they are not
    any more, and a loss with a ratio is due.

    Args:
        actor_network: a ``Policy``, or a ``ProbabilisticTensorDictSequential``.
        critic_network: a plain module from ``observation`` to values, or a ``TensorDictModule``.
        entropy_bonus: whether there is a ``loss_entropy``; there is none either where
            ``entropy_coeff`` is zero.
        clip_value: bound on the value's distance from the stored value; None: no bound.
        **options: see ``ActorCriticLoss``.

    Raises:
        KeyError: the critic has no output of the key of ``value``, or a head has no coefficient.
        TypeError: a network is missing or of no known kind.
        ValueError: an argument is out of its range, or was given under two names with two values.

    Reference: Mnih et al. 2016, arXiv:1602.01783, algorithm S3.
    """

    fields: tuple[Field, ...] = (
        *INPUTS,
        Field("loss_objective", "loss_objective", "output", "[]", "the policy's loss"),
        Field("loss_critic", "loss_critic", "output", "[]", "weighted value loss"),
        *ENTROPY,
        Field("value_clip_fraction", "value_clip_fraction", "metric", "[]", "share clipped"),
    )

    def __init__(
        self,
        actor_network: Optional[nn.Module] = None,
        critic_network: Optional[nn.Module] = None,
        *,
        entropy_bonus: bool = True,
        clip_value: Optional[float | Tensor] = None,
        **options: Unpack[EntropyOptions],
    ) -> None:
        check_options(type(self).__name__, options, EntropyOptions)
        coefficients = (options.get("entropy_coeff"), options.get("entropy_coef"))
        off = any(isinstance(x, float | int) and x == 0 for x in coefficients)
        super().__init__(
            actor_network,
            critic_network,
            entropy_bonus=False if off else entropy_bonus,
            clip_value=clip_value,
            **options,
        )

    def policy_terms(self, data: Data, policy: Data, steps: Steps) -> dict[str, Tensor]:
        """The loss of the policy."""
        loss = policy_gradient(steps.log_prob, steps.advantage)
        return {"loss_objective": reduce(loss, steps.mask, self.reduction)}
