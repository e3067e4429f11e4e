"""What the losses of a soft actor and its critics share: one evaluation, several critics."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Optional, Unpack

from torch import Size, Tensor, nn

from compiled_rl.adapters import Data, EnsembleForm, Field, PlainPolicy, select_valid
from compiled_rl.adapters.policy import one_or_several
from compiled_rl.functional import distance_loss, reduce
from compiled_rl.functional.scalars import where_valid
from compiled_rl.losses.critics import ensemble_of
from compiled_rl.losses.off_policy import TD_ERROR, OffPolicyLoss, OffPolicyOptions
from compiled_rl.losses.temperature import Temperature
from compiled_rl.modules import Ensemble
from compiled_rl.modules.arguments import check_flags

OUTPUTS = (
    Field("loss_actor", "loss_actor", "output", "[]", "the policy's loss"),
    Field("loss_qvalue", "loss_qvalue", "output", "[]", "the critics' losses together"),
    Field("loss_alpha", "loss_alpha", "output", "[]", "the temperature's loss"),
    Field("alpha", "alpha", "output", "[]", "temperature, in units of value a nat"),
    Field("entropy", "entropy", "output", "[]", "mean entropy in nats"),
    TD_ERROR,
)
ScalarOutputMode = Optional[Literal["exclude", "non_tensor"]]


class SoftOptions(OffPolicyOptions, total=False):
    """The keyword arguments of both losses; see ``SoftLoss``."""

    num_qvalue_nets: int
    alpha_init: float
    min_alpha: Optional[float]
    max_alpha: Optional[float]
    fixed_alpha: bool
    delay_qvalue: bool
    separate_losses: bool
    skip_done_states: bool
    deactivate_vmap: bool
    scalar_output_mode: ScalarOutputMode


class SoftLoss(Temperature, OffPolicyLoss):
    """A loss of a policy that is paid for its entropy, and of several critics.

    A subclass computes ``actor_terms``, ``recorded_value`` and ``next_value``.

    Args:
        actor: the plain form of the policy.
        elsewhere: the networks whose parameters other losses train.
        qvalue_network: one critic, of which ``num_qvalue_nets`` are made, each with parameters of
            its own drawn from the range of the critic's; or a list of so many. They are copied.
        target_entropy: in nats.
        num_qvalue_nets: the number of critics.
        alpha_init: the temperature at the start, positive.
        min_alpha: least temperature; None or 0: none.
        max_alpha: largest temperature, positive; None: none.
        fixed_alpha: whether the temperature stays what it is; then it is a buffer.
        delay_qvalue: whether states entered are valued with frozen copies of the critics.
        separate_losses: whether parameters that the critics share with another network are one for
            all of them, and left to its loss; without it they have copies.
        skip_done_states: whether the networks see a copy of another state instead of one where the
            task ended, which has no value: no action may be allowed there, for instance.
        deactivate_vmap: accepted and ignored.
        scalar_output_mode: ``"exclude"``: give neither ``alpha`` nor ``entropy`` with reduction
            ``"none"``; else they are given, as numbers.
        **options: see ``OffPolicyLoss``.
    """

    fixed: ClassVar[tuple[str, ...]] = (
        "reduction",
        "actor_network",
        "qvalue_network",
        "num_qvalue_nets",
        "delay_qvalue",
        "separate_losses",
        "fixed_alpha",
    )
    critics_output: ClassVar[str]  # the field whose key the critics' output has
    qvalue_network: Ensemble
    _actor: PlainPolicy
    _critics: EnsembleForm
    _target_critics: EnsembleForm

    def __init__(
        self,
        actor: PlainPolicy,
        elsewhere: Sequence[nn.Module],
        qvalue_network: nn.Module | Sequence[nn.Module],
        *,
        target_entropy: Any,
        num_qvalue_nets: int = 2,
        alpha_init: float = 1.0,
        min_alpha: Optional[float] = None,
        max_alpha: Optional[float] = None,
        fixed_alpha: bool = False,
        delay_qvalue: bool = True,
        separate_losses: bool = False,
        skip_done_states: bool = False,
        deactivate_vmap: bool = False,
        scalar_output_mode: ScalarOutputMode = None,
        **options: Unpack[OffPolicyOptions],
    ) -> None:
        options = {"loss_function": "smooth_l1", **options}
        super().__init__(**options)
        if scalar_output_mode not in (None, "exclude", "non_tensor"):
            raise ValueError(
                f"{self.name}: `scalar_output_mode` must be None, 'exclude' or 'non_tensor', "
                f"got {scalar_output_mode!r}"
            )
        check_flags(
            self.name,
            fixed_alpha=fixed_alpha,
            delay_qvalue=delay_qvalue,
            separate_losses=separate_losses,
            skip_done_states=skip_done_states,
            deactivate_vmap=deactivate_vmap,
        )
        self.scalar_output_mode = scalar_output_mode
        self.actor_network = actor.network
        elsewhere = elsewhere if separate_losses else ()
        self.qvalue_network = ensemble_of(self.name, qvalue_network, num_qvalue_nets, elsewhere)
        self.num_qvalue_nets = num_qvalue_nets
        self.separate_losses = separate_losses
        self.delay_qvalue = delay_qvalue
        self.delay("qvalue_network", delay_qvalue)
        self.skip_done_states = skip_done_states
        self.deactivate_vmap = deactivate_vmap
        self.register_temperature(alpha_init, min_alpha, max_alpha, fixed_alpha, target_entropy)
        self.take_defaults(action=one_or_several(actor.action_keys))

    def absent(self) -> set[str]:
        """The numbers that were not wanted beside a loss a sample."""
        excluded = self.reduction == "none" and self.scalar_output_mode == "exclude"
        return {"alpha", "entropy"} if excluded else set()

    def actor_terms(self, data: Data) -> tuple[Tensor, Tensor]:
        """The policy's loss, and the log-probability that its entropy is the mean of, ``[*B]``."""
        raise NotImplementedError

    def recorded_value(self, data: Data, batch: Size) -> Tensor:
        """What each critic says of the recorded action, ``[N, *B]``."""
        raise NotImplementedError

    def next_value(self, data: Data, batch: Size) -> Tensor:
        """The soft value of the states entered, ``[*B]``, without a gradient."""
        raise NotImplementedError

    def evaluate(self, data: Data) -> dict[str, Tensor]:
        """The losses and metrics by name; see the class."""
        data = self.select_valid(data)
        loss_actor, log_prob = self.actor_terms(data)
        batch = log_prob.shape
        mask, weight = self.mask(data, batch), self.weight(data, batch)
        losses, error = self.critic_terms(data, batch, mask)
        losses = {"loss_actor": loss_actor} | losses
        how: dict[str, Any] = {"reduction": self.reduction, "weight": weight}
        return {
            **{name: reduce(x, mask, **how) for name, x in losses.items()},
            **self.temperature_terms(log_prob, mask, **how),
            "td_error": where_valid(mask, error.detach()),
            "log_prob": log_prob.detach(),  # for the parts alone
        }

    def critic_terms(
        self, data: Data, batch: Size, mask: Optional[Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The losses of what is fitted to targets, by name, and each sample's error, ``[*B]``."""
        value = self.recorded_value(data, batch)
        target = self.td_target(data, batch, self.next_value(data, batch), mask)
        loss = distance_loss(value, target.expand_as(value), self.loss_function)
        return {"loss_qvalue": loss.sum(0)}, (value - target).abs().amax(0)

    def entered(self, data: Data) -> Data:
        """The inputs at the states entered, under the names of the root."""
        found = super().entered(data)
        if not self.skip_done_states:
            return found
        terminated = self.require(data, "terminated")
        goes_on = ~terminated.squeeze(-1) if terminated.dim() > 1 else ~terminated
        return select_valid(found, goes_on, ())
