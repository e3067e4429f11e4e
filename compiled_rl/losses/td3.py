"""Twin delayed deep deterministic policy gradient."""

from collections.abc import Sequence
from typing import Any, ClassVar, Optional, Unpack

import torch
from torch import Generator, Size, Tensor, nn

from compiled_rl.adapters import Data, EnsembleForm, Field, Key, PlainForm, in_next
from compiled_rl.adapters.specs import action_bounds
from compiled_rl.functional import distance_loss, reduce, smoothed_action
from compiled_rl.functional.scalars import where_valid
from compiled_rl.losses.arguments import check_options
from compiled_rl.losses.critics import ensemble_of
from compiled_rl.losses.off_policy import (
    ACTION,
    ACTION_VALUE,
    TD_ERROR,
    TRANSITION,
    OffPolicyLoss,
    OffPolicyOptions,
)
from compiled_rl.losses.parts import TD3Parts
from compiled_rl.modules.arguments import check_flags
from compiled_rl.modules.coefficients import holds
from compiled_rl.modules.families.base import normal_like

_NOISE = in_next("action_noise")


class TD3Loss(TD3Parts, OffPolicyLoss):
    """Twin delayed deep deterministic policy gradient.

        next_action = clip(pi'(next_observation) + clip(policy_noise * noise, -noise_clip,
                           noise_clip), min_action, max_action)
        y           = reward + gamma * (0 if terminated else min over the critics of
                      Q'(next_observation, next_action))
        loss_qvalue = sum over the critics of distance(Q(observation, action), y)
        loss_actor  = -Q_1(observation, pi(observation))

    Q' and pi' are the frozen copies, where there are some. No gradient of ``loss_actor`` reaches
    the critics. That the actor learns at every other step only is the update's affair.

    Args:
        actor_network: a plain module from ``observation`` to actions, a ``Policy``, or a TensorDict
            module; of a distribution it is the mode that acts.
        qvalue_network: a plain module from ``observation`` and ``action``, or from what ``Reads``
            says, to values, or a TensorDict module, of which ``num_qvalue_nets`` are made, each
            with parameters of its own drawn from the range of the network's; or a list of so many.
            They are copied.
        action_spec: where the action's bounds are found: TorchRL's specification, of the action or
            by key, or a ``Box`` of Gymnasium.
        bounds: the lower and the upper bound, numbers or ``[A]``, instead of ``action_spec``.
        num_qvalue_nets: the number of critics.
        policy_noise: standard deviation of the noise on the action at the state entered, in units
            of the action, at least 0. The noise itself, standard normal and of the shape of the
            action, is drawn unless it is given as ``next_action_noise``.
        noise_clip: bound of that noise, in units of the action, at least 0.
        delay_actor: whether states entered are valued with a frozen copy of the actor.
        delay_qvalue: whether they are with frozen copies of the critics.
        separate_losses: whether parameters that the critics share with the actor are one for all
            of them, and left to the actor's loss; without it they have copies.
        deactivate_vmap: accepted and ignored.
        **options: see ``OffPolicyLoss``; the distance is ``"smooth_l1"`` by default.

    Raises:
        KeyError: the critic has no output of the key of ``state_action_value``, or reads no action.
        TypeError: a network is missing or of no known kind.
        ValueError: an argument is out of its range, or not one of ``action_spec`` and ``bounds``
            was given.

    Reference: Fujimoto et al. 2018, arXiv:1802.09477, algorithm 1.
    """

    fields: tuple[Field, ...] = (
        ACTION,
        *TRANSITION,
        ACTION_VALUE,
        Field("loss_actor", "loss_actor", "output", "[]", "the actor's loss"),
        Field("loss_qvalue", "loss_qvalue", "output", "[]", "the critics' losses together"),
        Field("pred_value", "pred_value", "output", "[N, *B]", "the critics' values"),
        Field(
            "state_action_value_actor",
            "state_action_value_actor",
            "output",
            "[N, *B]",
            "the critics' values of the actor's action",
        ),
        Field("next_state_value", "next_state_value", "output", "[*B]", "of the state entered"),
        Field("target_value", "target_value", "output", "[*B]", "what the critics should say"),
        TD_ERROR,
    )
    fixed: ClassVar[tuple[str, ...]] = (
        "reduction",
        "actor_network",
        "qvalue_network",
        "num_qvalue_nets",
        "delay_actor",
        "delay_qvalue",
        "separate_losses",
    )
    policy_noise: float  # 0-d buffers: assign a number, and it is copied in place
    noise_clip: float
    min_action: Tensor
    max_action: Tensor
    _actor: PlainForm
    _critics: EnsembleForm
    _target_actor: PlainForm
    _target_critics: EnsembleForm

    def __init__(
        self,
        actor_network: Optional[nn.Module] = None,
        qvalue_network: Optional[nn.Module | Sequence[nn.Module]] = None,
        *,
        action_spec: Any = None,
        bounds: Optional[tuple[float | Tensor, float | Tensor]] = None,
        num_qvalue_nets: int = 2,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        delay_actor: bool = True,
        delay_qvalue: bool = True,
        separate_losses: bool = False,
        deactivate_vmap: bool = False,
        **options: Unpack[OffPolicyOptions],
    ) -> None:
        name = type(self).__name__
        check_options(name, options, OffPolicyOptions)
        options = {"loss_function": "smooth_l1", **options}
        super().__init__(**options)
        check_flags(
            name,
            delay_actor=delay_actor,
            delay_qvalue=delay_qvalue,
            separate_losses=separate_losses,
            deactivate_vmap=deactivate_vmap,
        )
        self.actor_network = self.check_network("actor_network", actor_network)
        elsewhere = [self.actor_network] if separate_losses else []
        self.qvalue_network = ensemble_of(name, qvalue_network, num_qvalue_nets, elsewhere)
        self.num_qvalue_nets = num_qvalue_nets
        self.delay_actor, self.delay_qvalue = delay_actor, delay_qvalue
        self.delay("actor_network", delay_actor)
        self.delay("qvalue_network", delay_qvalue)
        self.separate_losses, self.deactivate_vmap = separate_losses, deactivate_vmap
        self.register_coefficient("policy_noise", policy_noise, "at least 0")
        self.register_coefficient("noise_clip", noise_clip, "at least 0")
        self.make_value_estimator()
        self._register_bounds(action_spec, bounds)

    def _register_bounds(self, spec: Any, bounds: Any) -> None:
        """Lower and upper bounds of the action, on the device and in the dtype of the networks."""
        if (spec is None) == (bounds is None):
            raise ValueError(
                f"{self.name}: one of `action_spec` and `bounds` must be given, "
                f"got {'neither' if spec is None else 'both'}"
            )
        if spec is None and not (isinstance(bounds, tuple | list) and len(bounds) == 2):
            raise ValueError(f"{self.name}: `bounds` must be two, lower and upper, got {bounds!r}")
        found = bounds if spec is None else action_bounds(spec, self.tensor_keys["action"])
        if found is None:
            raise ValueError(f"{self.name}: `action_spec` must be bounded, got {spec!r}")
        for x in found:
            is_number = isinstance(x, float | int) or hasattr(x, "__array__")  # arrays, tensors
            if not is_number or isinstance(x, bool):
                raise TypeError(
                    f"{self.name}: `bounds` must be numbers or tensors, got a {type(x).__name__}"
                )
        like = next(self.actor_network.parameters(), torch.zeros(()))
        low, high = [torch.as_tensor(x, dtype=like.dtype, device=like.device) for x in found]
        if max(low.dim(), high.dim()) > 1 or (low.dim() == high.dim() and low.shape != high.shape):
            raise ValueError(
                f"{self.name}: bounds must be numbers or of shape [A] both, "
                f"got shapes {list(low.shape)} and {list(high.shape)}"
            )
        if not holds(low <= high):  # nor is a NaN
            raise ValueError(
                f"{self.name}: the lower bounds must not be above the upper ones, "
                f"got {low.tolist()} and {high.tolist()}"
            )
        self.register_buffer("min_action", low)
        self.register_buffer("max_action", high)

    def _bound_of(self, action: Tensor, bound: Tensor) -> Tensor:
        """A bound for each number of an action; one of another size would broadcast."""
        if bound.dim() and bound.shape != action.shape[-1:]:
            raise ValueError(
                f"{self.name}: bounds of {len(bound)} numbers must be for actions of as many, "
                f"got actions of shape {list(action.shape)}"
            )
        return bound.expand_as(action)

    def networks(self) -> tuple[PlainForm | EnsembleForm, ...]:
        """The actor and the critics, and those with which states entered are valued."""
        actor, target_actor = [self.plain_actor(x) for x in self.with_target("actor_network")]
        critics, targets = [self.action_critic(x) for x in self.with_target("qvalue_network")]
        self.take_action_key(actor, critics)
        self.hold(_actor=actor, _critics=critics)
        self.hold(_target_actor=target_actor, _target_critics=targets)
        self.hold_entered(target_actor, targets)
        return actor, critics, target_actor, targets

    def other_keys(self) -> tuple[Key, ...]:
        """The masks, and the noise of the action at the state entered."""
        return (*super().other_keys(), _NOISE)

    def draw_noise(self, data: Data, generator: Optional[Generator] = None) -> Data:
        """Standard normal noise of the shape of the recorded action."""
        return {_NOISE: normal_like(self.require(data, "action"), generator)}

    def evaluate(self, data: Data) -> dict[str, Tensor]:
        """The losses and metrics by name; see the class."""
        data = data if _NOISE in data else data | self.draw_noise(data)
        data = self.select_valid(data)
        batch = self.batch(data)
        mask, weight = self.mask(data, batch), self.weight(data, batch)
        value = self.stacked(self._critics.without_shared(data), data, batch, self.qvalue_network)
        next_value = self._next_value(data, batch)
        target = self.td_target(data, batch, next_value, mask)
        actor_value = self.stacked(
            self._critics.detached(self._actor(data)), data, batch, self.qvalue_network
        )
        loss = distance_loss(value, target.expand_as(value), self.loss_function).sum(0)
        error = (value - target).detach().square().amax(0)
        return {
            "loss_actor": reduce(-actor_value[0], mask, self.reduction, weight),
            "loss_qvalue": reduce(loss, mask, self.reduction, weight),
            "pred_value": value.detach(),
            "state_action_value_actor": actor_value.detach(),
            "next_state_value": next_value,
            "target_value": target.detach(),
            "td_error": where_valid(mask, error),
        }

    @torch.no_grad()
    def _next_value(self, data: Data, batch: Size) -> Tensor:
        """The least of the critics' values of a noisy action at the state entered."""
        found, key = self._target_actor(self.entered(data)), self.tensor_keys["action"]
        action, scales = found[key], (self.policy_noise, self.noise_clip)
        low, high = [self._bound_of(action, x) for x in (self.min_action, self.max_action)]
        found[key] = smoothed_action(action, data[_NOISE], low, high, *scales)
        return self.stacked(self._target_critics(found), data, batch, self.qvalue_network).amin(0)
