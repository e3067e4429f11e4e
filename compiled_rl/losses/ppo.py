"""Proximal policy optimisation with a clipped ratio."""

from typing import ClassVar, Literal, NamedTuple, Optional

from torch import Tensor, nn

from compiled_rl.adapters import Data, Field, PlainForm, PlainPolicy, given, select_valid
from compiled_rl.estimators import ValueEstimators
from compiled_rl.functional import (
    clip_fraction,
    effective_sample_size,
    explained_variance,
    ppo_clip,
    reduce,
    standardize,
    value_loss,
)
from compiled_rl.functional.reduction import largest
from compiled_rl.kernels.checks import check_shape
from compiled_rl.losses.base import LossModule

_FOR_THE_ESTIMATOR = ("reward", "done", "terminated")


class Steps(NamedTuple):
    """What the objective needs of each step, all ``[*B]``; without a critic only the advantage."""

    advantage: Tensor
    value_target: Optional[Tensor] = None
    value: Optional[Tensor] = None
    old_value: Optional[Tensor] = None
    mask: Optional[Tensor] = None


class ClipPPOLoss(LossModule):
    """PPO with the clipped surrogate objective.

        ratio          = exp(log_prob - behavior_log_prob)
        loss_objective = -min(ratio * advantage, clip(ratio, 1 - eps, 1 + eps) * advantage)
        loss_entropy   = -entropy_coeff * entropy
        loss_critic    = critic_coeff * distance(value, value_target)

    The stored action is the one that was sampled, not the one that was clipped for the
    environment, and the stored log-probability is that action's.

    Without ``advantage`` in the data, the value estimator computes it, and the value target,
    along the last batch axis: pass sequences ``[*B, T]`` then, not a shuffled batch.

    Advantages, targets, rewards, flags and the critic's output are all ``[*B]`` or all
    ``[*B, 1]``, where ``[*B]`` is the shape of the stored log-probability.

    Args:
        actor_network: a ``Policy``, or a ``ProbabilisticTensorDictSequential``.
        critic_network: a plain module from ``observation`` to values, or a ``TensorDictModule``;
            None: no ``loss_critic``, and ``advantage`` must be given.
        clip_epsilon: how far the ratio may move from one, in [0, 1).
        entropy_bonus: whether there is a ``loss_entropy``.
        entropy_coeff: weight of the entropy.
        critic_coeff: weight of the critic's loss; None: there is none.
        loss_critic_type: ``"l1"``, ``"l2"`` or ``"smooth_l1"``.
        normalize_advantage: shift and scale the advantages over the valid steps of the batch.
        clip_value: bound on the value's distance from the stored value; True: ``clip_epsilon``;
            None or False: no bound.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        loss_mask_key: ``"auto"``, None, or the key of a mask of valid steps.

    Raises:
        TypeError: a network is of no known kind.
        ValueError: an argument is out of its range.

    Reference: Schulman et al. 2017, arXiv:1707.06347, eq. 7 and 9.
    """

    fields: ClassVar[tuple[Field, ...]] = (
        Field("action", "action", "input", "[*B, ...]", "the recorded action, as sampled"),
        Field("sample_log_prob", "action_log_prob", "input", "[*B]", "its log-probability then"),
        Field("advantage", "advantage", "input", "[*B] or [*B, 1]", "computed if missing"),
        Field("value_target", "value_target", "input", "[*B] or [*B, 1]", "comes with advantage"),
        Field("value", "state_value", "input", "[*B] or [*B, 1]", "old value, for clip_value"),
        Field("reward", ("next", "reward"), "input", "[*B] or [*B, 1]", "for the estimator"),
        Field("done", ("next", "done"), "input", "bool [*B] or [*B, 1]", "for the estimator"),
        Field("terminated", ("next", "terminated"), "input", "bool, as done", "for the estimator"),
        Field("loss_objective", "loss_objective", "output", "[]", "the clipped surrogate"),
        Field("clip_fraction", "clip_fraction", "output", "[]", "share of clipped ratios"),
        Field("entropy", "entropy", "output", "[]", "mean entropy in nats"),
        Field("loss_entropy", "loss_entropy", "output", "[]", "weighted entropy bonus"),
        Field("loss_critic", "loss_critic", "output", "[]", "weighted value loss"),
        Field("value_clip_fraction", "value_clip_fraction", "output", "[]", "share clipped"),
        Field("ESS", "ESS", "output", "[]", "effective sample size, a share of the samples"),
        Field("kl_approx", "kl_approx", "output", "[]", "estimator k1 of KL(old || new)"),
        Field("max_ratio", "max_ratio", "output", "[]", "largest ratio"),
        Field("mean_ratio", "mean_ratio", "output", "[]", "mean ratio"),
        Field("explained_variance", "explained_variance", "metric", "[]", "of the critic"),
    )

    default_value_estimator: ClassVar[ValueEstimators] = ValueEstimators.GAE
    fixed: ClassVar[tuple[str, ...]] = (
        "reduction",
        "actor_network",
        "critic_network",
        "entropy_bonus",
    )

    clip_epsilon: float  # 0-d buffers all: assign a number, and it is copied in place
    entropy_coeff: float
    critic_coeff: Optional[float]
    clip_value: Optional[float]
    _actor: PlainPolicy
    _critic: PlainForm

    def __init__(
        self,
        actor_network: nn.Module,
        critic_network: Optional[nn.Module] = None,
        *,
        clip_epsilon: float = 0.2,
        entropy_bonus: bool = True,
        entropy_coeff: float = 0.01,
        critic_coeff: Optional[float] = 1.0,
        loss_critic_type: Literal["l1", "l2", "smooth_l1"] = "smooth_l1",
        normalize_advantage: bool = False,
        clip_value: Optional[float | bool] = None,
        reduction: Literal["none", "mean", "sum"] = "mean",
        loss_mask_key: str | tuple[str, ...] | None = "auto",
    ) -> None:
        super().__init__(reduction, loss_mask_key)
        if loss_critic_type not in ("l1", "l2", "smooth_l1"):
            raise ValueError(
                f"{self.name}: `loss_critic_type` must be 'l1', 'l2' or 'smooth_l1', "
                f"got {loss_critic_type!r}"
            )
        if not isinstance(critic_network, nn.Module | None):
            raise TypeError(
                f"{self.name}: `critic_network` must be an nn.Module or None, "
                f"got {type(critic_network).__name__}"
            )
        self.actor_network = actor_network
        self.critic_network = critic_network
        self.entropy_bonus = entropy_bonus
        self.loss_critic_type = loss_critic_type
        self.normalize_advantage = normalize_advantage
        self.register_coefficient("clip_epsilon", clip_epsilon)
        self.register_coefficient("entropy_coeff", entropy_coeff)
        self.register_coefficient("critic_coeff", None if critic_network is None else critic_coeff)
        self.register_coefficient("clip_value", _bound(clip_value, clip_epsilon))
        self._check_ranges()
        # Outside the module tree: its modules are those of `actor_network` already.
        object.__setattr__(self, "_actor", PlainPolicy(actor_network))
        self.default_keys["action"] = self._actor.action_key
        self.default_keys["sample_log_prob"] = self._actor.log_prob_key
        self.tensor_keys = dict(self.default_keys)
        self.wire()
        if critic_network is not None:
            self.make_value_estimator()

    def critic(self) -> Optional[nn.Module]:
        """The critic, which is lent to the value estimator."""
        return self.critic_network

    def networks(self) -> tuple[PlainForm, ...]:
        """The actor and, if there is one, the critic, whose output has the key of ``value``."""
        if self.critic_network is None:
            return (self._actor,)
        critic = self.plain_critic(self.critic_network)
        object.__setattr__(self, "_critic", critic)
        return self._actor, critic

    def _check_ranges(self) -> None:
        if not 0 <= float(self.clip_epsilon) < 1:
            raise ValueError(
                f"{self.name}: `clip_epsilon` must be in [0, 1), got {float(self.clip_epsilon):g}"
            )
        if self.clip_value is not None and not float(self.clip_value) > 0:
            raise ValueError(
                f"{self.name}: `clip_value` must be positive, got {float(self.clip_value):g}"
            )

    def absent(self) -> set[str]:
        """The outputs of the entropy bonus, the critic and the value clip, where they are off."""
        off: set[str] = set()
        if not self.entropy_bonus:
            off |= {"entropy", "loss_entropy"}
        if self.critic_coeff is None:
            off |= {"loss_critic", "value_clip_fraction", "explained_variance"}
        if self.clip_value is None:
            off |= {"value_clip_fraction"}
        return off

    def evaluate(self, data: Data) -> dict[str, Tensor]:
        """The losses and metrics by name; see the class."""
        batch = self.require_recorded(data, "sample_log_prob").shape
        mask = self.mask(data, batch)
        data = select_valid(data, mask)
        self.require_recorded(data, "action")
        policy = self._actor(data)
        log_prob = self._log_prob(policy)
        steps = self._steps(policy, log_prob, mask)
        outputs = self._policy_terms(policy, log_prob, steps.advantage, steps.mask)
        if steps.value is not None and self.critic_coeff is not None:
            outputs |= self._critic_terms(steps, self.critic_coeff)
        return outputs

    def _log_prob(self, policy: Data) -> Tensor:
        """The log-probability of the recorded action now, of the shape of that then."""
        params = self._actor.params(policy)
        log_prob = self._actor.family.log_prob(params, self.require(policy, "action"))
        behavior_log_prob = self.require(policy, "sample_log_prob")
        check_shape(self.name, "sample_log_prob", behavior_log_prob, "log_prob", log_prob)
        return log_prob

    def _steps(self, policy: Data, log_prob: Tensor, mask: Optional[Tensor]) -> Steps:
        """Advantage and value terms, given or estimated, all aligned to ``[*B]``."""
        batch = log_prob.shape
        if self.tensor_keys["advantage"] not in policy:
            return self._estimate(policy, log_prob, mask)
        found = {"advantage": self.require(policy, "advantage")}
        if self.critic_coeff is not None:
            found["value_target"] = self.require(policy, "value_target")
            found["value"] = self._value(policy)
            if self.clip_value is not None:
                found["old_value"] = self.require(policy, "value", "for `clip_value`")
        return Steps(**self.per_step(batch, **found), mask=mask)

    def _value(self, data: Data) -> Tensor:
        value: Tensor = self._critic(data)[self.tensor_keys["value"]]
        return value

    def _estimate(self, policy: Data, log_prob: Tensor, mask: Optional[Tensor]) -> Steps:
        """The steps of a sequence ``[*B, T]`` whose advantage was not given."""
        if self._value_estimator is None:
            raise RuntimeError(
                f"{self.name}: the key {self.tensor_keys['advantage']!r} was not found, and "
                f"without a `critic_network` it cannot be computed; the keys are {given(policy)}"
            )
        why = "to compute the missing `advantage`"
        found = {name: self.require(policy, name, why) for name in _FOR_THE_ESTIMATOR}
        found["value"] = self._value(policy)
        if self.clip_value is not None:
            found["old_value"] = self.require(policy, "value", "for `clip_value`")
        aligned = self.per_step(log_prob.shape, **found)
        (advantage, value_target), mask = self._value_estimator.within(
            policy, log_prob.dim(), found["value"], log_prob, mask
        )
        target = self.per_step(log_prob.shape, advantage=advantage, value_target=value_target)
        return Steps(
            **target, value=aligned["value"], old_value=aligned.get("old_value"), mask=mask
        )

    def _policy_terms(
        self, policy: Data, log_prob: Tensor, advantage: Tensor, mask: Optional[Tensor]
    ) -> dict[str, Tensor]:
        behavior_log_prob = self.require(policy, "sample_log_prob")
        if self.normalize_advantage:
            advantage = standardize(advantage, mask)
        epsilon = self.clip_epsilon
        loss = ppo_clip(log_prob, behavior_log_prob, advantage, epsilon, epsilon)
        outputs = {"loss_objective": reduce(loss, mask, self.reduction)}
        outputs |= self._ratio_metrics(log_prob.detach() - behavior_log_prob, mask)
        if self.entropy_bonus:
            entropy = self._actor.family.entropy(self._actor.params(policy))
            outputs["entropy"] = reduce(entropy.detach(), mask)
            outputs["loss_entropy"] = reduce(-self.entropy_coeff * entropy, mask, self.reduction)
        return outputs

    def _ratio_metrics(self, log_ratio: Tensor, mask: Optional[Tensor]) -> dict[str, Tensor]:
        ratio = log_ratio.exp()
        low, high = 1 - self.clip_epsilon, 1 + self.clip_epsilon
        return {
            "clip_fraction": clip_fraction(ratio, low, high, mask),
            "ESS": effective_sample_size(log_ratio, mask),
            "kl_approx": reduce(-log_ratio, mask),
            "max_ratio": largest(ratio, mask, 0.0),
            "mean_ratio": reduce(ratio, mask),
        }

    def _critic_terms(self, steps: Steps, weight: float) -> dict[str, Tensor]:
        value, target, mask = steps.value, steps.value_target, steps.mask
        assert value is not None
        assert target is not None
        outputs = {"explained_variance": explained_variance(value, target, mask)}
        loss_type = self.loss_critic_type
        if self.clip_value is None or steps.old_value is None:
            loss = value_loss(value, target, loss_type=loss_type)
        else:
            bound, moved = self.clip_value, value.detach() - steps.old_value
            loss = value_loss(value, target, steps.old_value, bound, loss_type)
            outputs["value_clip_fraction"] = clip_fraction(moved, -bound, bound, mask)
        outputs["loss_critic"] = reduce(weight * loss, mask, self.reduction)
        return outputs


def _bound(clip_value: Optional[float | bool], clip_epsilon: float) -> Optional[float]:
    """The bound that ``clip_value`` asks for: True is ``clip_epsilon``, False is none."""
    if isinstance(clip_value, bool):
        return clip_epsilon if clip_value else None
    return clip_value
