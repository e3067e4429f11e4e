"""Proximal policy optimisation: without a bound, with a clipped ratio, with a KL penalty."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Optional, Unpack

import torch
from torch import Tensor, nn

from compiled_rl.adapters import Data, Field, Key, PlainPolicy, given, keyword
from compiled_rl.adapters.plain import beside
from compiled_rl.functional import (
    clip_fraction,
    effective_sample_size,
    importance_correction,
    next_beta,
    ppo_clip,
    ppo_kl_penalty,
    ppo_surrogate,
    reduce,
    standardize,
)
from compiled_rl.functional.reduction import largest
from compiled_rl.losses.actor_critic import (
    ENTROPY,
    INPUTS,
    ActorCriticLoss,
    EntropyOptions,
    Steps,
)
from compiled_rl.losses.coefficients import check_count, check_range
from compiled_rl.modules import frozen_copy

_CRITIC = (
    Field("loss_critic", "loss_critic", "output", "[]", "weighted value loss"),
    Field("value_clip_fraction", "value_clip_fraction", "output", "[]", "share clipped"),
)
_KL_APPROX = Field("kl_approx", "kl_approx", "metric", "[]", "estimator k1 of KL(old || new)")
_VARIANCE = Field("explained_variance", "explained_variance", "metric", "[]", "of the critic")


class PPOOptions(EntropyOptions, total=False):
    """The keyword arguments of every PPO loss but ``clip_value``; see ``PPOLoss``."""

    entropy_bonus: bool
    log_explained_variance: bool
    normalize_advantage: bool
    normalize_advantage_exclude_dims: Sequence[int]
    delay_actor: bool
    max_importance_ratio: Optional[float]


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


class PPOLoss(ActorCriticLoss):
    """PPO without a bound on the ratio.

        ratio          = exp(log_prob - behavior_log_prob)
        loss_objective = -ratio * advantage
        loss_entropy   = -entropy_coeff * entropy
        loss_critic    = critic_coeff * distance(value, value_target)

    The stored action is the one that was sampled, not the one that was clipped for the
    environment, and the stored log-probability is that action's.

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
        *_CRITIC,
        _KL_APPROX,
        _VARIANCE,
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
        for name in ("critic_coeff", "critic_coef"):
            if options.get(name) == 0:
                options[name] = None
        networks = (actor_network, critic_network)
        super().__init__(*networks, clip_value=clip_value, entropy_bonus=entropy_bonus, **options)
        self.normalize_advantage = normalize_advantage
        self.normalize_advantage_exclude_dims = tuple(normalize_advantage_exclude_dims)
        self.log_explained_variance = log_explained_variance
        self.delay_actor = delay_actor
        if delay_actor:
            self._freeze_actor()
        self.register_coefficient("max_importance_ratio", max_importance_ratio)
        if max_importance_ratio is not None:
            bound = max_importance_ratio
            check_range(self.name, "max_importance_ratio", bound, "positive", lambda x: x > 0)
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


class ClipPPOLoss(PPOLoss):
    """PPO with the clipped surrogate objective.

        ratio          = exp(log_prob - behavior_log_prob)
        loss_objective = -min(ratio * advantage, clip(ratio, 1 - eps, 1 + eps) * advantage)
        loss_entropy   = -entropy_coeff * entropy
        loss_critic    = critic_coeff * distance(value, value_target)

    The stored action is the one that was sampled, not the one that was clipped for the
    environment, and the stored log-probability is that action's.

    Args:
        actor_network: a ``Policy``, or a ``ProbabilisticTensorDictSequential``.
        critic_network: a plain module from ``observation`` to values, or a ``TensorDictModule``;
            None: no ``loss_critic``, and ``advantage`` must be given.
        clip_epsilon: how far the ratio may move from one, in [0, 1); or how far down, in [0, 1),
            and how far up, at least 0. They are then the coefficients ``clip_epsilon_low`` and
            ``clip_epsilon_high``.
        clip_value: bound on the value's distance from the stored value; True: ``clip_epsilon``;
            None or False: no bound.
        **options: see ``PPOLoss`` and ``ActorCriticLoss``.

    Raises:
        KeyError: the critic has no output of the key of ``value``, or a head has no coefficient.
        TypeError: a network is missing or of no known kind.
        ValueError: an argument is out of its range, or was given under two names with two values.

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 7 and 9; two bounds, Yu et al. 2025,
    arXiv:2503.14476, eq. 10.
    """

    fields: tuple[Field, ...] = (
        *INPUTS,
        Field("loss_objective", "loss_objective", "output", "[]", "the clipped surrogate"),
        Field("clip_fraction", "clip_fraction", "output", "[]", "share of clipped ratios"),
        *ENTROPY,
        *_CRITIC,
        Field("ESS", "ESS", "output", "[]", "effective sample size, a share of the samples"),
        _KL_APPROX._replace(kind="output"),
        Field("max_ratio", "max_ratio", "output", "[]", "largest ratio"),
        Field("mean_ratio", "mean_ratio", "output", "[]", "mean ratio"),
        _VARIANCE,
    )

    clip_epsilon: float
    clip_epsilon_low: float
    clip_epsilon_high: float

    def __init__(
        self,
        actor_network: Optional[nn.Module] = None,
        critic_network: Optional[nn.Module] = None,
        *,
        clip_epsilon: float | tuple[float, float] = 0.2,
        clip_value: Optional[float | bool | Tensor] = None,
        **options: Unpack[PPOOptions],
    ) -> None:
        bounds = _clip_bounds(type(self).__name__, clip_epsilon)
        if clip_value is True:
            if len(bounds) > 1:
                raise ValueError(
                    f"{type(self).__name__}: `clip_value` must be a number where `clip_epsilon` "
                    "is two, got True"
                )
            clip_value = bounds["clip_epsilon"]
        super().__init__(actor_network, critic_network, clip_value=clip_value, **options)
        for name, bound in bounds.items():
            self.register_coefficient(name, bound)

    def __setattr__(self, name: str, value: Any) -> None:
        bounds = [x for x in self.__dict__.get("_buffers", {}) if x.startswith("clip_epsilon")]
        if name.startswith("clip_epsilon") and bounds and name not in bounds:
            raise AttributeError(
                f"{self.name}: the bounds are {bounds}, as `clip_epsilon` was given, got {name!r}"
            )
        super().__setattr__(name, value)

    def _bounds(self) -> tuple[float, float]:
        """How far the ratio may move from one, down and up."""
        if "clip_epsilon" in self._buffers:
            return self.clip_epsilon, self.clip_epsilon
        return self.clip_epsilon_low, self.clip_epsilon_high

    def surrogate(
        self, data: Data, policy: Data, proximal: Data, ratio: Ratio, steps: Steps
    ) -> dict[str, Tensor]:
        """The clipped surrogate, and the metrics of the ratio."""
        low, high = self._bounds()
        log_probs = (ratio.log_prob, ratio.proximal)
        loss = ppo_clip(*log_probs, steps.advantage, low, high, ratio.log_weight)
        clipped = clip_fraction(ratio.log_ratio().exp(), 1 - low, 1 + high, steps.mask)
        return {
            "loss_objective": reduce(loss, steps.mask, self.reduction),
            "clip_fraction": clipped,
            **_ratio_metrics(ratio.behavior_log_ratio(), steps.mask),
        }


class KLPENPPOLoss(PPOLoss):
    """PPO with a penalty on the divergence, whose weight adapts to a target.

        ratio          = exp(log_prob - behavior_log_prob)
        loss_objective = -(ratio * advantage - beta * KL(old || new))
        loss_entropy   = -entropy_coeff * entropy
        loss_critic    = critic_coeff * distance(value, value_target)

        beta = beta * increment if mean KL > 1.5 * dtarg,
               beta * decrement if mean KL < dtarg / 1.5           after the loss has used it

    The old distribution's parameters must be recorded, under the keys under which the actor gives
    them. ``beta`` moves as running statistics do: at a call in training mode with gradients
    enabled, and at no other. The paper moves it once an update of the policy, after all epochs on
    the same data: set ``adapt_beta`` to False and call ``adapt``. So do inside
    ``torch.func.grad`` and ``vmap``, which let no buffer move.

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
        *_CRITIC,
        _KL_APPROX,
        _VARIANCE,
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
        check_range(name, "dtarg", dtarg, "positive", lambda x: x > 0)
        check_range(name, "beta", beta, "at least 0", lambda x: x >= 0)
        check_range(name, "increment", increment, "at least 1", lambda x: x >= 1)
        check_range(name, "decrement", decrement, "in (0, 1]", lambda x: 0 < x <= 1)
        super().__init__(actor_network, critic_network, clip_value=clip_value, **options)
        self.samples_mc_kl = check_count(name, "samples_mc_kl", samples_mc_kl)
        self.adapt_beta = adapt_beta
        rule = {"dtarg": dtarg, "increment": increment, "decrement": decrement}
        for coefficient, x in {"beta": beta, **rule}.items():
            self.register_coefficient(coefficient, x)
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
        """The penalised surrogate; moves ``beta``."""
        old = self._old(proximal, policy, steps.mask)
        divergence = self._actor.kl(old, policy, self.samples_mc_kl)
        # Used before it moves, also by the gradient. A compiled backward computes what is cheap
        # anew, of a buffer that has moved (PyTorch's pull request 197039); not a cumulative sum.
        beta: Any = self.beta.reshape(1).cumsum(0).reshape([])
        log_probs = (ratio.log_prob, ratio.proximal)
        loss = ppo_kl_penalty(*log_probs, steps.advantage, divergence, beta, ratio.log_weight)
        mean = reduce(divergence.detach(), steps.mask)
        if self.adapt_beta and self.training and torch.is_grad_enabled():
            self.adapt(mean)
        return {"loss_objective": reduce(loss, steps.mask, self.reduction), "kl": mean}

    @torch.no_grad()
    def adapt(self, kl: Tensor) -> None:
        """Move ``beta`` by the rule.

        Args:
            kl: mean KL(old || new) in nats, 0-d.
        """
        kl = kl.to(self.beta.dtype)
        self.beta.copy_(next_beta(self.beta, kl, self.dtarg, self.increment, self.decrement))

    def _old(self, proximal: Data, policy: Data, mask: Optional[Tensor]) -> Data:
        """The old distribution's parameters; the new one's, detached, where a step is not valid.

        What replaces such a step's record, zeros, may be no parameters: a scale of zero diverges.
        """
        self._check_old(proximal)
        if mask is None:
            return proximal
        return proximal | {
            key: torch.where(beside(mask, proximal[key]), proximal[key], policy[key].detach())
            for key in self._actor.param_keys
        }

    def _check_old(self, proximal: Data) -> None:
        for key in self._actor.param_keys:
            if key not in proximal:
                raise KeyError(
                    f"{self.name}: the parameter {key!r} of the old distribution was not found; "
                    f"the keys are {given(proximal)}"
                )
            self.check_recorded(keyword(key), proximal[key])


def _ratio_metrics(log_ratio: Tensor, mask: Optional[Tensor]) -> dict[str, Tensor]:
    ratio = log_ratio.exp()
    return {
        "ESS": effective_sample_size(log_ratio, mask),
        "max_ratio": largest(ratio, mask, 0.0),
        "mean_ratio": reduce(ratio, mask),
    }


def _clip_bounds(owner: str, clip_epsilon: Any) -> dict[str, Any]:
    """The bounds by the names of their coefficients."""
    if not isinstance(clip_epsilon, tuple | list):
        bounds = {"clip_epsilon": clip_epsilon}
    elif len(clip_epsilon) == 2:
        bounds = dict(zip(("clip_epsilon_low", "clip_epsilon_high"), clip_epsilon, strict=True))
    else:
        raise ValueError(
            f"{owner}: `clip_epsilon` must be one number or two, got {len(clip_epsilon)}"
        )
    for name, bound in bounds.items():
        if name == "clip_epsilon_high":
            check_range(owner, name, bound, "at least 0", lambda x: x >= 0)
        else:
            check_range(owner, name, bound, "in [0, 1)", lambda x: 0 <= x < 1)
    return bounds
