"""What the losses of an actor and a critic share: recorded steps, entropy, value loss."""

from collections.abc import Mapping
from numbers import Real
from typing import Any, ClassVar, Literal, NamedTuple, Optional, TypedDict

import torch
from torch import Tensor, nn

from compiled_rl.adapters import Data, Field, Key, PlainForm, PlainPolicy, given, keyword, read
from compiled_rl.adapters.fields import joined
from compiled_rl.adapters.policy import Head, joint_log_prob, one_or_several
from compiled_rl.estimators import ValueEstimators
from compiled_rl.functional import clip_fraction, explained_variance, reduce, value_loss
from compiled_rl.kernels.checks import check_floating, check_shape
from compiled_rl.losses.arguments import (
    NOT_GIVEN,
    by_head,
    check_actor,
    check_distance,
    one_spelling,
)
from compiled_rl.losses.declared import DeclaredLoss
from compiled_rl.losses.dtypes import widened
from compiled_rl.losses.norms import check_norm, learn
from compiled_rl.modules.arguments import as_device, check_count, check_flags

_FOR_THE_ESTIMATOR = ("reward", "done", "terminated")

INPUTS = (
    Field("action", "action", "input", "[*B, ...]", "the recorded action, as sampled"),
    Field("sample_log_prob", "action_log_prob", "input", "[*B]", "its log-probability then"),
    Field("advantage", "advantage", "input", "[*B] or [*B, 1]", "computed if missing"),
    Field("value_target", "value_target", "input", "[*B] or [*B, 1]", "comes with advantage"),
    Field("value", "state_value", "input", "[*B] or [*B, 1]", "old value, for clip_value"),
    Field("reward", ("next", "reward"), "input", "[*B] or [*B, 1]", "for the estimator"),
    Field("done", ("next", "done"), "input", "bool [*B] or [*B, 1]", "for the estimator"),
    Field("terminated", ("next", "terminated"), "input", "bool, as done", "for the estimator"),
)
ENTROPY = (
    Field("entropy", "entropy", "output", "[]", "mean entropy in nats"),
    Field("loss_entropy", "loss_entropy", "output", "[]", "weighted entropy bonus"),
)


class Steps(NamedTuple):
    """What the objective needs of each step, all ``[*B]``; without a critic only the first two.

    ``trailing`` is 1 if the advantage came as ``[*B, 1]``, else 0.
    """

    log_prob: Tensor
    advantage: Tensor
    value_target: Optional[Tensor] = None
    value: Optional[Tensor] = None
    old_value: Optional[Tensor] = None
    mask: Optional[Tensor] = None
    trailing: int = 0


class ActorCriticOptions(TypedDict, total=False):
    """The keyword arguments of every loss of an actor and a critic; see ``ActorCriticLoss``."""

    loss_critic_type: Literal["l1", "l2", "smooth_l1"]
    separate_losses: bool
    functional: bool
    reduction: Optional[Literal["none", "mean", "sum"]]
    loss_mask_key: Optional[Key]
    device: Optional[torch.device | str]
    actor: Optional[nn.Module]
    critic: Optional[nn.Module]
    advantage_key: Optional[Key]
    value_target_key: Optional[Key]
    value_key: Optional[Key]


class EntropyOptions(ActorCriticOptions, total=False):
    """Those of a loss with an entropy bonus, too, but for ``entropy_bonus`` itself."""

    samples_mc_entropy: int
    entropy_coeff: Optional[float | Mapping[Key, float]]
    entropy_coef: Optional[float | Mapping[Key, float]]
    critic_coeff: Optional[float]
    critic_coef: Optional[float]
    advantage_norm: Optional[nn.Module]


class ActorCriticLoss(DeclaredLoss):
    """A loss of a policy and, most of the time, a critic, on recorded steps.

        loss_critic  = critic_coeff * distance(value, value_target)
        loss_entropy = -entropy_coeff * entropy

    A subclass declares ``fields`` and computes ``policy_terms``.

    Without ``advantage`` in the data, the value estimator computes it, and the value target,
    along the last batch axis: pass sequences ``[*B, T]`` then, not a shuffled batch. Of a
    TensorDict that is its own last axis or the one that it names ``"time"``, whatever axes, such
    as that of agents, its tensors have beyond. Advantages,
    targets, rewards, flags and the critic's output are all ``[*B]`` or all ``[*B, 1]``, where
    ``[*B]`` is the shape of the action's log-probability.

    Args:
        actor_network: a ``Policy``, or a ``ProbabilisticTensorDictSequential``. With several
            heads, ``action`` is one recorded tensor a head, and log-probabilities are summed.
            Exploration modules of TorchRL around it are left out: a loss learns the policy, not
            its noise. TorchRL's recurrent modules run over the last batch axis.
        critic_network: a plain module from ``observation``, or from what ``Reads`` says, to values;
            or a ``TensorDictModule``. It may read what the actor computes, which is then computed
            once, and once more to value the states entered. A recurrent one whose state is not
            recorded needs an estimator that is ``shifted``. None: there is no ``loss_critic``, and
            ``advantage`` must be given.
        loss_critic_type: ``"l1"``, ``"l2"`` or ``"smooth_l1"``.
        critic_coeff: weight of the critic's loss, 1 if it is not given; None: there is none.
            ``critic_coef`` is the same.
        clip_value: bound on the value's distance from the stored value; None or False: no bound.
        entropy_bonus: whether there is a ``loss_entropy``.
        samples_mc_entropy: samples that estimate an entropy without a formula, at least 1. Their
            noise is drawn, unless it is given as ``entropy_noise``.
        entropy_coeff: weight of the entropy, or one of each head, by the head's action key with or
            without the suffix ``_entropy`` or ``_log_prob``; None: 0.01. ``entropy_coef`` is the
            same.
        advantage_norm: a ``ValueNorm``, or one of TorchRL's, by whose ``scale()`` advantages are
            divided; they are not shifted. In training mode with gradients enabled it learns from
            the value targets of a call that computes the advantage, and from no other: where
            advantages are given, show it the targets of a rollout once. None: none.
        separate_losses: whether the critic's loss leaves parameters and features that it shares
            with the policy alone.
        functional: accepted for the peer's sake. The networks are ordinary children either way,
            the loss works inside ``torch.func.functional_call`` and under data parallelism.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; None: ``"mean"``.
        loss_mask_key: ``"auto"``, None, or the key of a mask of valid steps.
        device: where the coefficients are; None: where the networks are.
        actor: the same as ``actor_network``.
        critic: the same as ``critic_network``.
        advantage_key: as ``set_keys(advantage=...)``.
        value_target_key: as ``set_keys(value_target=...)``.
        value_key: as ``set_keys(value=...)``.

    Raises:
        KeyError: the critic has no output of the key of ``value``, or a head has no coefficient.
        TypeError: a network is missing or of no known kind, or ``advantage_norm`` is none.
        ValueError: an argument is out of its range, or was given under two names with two values.
    """

    default_value_estimator: ClassVar[ValueEstimators] = ValueEstimators.GAE
    SUPPORTED_VALUE_ESTIMATORS: ClassVar[tuple[ValueEstimators, ...]] = tuple(ValueEstimators)
    critic_output: ClassVar[str] = "loss_critic"
    needs_critic: ClassVar[bool] = True
    fixed: ClassVar[tuple[str, ...]] = (
        "reduction",
        "actor_network",
        "critic_network",
        "entropy_bonus",
        "separate_losses",
        "functional",
        "advantage_norm",
    )

    critic_coeff: Optional[float]  # 0-d buffers all: assign a number, and it is copied in place
    clip_value: Optional[float]
    _actor: PlainPolicy
    _critic: PlainForm

    def __init__(
        self,
        actor_network: Optional[nn.Module] = None,
        critic_network: Optional[nn.Module] = None,
        *,
        loss_critic_type: Literal["l1", "l2", "smooth_l1"] = "smooth_l1",
        critic_coeff: Any = NOT_GIVEN,
        clip_value: Optional[float | bool | Tensor] = None,
        entropy_bonus: bool = False,
        samples_mc_entropy: int = 1,
        entropy_coeff: Optional[float | Mapping[Key, float]] = None,
        separate_losses: bool = False,
        functional: bool = True,
        reduction: Optional[Literal["none", "mean", "sum"]] = None,
        loss_mask_key: Optional[Key] = "auto",
        device: Optional[torch.device | str] = None,
        actor: Optional[nn.Module] = None,
        critic: Optional[nn.Module] = None,
        advantage_key: Optional[Key] = None,
        value_target_key: Optional[Key] = None,
        value_key: Optional[Key] = None,
        entropy_coef: Optional[float | Mapping[Key, float]] = None,
        critic_coef: Any = NOT_GIVEN,
        advantage_norm: Optional[nn.Module] = None,
    ) -> None:
        super().__init__(reduction, loss_mask_key)
        name = self.name
        self.actor_network = check_actor(
            name, one_spelling(name, None, actor_network=actor_network, actor=actor)
        )
        self.critic_network = self._check_critic(
            one_spelling(name, None, critic_network=critic_network, critic=critic)
        )
        self._shared: Optional[frozenset[str]] = None
        # Outside the module tree: its modules are those of `actor_network` already.
        object.__setattr__(self, "_actor", PlainPolicy(self.actor_network))
        self.loss_critic_type = check_distance(name, loss_critic_type)
        check_flags(
            name,
            entropy_bonus=entropy_bonus,
            separate_losses=separate_losses,
            functional=functional,
        )
        self.entropy_bonus = entropy_bonus
        self.samples_mc_entropy = check_count(name, "samples_mc_entropy", samples_mc_entropy)
        self.separate_losses = separate_losses
        self.functional = functional
        chosen = as_device(name, "device", device)
        self._device = _device_of(self.actor_network) if chosen is None else chosen
        self._register_entropy(
            one_spelling(name, None, entropy_coeff=entropy_coeff, entropy_coef=entropy_coef)
        )
        weight = one_spelling(name, NOT_GIVEN, critic_coeff=critic_coeff, critic_coef=critic_coef)
        critic_coeff = 1.0 if weight is NOT_GIVEN else weight
        if self.critic_network is None:
            critic_coeff = None
        self.register_coefficient("critic_coeff", critic_coeff, optional=True)
        bound = None if clip_value is False else clip_value
        self.register_coefficient("clip_value", bound, "positive", optional=True)
        self.advantage_norm: Any = check_norm(name, "advantage_norm", advantage_norm)
        self._take_keys(advantage_key, value_target_key, value_key)
        if self.critic_network is not None:
            self.make_value_estimator()

    def _check_critic(self, critic: Any) -> Optional[nn.Module]:
        if critic is None and self.needs_critic:
            raise TypeError(f"{self.name}: `critic_network` must be given, got None")
        if not isinstance(critic, nn.Module | None):
            raise TypeError(
                f"{self.name}: `critic_network` must be an nn.Module or None, "
                f"got {type(critic).__name__}"
            )
        return critic

    def _take_keys(
        self, advantage: Optional[Key], value_target: Optional[Key], value: Optional[Key]
    ) -> None:
        self.take_defaults(
            action=one_or_several(self._actor.action_keys),
            sample_log_prob=one_or_several(self._actor.log_prob_keys),
        )
        given = {"advantage": advantage, "value_target": value_target, "value": value}
        self.set_keys(**{name: key for name, key in given.items() if key is not None})

    def home(self) -> Optional[torch.device]:
        """The device of the networks, or the one that was named."""
        return self._device

    def _register_entropy(self, coefficient: Any) -> None:
        """One coefficient for all heads, or one a head."""
        coefficient = 0.01 if coefficient is None else coefficient
        heads = self._actor.action_keys
        named: dict[str, Any] = {"entropy_coeff": coefficient}
        if isinstance(coefficient, Mapping):
            named = by_head(self.name, coefficient, heads)
        elif not isinstance(coefficient, Real | Tensor):
            raise TypeError(
                f"{self.name}: `entropy_coeff` must be a float or a mapping by head, "
                f"got {coefficient!r}"
            )
        for name, x in named.items():
            self.register_coefficient(name, x)
        self._entropy_coefficients = (
            tuple(named) if len(named) == len(heads) else (("entropy_coeff",) * len(heads))
        )
        if len(heads) > 1 and self.entropy_bonus:
            self.fields = (*self.fields, *[_entropy_of(head) for head in self._actor.heads])

    def lent_critic(self) -> Optional[nn.Module]:
        """The critic, which is lent to the value estimator."""
        return self.critic_network

    def networks(self) -> tuple[PlainForm, ...]:
        """The actor and, if there is one, the critic, whose output has the key of ``value``."""
        if self.critic_network is None:
            return (self._actor,)
        critic = self.plain_critic(self.critic_network)
        self._actor.keep((*self._actor.param_keys, *critic.in_keys))
        object.__setattr__(self, "_critic", critic)
        separate = self.separate_losses
        self._shared = self._actor.shared_with(self.critic_network) if separate else None
        return self._actor, critic

    def other_keys(self) -> tuple[Key, ...]:
        """The masks, and the noise of entropies without a formula."""
        noise = self._actor.noise_keys("entropy") if self.entropy_bonus else ()
        return (*super().other_keys(), *noise)

    def absent(self) -> set[str]:
        """The outputs of the entropy bonus, the critic and the value clip, where they are off."""
        off: set[str] = set()
        if not self.entropy_bonus:
            off |= {"entropy", "loss_entropy"}
        if self.critic_coeff is None:
            off |= {self.critic_output, "value_clip_fraction", "explained_variance"}
        if self.clip_value is None:
            off |= {"value_clip_fraction"}
        return off

    def policy_terms(self, data: Data, policy: Data, steps: Steps) -> dict[str, Tensor]:
        """The loss of the policy and its metrics.

        Args:
            data: what was recorded, by key.
            policy: that and what the actor computes from it.
            steps: what the objective needs.
        """
        raise NotImplementedError

    def evaluate(self, data: Data) -> dict[str, Tensor]:
        """The losses and metrics by name; see the class."""
        data = self.select_valid(data)
        policy, steps = self.gathered(data)
        outputs = self.policy_terms(data, policy, steps)
        if self.entropy_bonus:
            outputs |= self._entropy_terms(policy, steps.mask)
        if steps.value is not None and self.critic_coeff is not None:
            outputs |= self.critic_terms(steps, self.critic_coeff, self.reduction)
        return outputs

    def gathered(self, data: Data) -> tuple[Data, Steps]:
        """What the actor computes of data, and what the objective needs of each step."""
        actions = self.require_each_recorded(data, "action")
        policy = widened(self._actor(data), self._actor.out_keys, self.actor_network)
        log_prob = self._actor.log_prob(policy, actions)
        steps = self._steps(data, policy, log_prob, self.mask(data, log_prob.shape))
        return policy, self._scaled(steps)

    def behavior_log_prob(self, data: Data, log_prob: Tensor) -> Tensor:
        """The recorded log-probability of the action, of the shape of that now."""
        recorded = self.require_each_recorded(data, "sample_log_prob")
        joint = joint_log_prob(recorded, self.require_each(data, "action"), log_prob)
        check_floating(self.name, "sample_log_prob", joint)
        check_shape(self.name, "sample_log_prob", joint, "log_prob", log_prob)
        return joint

    def _steps(self, data: Data, policy: Data, log_prob: Tensor, mask: Optional[Tensor]) -> Steps:
        """Advantage and value terms, given or estimated, all aligned to ``[*B]``.

        What was recorded is read from ``data``: an actor may compute something of the same key.
        """
        if self.tensor_keys["advantage"] not in data:
            return self._estimate(data, policy, log_prob, mask)
        found = {"advantage": self.require(data, "advantage")}
        if self.critic_coeff is not None:
            found["value_target"] = self.require(data, "value_target")
            found |= self._values(data, policy, log_prob)
        return self._aligned(log_prob, mask, found)

    def _estimate(
        self, data: Data, policy: Data, log_prob: Tensor, mask: Optional[Tensor]
    ) -> Steps:
        """The steps of a sequence ``[*B, T]`` whose advantage was not given."""
        if self._value_estimator is None:
            raise RuntimeError(
                f"{self.name}: the key {self.tensor_keys['advantage']!r} was not found, and "
                f"without a `critic_network` it cannot be computed; the keys are {given(data)}"
            )
        why = "to compute the missing `advantage`"
        found = self._values(data, policy, log_prob)
        # A critic's own parameters are held out; so must be those behind what it reads.
        features = {key: policy[key].detach() for key in self._critic.in_keys if key in policy}
        data = self._value_estimator.shared_out(features | data, found["value"])
        found = {name: self.require(data, name, why) for name in _FOR_THE_ESTIMATOR} | found
        self.per_step(log_prob.shape, **found)
        (advantage, value_target), mask = self._value_estimator.within(
            data, log_prob.dim(), found["value"], log_prob, mask, self.target_critic()
        )
        terms = {"advantage": advantage, "value_target": value_target}
        terms |= {name: found[name] for name in ("value", "old_value") if name in found}
        steps = self._aligned(log_prob, mask, terms)
        if self.advantage_norm is not None and steps.value_target is not None:
            learn(self, self.advantage_norm, steps.value_target.unsqueeze(-1), steps.mask)
        return steps

    def _scaled(self, steps: Steps) -> Steps:
        """The steps with advantages on the scale of ``advantage_norm``."""
        if self.advantage_norm is None:
            return steps
        scaled = steps.advantage.unsqueeze(-1) / self.advantage_norm.scale()
        return steps._replace(advantage=scaled.squeeze(-1))

    def _aligned(self, log_prob: Tensor, mask: Optional[Tensor], found: dict[str, Tensor]) -> Steps:
        trailing = found["advantage"].dim() - log_prob.dim()
        aligned = self.per_step(log_prob.shape, **found)
        return Steps(log_prob, **aligned, mask=mask, trailing=trailing)

    def _values(self, data: Data, policy: Data, log_prob: Tensor) -> dict[str, Tensor]:
        """The critic's value and, for ``clip_value``, the recorded one."""
        computed = (
            self._critic(policy)
            if self._shared is None
            else self._critic.without(policy, self._shared)
        )
        assert self.critic_network is not None
        key = self.tensor_keys["value"]
        found = {"value": widened(computed, [key], self.critic_network)[key]}
        if self.clip_value is not None:
            found["old_value"] = self.require(data, "value", "for `clip_value`")
        return found

    def target_critic(self) -> Optional[PlainForm]:
        """What the estimator values the states entered with; None: the critic itself."""
        return None

    def _entropy_terms(self, policy: Data, mask: Optional[Tensor]) -> dict[str, Tensor]:
        entropies = self._actor.entropies(policy, self.samples_mc_entropy)
        total = torch.stack(entropies).sum(0)
        loss = self._weighted_loss_entropy(entropies)
        outputs = {
            "entropy": reduce(total.detach(), mask),
            "loss_entropy": reduce(loss, mask, self.reduction),
        }
        if len(entropies) > 1:
            for head, x in zip(self._actor.heads, entropies, strict=True):
                outputs[_entropy_of(head).name] = reduce(x.detach(), mask)
        return outputs

    def _weighted_loss_entropy(self, entropies: Any) -> Tensor:
        """The entropy's loss of each step, from each head's entropy; of one head, the tensor."""
        each = [entropies] if isinstance(entropies, Tensor) else entropies
        weights = [getattr(self, name) for name in self._entropy_coefficients]
        loss: Tensor = -sum(w * x for w, x in zip(weights, each, strict=True))
        return loss

    def _log_probs(self, tensordict: Any) -> tuple[Tensor, Any]:
        """Of the recorded actions, ``[*B, 1]``, and the distribution where the actor gives one."""
        data = read(self.name, self.in_keys, tensordict, {})
        actions = self.require_each_recorded(data, "action")
        log_prob = self._actor.log_prob(self._actor(data), actions)
        get_dist: Any = getattr(self.actor_network, "get_dist", None)
        return log_prob.unsqueeze(-1), get_dist and get_dist(tensordict)

    def critic_terms(self, steps: Steps, weight: float, reduction: str) -> dict[str, Tensor]:
        """The critic's loss and its metrics."""
        value, target, mask = steps.value, steps.value_target, steps.mask
        assert value is not None
        assert target is not None
        outputs = {"explained_variance": explained_variance(value, target, mask)}
        kind = self.loss_critic_type
        if self.clip_value is None or steps.old_value is None:
            loss = value_loss(value, target, loss_function=kind)
        else:
            bound = self.clip_value
            loss = value_loss(value, target, steps.old_value, bound, kind)
            moved = value.detach() - steps.old_value
            outputs["value_clip_fraction"] = clip_fraction(moved, -bound, bound, mask)
        outputs[self.critic_output] = reduce(weight * loss, mask, reduction)
        return outputs


def _device_of(network: nn.Module) -> torch.device:
    first = next(network.parameters(), None)
    return torch.get_default_device() if first is None else first.device


def _entropy_of(head: Head) -> Field:
    """The metric that is the entropy of one head of several."""
    key = joined("composite_entropy", head.entropy_key)
    return Field(keyword(key), key, "metric", "[]", "mean entropy of a head, in nats")
