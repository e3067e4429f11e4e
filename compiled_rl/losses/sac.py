"""Soft actor-critic."""

from collections.abc import Sequence
from typing import Any, ClassVar, Optional, Unpack

import torch
from torch import Generator, Size, Tensor, nn

from compiled_rl.adapters import Data, EnsembleForm, Field, Key, PlainActor, PlainForm, in_next
from compiled_rl.adapters.fields import joined
from compiled_rl.adapters.specs import action_dimensions
from compiled_rl.functional import distance_loss, soft_value
from compiled_rl.losses.arguments import check_actor, check_options
from compiled_rl.losses.critics import parts_of
from compiled_rl.losses.off_policy import ACTION, ACTION_VALUE, TRANSITION
from compiled_rl.losses.parts import SACParts
from compiled_rl.losses.soft import OUTPUTS, SoftLoss, SoftOptions
from compiled_rl.losses.temperature import automatic
from compiled_rl.modules.arguments import check_flags


class SACLoss(SACParts, SoftLoss):
    """Soft actor-critic: a stochastic policy of continuous actions that is paid for its entropy.

        V(s)        = min over the critics of Q'(s, a) - alpha * log_prob(a),   a drawn at s
        y           = reward + gamma * (0 if terminated else V(next_observation))
        loss_qvalue = sum over the critics of distance(Q(observation, action), y)
        loss_actor  = alpha * log_prob(a) - min over the critics of Q(observation, a)
        loss_alpha  = -log_alpha * (log_prob(a) + target_entropy)

    Q' are the frozen copies, where there are some. No gradient of ``loss_actor`` reaches the
    critics or the temperature. With a ``value_network``, as in the first of the papers,

        loss_value  = distance(V(observation), min over the critics of Q' - alpha * log_prob)
        y           = reward + gamma * (0 if terminated else V'(next_observation))

    and each critic learns from a part of the batch of its own, whose size the number of critics
    must divide.

    The noise of the actions that are drawn is ``action_noise`` at the state left,
    ``next_action_noise`` at the state entered and ``value_action_noise`` for ``loss_value``, each
    of the shape of the action; what is not given is drawn.

    Args:
        actor_network: a ``Policy`` or a ``ProbabilisticTensorDictSequential`` whose samples are
            reparametrised, ``TanhNormal`` for instance.
        qvalue_network: a plain module from ``observation`` and ``action``, or from what ``Reads``
            says, to values, or a TensorDict module; or a list of them. See ``SoftLoss``.
        value_network: a plain module from ``observation`` to values, or a TensorDict module; None:
            none is needed.
        action_spec: says how many numbers an action is: TorchRL's specification, of the action or
            by key, or a space of Gymnasium; None: the policy says it.
        target_entropy: in nats; ``"auto"``: minus the number of the action's dimensions.
        delay_actor: whether the actions at states that are to be valued are drawn by a frozen copy
            of the policy.
        delay_value: whether states entered are valued with a frozen copy of ``value_network``.
        **options: see ``SoftLoss``.

    Raises:
        KeyError: the critic has no output of the key of ``state_action_value``, or reads no action.
        TypeError: a network is missing or of no known kind, or samples have no gradient.
        ValueError: an argument is out of its range, or nothing says how many numbers an action is.

    Reference: Haarnoja et al. 2018, arXiv:1812.05905, algorithm 1; with a value network,
    Haarnoja et al. 2018, arXiv:1801.01290, algorithm 1.
    """

    fields: tuple[Field, ...] = (
        ACTION,
        *TRANSITION,
        ACTION_VALUE,
        Field("value", "state_value", "computed", "", "the value network's"),
        Field("log_prob", "action_log_prob", "computed", "", "of the policy; not needed"),
        *OUTPUTS,
        Field("loss_value", "loss_value", "output", "[]", "the value network's loss"),
    )
    fixed: ClassVar[tuple[str, ...]] = (*SoftLoss.fixed, "value_network", "delay_actor")
    critics_output: ClassVar[str] = "state_action_value"
    _actor: PlainActor
    _target_actor: PlainActor
    _value: Optional[PlainForm] = None
    _target_value: PlainForm
    _shared: frozenset[str]

    def __init__(
        self,
        actor_network: nn.Module,
        qvalue_network: nn.Module | Sequence[nn.Module],
        value_network: Optional[nn.Module] = None,
        *,
        action_spec: Any = None,
        target_entropy: float | str = "auto",
        delay_actor: bool = False,
        delay_value: bool = True,
        **options: Unpack[SoftOptions],
    ) -> None:
        owner = type(self).__name__
        check_options(owner, options, SoftOptions)
        actor = PlainActor(check_actor(owner, actor_network))
        _check_reparametrized(owner, actor)
        if isinstance(target_entropy, str) and target_entropy == "auto":
            count = action_dimensions(actor.network, actor.heads, action_spec)
            target_entropy = automatic(owner, "action_spec", count, lambda n: -n)
        elsewhere = [x for x in (actor_network, value_network) if x is not None]
        super().__init__(actor, elsewhere, qvalue_network, target_entropy=target_entropy, **options)
        check_flags(self.name, delay_actor=delay_actor, delay_value=delay_value)
        self.delay_actor, self.delay_value = delay_actor, delay_value
        self.delay("actor_network", delay_actor)
        given = value_network is not None
        self.value_network = self.check_network("value_network", value_network) if given else None
        self.delay("value_network", delay_value and given)
        self.make_value_estimator()

    def networks(self) -> tuple[PlainForm | EnsembleForm, ...]:
        """The policy, the critics and the value network, and those that value states."""
        actor, drawing = [PlainActor(x) for x in self.with_target("actor_network")]
        critics, targets = [self._plain_critics(x) for x in self.with_target("qvalue_network")]
        self._check_actions(actor, critics)
        self.hold(_actor=actor, _target_actor=drawing, _critics=critics, _target_critics=targets)
        if self.value_network is None:
            self.hold_entered(drawing, critics)
            return actor, drawing, critics, targets
        value, target = [self.plain_critic(x) for x in self.with_target("value_network")]
        shared = actor.shared_with(self.value_network) if self.separate_losses else frozenset()
        self.hold(_value=value, _target_value=target, _shared=shared)
        self.hold_entered(target)
        return actor, drawing, critics, targets, value, target

    def _plain_critics(self, network: nn.Module) -> EnsembleForm:
        reads = ("observation", *self.keys_of("action"))
        form: EnsembleForm = self.plain_critic(network, self.critics_output, reads)
        return form

    def _check_actions(self, actor: PlainActor, critics: EnsembleForm) -> None:
        """The critics read the actions of the policy, under the keys where they are recorded."""
        for key in self.keys_of("action"):
            if key not in critics.in_keys or key not in actor.action_keys:
                raise KeyError(
                    f"{self.name}: the critic must read the action {key!r} of the policy; it reads "
                    f"{list(critics.in_keys)}, and the policy gives {list(actor.action_keys)}"
                )

    def absent(self) -> set[str]:
        """The loss of a value network, where there is none, and what ``SoftLoss`` leaves out."""
        return super().absent() | ({"loss_value"} if self.value_network is None else set())

    def other_keys(self) -> tuple[Key, ...]:
        """The masks, and the noise of each action that is drawn."""
        return (*super().other_keys(), *self._noise_keys("action_noise"), *self._target_noise())

    def _noise_keys(self, name: str) -> tuple[Key, ...]:
        """One a head of the policy."""
        keys = self.keys_of("action")
        return (name,) if len(keys) == 1 else tuple(joined(name, key) for key in keys)

    def _target_noise(self) -> tuple[Key, ...]:
        """That of the actions that value a state: the one entered, or with a value network left."""
        if self.value_network is not None:
            return self._noise_keys("value_action_noise")
        return tuple(in_next(key) for key in self._noise_keys("action_noise"))

    def draw_noise(self, data: Data, generator: Optional[Generator] = None) -> Data:
        """The noise of every action that a call draws, of the shape of the recorded one."""
        drawn: Data = {}
        for keys in (self._noise_keys("action_noise"), self._target_noise()):
            actions = self.require_each(data, "action")
            for key, head, action in zip(keys, self._actor.heads, actions, strict=True):
                params = (action,) * len(head.param_keys)
                drawn[key] = head.family.draw_noise(params, generator)
        return drawn

    def evaluate(self, data: Data) -> dict[str, Tensor]:
        """The losses and metrics by name; see the class."""
        self.require_each_recorded(data, "action")
        noise = (*self._noise_keys("action_noise"), *self._target_noise())
        if any(key not in data for key in noise):
            data = self.draw_noise(data) | data
        return super().evaluate(data)

    def actor_terms(self, data: Data) -> tuple[Tensor, Tensor]:
        """The policy's loss, and the log-probability of the action that it drew, ``[*B]``."""
        noise = self._noise_keys("action_noise")
        value, log_prob = self._drawn(self._actor, self._critics, data, data, noise)
        return -value, log_prob

    def critic_terms(
        self, data: Data, batch: Size, mask: Optional[Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """See ``SoftLoss``; of a value network, its loss, and that of each critic on its part."""
        if self._value is None:
            return super().critic_terms(data, batch, mask)
        own = self._own_value(data, batch)
        target = self.td_target(data, batch, self.next_value(data, batch), mask)
        value = self._state_value(data, batch, self._value.without(data, self._shared))
        soft = self._soft_value(data)
        losses = {
            "loss_qvalue": distance_loss(own, target, self.loss_function),
            "loss_value": distance_loss(value, soft, self.loss_function),
        }
        return losses, (own - target).square()

    def _own_value(self, data: Data, batch: Size) -> Tensor:
        """The first critic's values of the first part of the batch, and so on, ``[*B]``."""
        parts = parts_of(self.name, data, self._critics.in_keys, batch, self.num_qvalue_nets)
        computed = self._critics.each_of_its_own(parts)
        value = self.output(computed, "state_action_value", self.qvalue_network).flatten(0, 1)
        return self.like_reward(data, batch, value)

    @torch.no_grad()
    def _soft_value(self, data: Data) -> Tensor:
        """What the value network is to learn."""
        noise = self._target_noise()
        return self._drawn(self._target_actor, self._target_critics, data, data, noise)[0]

    def _state_value(self, data: Data, batch: Size, computed: Data) -> Tensor:
        """The value network's output as ``[*B]``."""
        assert self.value_network is not None
        value = self.output(computed, "value", self.value_network)
        return self.like_reward(data, batch, value)

    def recorded_value(self, data: Data, batch: Size) -> Tensor:
        """What each critic says of the recorded action, ``[N, *B]``."""
        return self.stacked(self._critics.without_shared(data), data, batch, self.qvalue_network)

    @torch.no_grad()
    def next_value(self, data: Data, batch: Size) -> Tensor:
        """The soft value of the states entered, ``[*B]``."""
        entered = self.entered(data)
        if self._value is not None:
            return self._state_value(data, batch, self._target_value(entered))
        noise = self._target_noise()
        return self._drawn(self._target_actor, self._target_critics, entered, data, noise)[0]

    def _drawn(
        self,
        actor: PlainActor,
        critics: EnsembleForm,
        state: Data,
        data: Data,
        noise: tuple[Key, ...],
    ) -> tuple[Tensor, Tensor]:
        """The soft value of a state from an action drawn there, and its log-probability."""
        drawn, log_prob = actor.sample(state, [data[key] for key in noise])
        value = self.stacked(critics.detached(drawn), data, log_prob.shape, self.qvalue_network)
        return soft_value(value, log_prob, self.temperature()), log_prob


def _check_reparametrized(owner: str, actor: PlainActor) -> None:
    for head in actor.heads:
        if not head.family.reparametrized:
            raise TypeError(
                f"{owner}: `actor_network` must have samples with a gradient, got "
                f"{type(head.family).__name__}; of discrete actions use DiscreteSACLoss"
            )
