"""Deep deterministic policy gradient."""

import math
from typing import ClassVar, Optional, Unpack

import torch
from torch import Size, Tensor, nn

from compiled_rl.adapters import Data, Field, PlainForm
from compiled_rl.functional import distance_loss, reduce
from compiled_rl.functional.reduction import largest
from compiled_rl.losses.arguments import check_options
from compiled_rl.losses.off_policy import (
    ACTION,
    ACTION_VALUE,
    TD_ERROR,
    TRANSITION,
    OffPolicyLoss,
    OffPolicyOptions,
    squared_error,
)
from compiled_rl.losses.parts import DDPGParts
from compiled_rl.modules.arguments import check_flags


class DDPGLoss(DDPGParts, OffPolicyLoss):
    """Deep deterministic policy gradient.

        next_action = pi'(next_observation)
        y           = reward + gamma * (0 if terminated else Q'(next_observation, next_action))
        loss_value  = distance(Q(observation, action), y)
        loss_actor  = -Q(observation, pi(observation))

    Q' and pi' are the frozen copies, where there are some. No gradient of ``loss_actor`` reaches
    the parameters of Q.

    Args:
        actor_network: a plain module from ``observation`` to actions, a ``Policy``, or a TensorDict
            module; of a distribution it is the mode that acts. Exploration modules of TorchRL
            around it are left out.
        value_network: a plain module from ``observation`` and ``action``, or from what ``Reads``
            says, to values; or a TensorDict module that reads the actor's action.
        delay_actor: whether states entered are valued with a frozen copy of the actor.
        delay_value: whether they are with a frozen copy of the critic.
        separate_losses: whether ``loss_value`` leaves parameters that the critic shares with the
            actor alone.
        **options: see ``OffPolicyLoss``.

    Raises:
        KeyError: the critic has no output of the key of ``state_action_value``.
        TypeError: a network is missing or of no known kind.
        ValueError: an argument is out of its range, or the critic reads no action.

    Reference: Lillicrap et al. 2015, arXiv:1509.02971, algorithm 1.
    """

    fields: tuple[Field, ...] = (
        ACTION,
        *TRANSITION,
        ACTION_VALUE,
        Field("loss_actor", "loss_actor", "output", "[]", "the actor's loss"),
        Field("loss_value", "loss_value", "output", "[]", "the critic's loss"),
        Field("pred_value", "pred_value", "output", "[*B]", "the critic's value"),
        Field("target_value", "target_value", "output", "[*B]", "what it should be"),
        Field("pred_value_max", "pred_value_max", "output", "[]", "the largest of the values"),
        Field("target_value_max", "target_value_max", "output", "[]", "the largest target"),
        TD_ERROR,
    )
    fixed: ClassVar[tuple[str, ...]] = (
        "reduction",
        "actor_network",
        "value_network",
        "delay_actor",
        "delay_value",
        "separate_losses",
    )
    _shared: Optional[frozenset[str]]
    _actor: PlainForm
    _critic: PlainForm
    _target_actor: PlainForm
    _target_critic: PlainForm

    def __init__(
        self,
        actor_network: Optional[nn.Module] = None,
        value_network: Optional[nn.Module] = None,
        *,
        delay_actor: bool = False,
        delay_value: bool = True,
        separate_losses: bool = False,
        **options: Unpack[OffPolicyOptions],
    ) -> None:
        check_options(type(self).__name__, options, OffPolicyOptions)
        super().__init__(**options)
        check_flags(
            self.name,
            delay_actor=delay_actor,
            delay_value=delay_value,
            separate_losses=separate_losses,
        )
        self.actor_network = self.check_network("actor_network", actor_network)
        self.value_network = self.check_network("value_network", value_network)
        self.delay_actor, self.delay_value = delay_actor, delay_value
        self.delay("actor_network", delay_actor)
        self.delay("value_network", delay_value)
        self.separate_losses = separate_losses
        self.make_value_estimator()

    def networks(self) -> tuple[PlainForm, ...]:
        """The actor and the critic, and those with which states entered are valued."""
        actor, target_actor = [self.plain_actor(x) for x in self.with_target("actor_network")]
        critic, target_critic = [self.action_critic(x) for x in self.with_target("value_network")]
        self.take_action_key(actor, critic)
        shared = actor.shared_with(self.value_network) if self.separate_losses else None
        self.hold(_actor=actor, _critic=critic, _shared=shared)
        self.hold(_target_actor=target_actor, _target_critic=target_critic)
        self.hold_entered(target_actor, target_critic)
        return actor, critic, target_actor, target_critic

    def evaluate(self, data: Data) -> dict[str, Tensor]:
        """The losses and metrics by name; see the class."""
        data = self.select_valid(data)
        batch = self.batch(data)
        mask, weight = self.mask(data, batch), self.weight(data, batch)
        value = self._of(self._evaluated(data), data, batch)
        target = self.td_target(data, batch, self._next_value(data, batch), mask)
        actor_value = self._of(self._critic.detached(self._actor(data)), data, batch)
        loss_value = distance_loss(value, target, self.loss_function)
        return {
            "loss_actor": reduce(-actor_value, mask, self.reduction, weight),
            "loss_value": reduce(loss_value, mask, self.reduction, weight),
            "pred_value": value.detach(),
            "target_value": target.detach(),
            "pred_value_max": largest(value.detach(), mask, -math.inf),
            "target_value_max": largest(target.detach(), mask, -math.inf),
            "td_error": squared_error(value, target, mask),
        }

    def _evaluated(self, data: Data) -> Data:
        """The critic on the recorded actions; what it shares with the actor held out, if wanted."""
        if self._shared is not None:
            return self._critic.without(data, self._shared)
        computed: Data = self._critic(data)
        return computed

    @torch.no_grad()
    def _next_value(self, data: Data, batch: Size) -> Tensor:
        """Q'(next_observation, pi'(next_observation)), ``[*B]``."""
        return self._of(self._target_critic(self._target_actor(self.entered(data))), data, batch)

    def _of(self, computed: Data, data: Data, batch: Size) -> Tensor:
        """The critic's value among what was computed, ``[*B]``."""
        value = self.output(computed, "state_action_value", self.value_network)
        return self.like_reward(data, batch, value)
