"""Proximal policy optimisation without a bound, and what its bounded forms share."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Optional, Unpack

import torch
from torch import Tensor, nn

from compiled_rl.adapters import Data, Field, PlainPolicy
from compiled_rl.functional import (
    importance_correction,
    ppo_surrogate,
    reduce,
    standardize,
)
from compiled_rl.losses.actor_critic import (
    ENTROPY,
    INPUTS,
    ActorCriticLoss,
    EntropyOptions,
    Steps,
)
from compiled_rl.losses.arguments import check_options
from compiled_rl.losses.parts import ExplainedCriticPart
from compiled_rl.modules import frozen_copy
from compiled_rl.modules.arguments import check_flags

CRITIC = (
    Field("loss_critic", "loss_critic", "output", "[]", "weighted value loss"),
    Field("value_clip_fraction", "value_clip_fraction", "output", "[]", "share clipped"),
)
KL_APPROX = Field("kl_approx", "kl_approx", "metric", "[]", "estimator k1 of KL(old || new)")
VARIANCE = Field("explained_variance", "explained_variance", "metric", "[]", "of the critic")


class RatioOptions(EntropyOptions, total=False):
    """Those of every PPO loss but ``clip_value`` and the normalisation of advantages."""

    entropy_bonus: bool
    log_explained_variance: bool
    delay_actor: bool
    max_importance_ratio: Optional[float]


class PPOOptions(RatioOptions, total=False):
    """The keyword arguments of every PPO loss but ``clip_value``; see ``PPOLoss``."""

    normalize_advantage: bool
    normalize_advantage_exclude_dims: Sequence[int]


class Ratio(NamedTuple):
    """Log-probabilities of the recorded actions, all ``[*B]``.

    ``proximal`` is the policy that the trust region is around; ``log_weight`` makes up for its not
    being the one that acted.
    """

    log_prob: Tensor
    proximal: Tensor
    log_weight: Optional[Tensor]

    def log_ratio(self) -> Tensor:
        """To the proximal policy, detached."""
        return (self.log_prob - self.proximal).detach()

    def behavior_log_ratio(self) -> Tensor:
        """To the policy that acted, detached."""
        return self.log_ratio() if self.log_weight is None else self.log_ratio() + self.log_weight


class PPOLoss(ExplainedCriticPart, ActorCriticLoss):
    """PPO without a bound on the ratio.

        ratio          = exp(log_prob - behavior_log_prob)
        loss_objective = -ratio * advantage
        loss_entropy   = -entropy_coeff * entropy
        loss_critic    = critic_coeff * distance(value, value_target)

    The stored action is the one that was sampled, not the one that was clipped for the
    environment, and the stored log-probability is that action's.

    A ratio that overflows, of a log-ratio above 88 in float32, leaves neither the surrogate nor its
    gradient finite: ``max_importance_ratio`` bounds it.

    Args:
        actor_network: a ``Policy``, or a ``ProbabilisticTensorDictSequential``.
        critic_network: a plain module from ``observation`` to values, or a ``TensorDictModule``;
            None: no ``loss_critic``, and ``advantage`` must be given.
        entropy_bonus: whether there is a ``loss_entropy``.
        clip_value: bound on the value's distance from the stored value; None or False: no bound.
        log_explained_variance: whether the critic's is among the metrics.
        normalize_advantage: shift and scale the advantages over the valid steps of the batch.
        normalize_advantage_exclude_dims: dimensions of the advantage, as it is given, along which
            each slice is normalised by itself, such as that of the agents.
        delay_actor: whether the trust region is around a frozen copy of the policy,
            ``target_actor_network``, which a target-network updater moves, rather than around the
            policy that acted.
        max_importance_ratio: bound on the ratio to the policy that acted, positive; a step beyond
            it keeps a gradient of that size. None: none.
        **options: see ``ActorCriticLoss``; a ``critic_coeff`` of zero is none.

    Raises:
        KeyError: the critic has no output of the key of ``value``, or a head has no coefficient.
        TypeError: a network is missing or of no known kind.
        ValueError: an argument is out of its range, or was given under two names with two values.

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 6 and 9; the delayed actor, Hilton et
    al. 2021, arXiv:2110.00641, eq. 4.
    """

    fields: tuple[Field, ...] = (
        *INPUTS,
        Field("loss_objective", "loss_objective", "output", "[]", "the surrogate"),
        *ENTROPY,
        *CRITIC,
        KL_APPROX,
        VARIANCE,
    )
    needs_critic: ClassVar[bool] = False
    fixed: ClassVar[tuple[str, ...]] = (
        *ActorCriticLoss.fixed,
        "delay_actor",
        "log_explained_variance",
    )
    log_explained_variance: bool = True
    max_importance_ratio: Optional[float]
    _target_actor: PlainPolicy

    def __init__(
        self,
        actor_network: Optional[nn.Module] = None,
        critic_network: Optional[nn.Module] = None,
        *,
        entropy_bonus: bool = True,
        clip_value: Optional[float | bool | Tensor] = None,
        log_explained_variance: bool = True,
        normalize_advantage: bool = False,
        normalize_advantage_exclude_dims: Sequence[int] = (),
        delay_actor: bool = False,
        max_importance_ratio: Optional[float] = None,
        **options: Unpack[EntropyOptions],
    ) -> None:
        check_options(type(self).__name__, options, EntropyOptions)
        for name in ("critic_coeff", "critic_coef"):
            weight = options.get(name)
            if isinstance(weight, float | int | Tensor) and not torch.as_tensor(weight).any():
                options[name] = None
        networks = (actor_network, critic_network)
        super().__init__(*networks, clip_value=clip_value, entropy_bonus=entropy_bonus, **options)
        if normalize_advantage and self.advantage_norm is not None:
            raise ValueError(
                f"{self.name}: `advantage_norm` must be None with `normalize_advantage`, got both"
            )
        check_flags(
            self.name,
            normalize_advantage=normalize_advantage,
            log_explained_variance=log_explained_variance,
            delay_actor=delay_actor,
        )
        self.normalize_advantage = normalize_advantage
        self.normalize_advantage_exclude_dims = _dims(self.name, normalize_advantage_exclude_dims)
        self.log_explained_variance = log_explained_variance
        self.delay_actor = delay_actor
        if delay_actor:
            self._freeze_actor()
        bound = max_importance_ratio
        self.register_coefficient("max_importance_ratio", bound, "positive", optional=True)
        self.wire()

    def _freeze_actor(self) -> None:
        if not self.functional:
            raise ValueError(f"{self.name}: `delay_actor` must be False without `functional`")
        self.target_actor_network = frozen_copy(self.actor_network)
        object.__setattr__(self, "_target_actor", PlainPolicy(self.target_actor_network))

    def absent(self) -> set[str]:
        """The outputs that are switched off."""
        return super().absent() | (set() if self.log_explained_variance else {"explained_variance"})

    def policy_terms(self, data: Data, policy: Data, steps: Steps) -> dict[str, Tensor]:
        """The surrogate, and what tells how far the policy has moved."""
        proximal = self.proximal(data, policy)
        ratio = self._ratio(data, proximal, steps.log_prob)
        steps = steps._replace(advantage=self._normalized(steps))
        outputs = self.surrogate(data, policy, proximal, ratio, steps)
        outputs["kl_approx"] = reduce(-ratio.log_ratio(), steps.mask)
        return outputs

    def surrogate(
        self, data: Data, policy: Data, proximal: Data, ratio: Ratio, steps: Steps
    ) -> dict[str, Tensor]:
        """The policy's loss and the metrics of its own."""
        loss = ppo_surrogate(ratio.log_prob, ratio.proximal, steps.advantage, ratio.log_weight)
        return {"loss_objective": reduce(loss, steps.mask, self.reduction)}

    def proximal(self, data: Data, policy: Data) -> Data:
        """What is known of the policy that the trust region is around."""
        if not self.delay_actor:
            return data
        with torch.no_grad():
            proximal: Data = self._target_actor(data)
        return proximal

    def _ratio(self, data: Data, proximal: Data, log_prob: Tensor) -> Ratio:
        behavior = self.behavior_log_prob(data, log_prob)
        near = behavior
        if self.delay_actor:
            near = self._target_actor.log_prob(proximal, self.require_each(data, "action"))
        if not self.delay_actor and self.max_importance_ratio is None:
            return Ratio(log_prob, near, None)
        bound = self.max_importance_ratio
        return Ratio(log_prob, near, importance_correction(log_prob, near, behavior, bound))

    def _normalized(self, steps: Steps) -> Tensor:
        if not self.normalize_advantage:
            return steps.advantage
        # As it was given: the dimensions to exclude are counted there.
        shape = steps.advantage.shape + (1,) * steps.trailing
        mask = None if steps.mask is None else steps.mask.reshape(shape)
        dims = list(self.normalize_advantage_exclude_dims)
        column = steps.advantage.reshape(shape)
        return standardize(column, mask, exclude_dims=dims).reshape(steps.advantage.shape)


def _dims(owner: str, dims: Any) -> tuple[int, ...]:
    whole = isinstance(dims, Sequence) and all(
        isinstance(dim, int) and not isinstance(dim, bool) for dim in dims
    )
    if not whole or isinstance(dims, str):
        raise TypeError(
            f"{owner}: `normalize_advantage_exclude_dims` must be a sequence of dimensions, "
            f"got {dims!r}"
        )
    return tuple(dims)
