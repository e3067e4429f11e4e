"""V-trace as a module."""

from typing import ClassVar, Optional, Unpack

from torch import Tensor, nn

from compiled_rl.adapters import Data, Field, Key, PlainForm, PlainPolicy
from compiled_rl.adapters.policy import joint_log_prob, one_or_several
from compiled_rl.estimators.axes import Axes
from compiled_rl.estimators.base import EstimatorOptions, ValueEstimatorBase
from compiled_rl.estimators.steps import Steps
from compiled_rl.estimators.values import Values
from compiled_rl.functional import AdvantageOutput, standardize, vtrace
from compiled_rl.modules.arguments import check_flags, check_module


class VTrace(ValueEstimatorBase):
    """``functional.vtrace`` with an actor, a critic and coefficients; see there for the formula.

    The actor is asked for the log-probability of the *recorded* action.

    Args:
        gamma: discount in [0, 1]: a float, a ``Parameter``, one a time step ``[T]``, or one a step.
        lmbda: trace decay in [0, 1], in the same forms.
        actor_network: the policy to learn about: a ``Policy``, or a
            ``ProbabilisticTensorDictSequential``; its parameters never get a gradient.
        rho_thresh: bound of the ratio in the errors, positive.
        c_thresh: bound of the ratio in the trace, positive.
        average_adv: shift and scale the advantages over the valid steps.
        **options: those of ``ValueEstimatorBase``.

    Raises:
        TypeError: ``actor_network`` is of no known kind.
        ValueError: a coefficient is out of its range.

    Reference: Espeholt et al. 2018, arXiv:1802.01561, eq. 1 and section 4.2.
    """

    fields: tuple[Field, ...] = (
        *ValueEstimatorBase.fields,
        Field("action", "action", "input", "[*B, T, ...]", "the recorded action, as sampled"),
        Field("sample_log_prob", "action_log_prob", "input", "[*B, T]", "its log-probability then"),
        Field("log_prob", "log_prob", "input", "[*B, T]", "and now, without an actor"),
    )
    fixed: ClassVar[tuple[str, ...]] = ("value_network", "actor_network")
    lmbda: Tensor
    rho_thresh: float
    c_thresh: float
    _actor: Optional[PlainPolicy] = None

    def __init__(
        self,
        *,
        gamma: float | Tensor = 0.99,
        lmbda: float | Tensor = 1.0,
        actor_network: Optional[nn.Module] = None,
        rho_thresh: float | Tensor = 1.0,
        c_thresh: float | Tensor = 1.0,
        average_adv: bool = False,
        **options: Unpack[EstimatorOptions],
    ) -> None:
        super().__init__(gamma=gamma, **options)
        if actor_network is not None:
            check_module(self.name, "actor_network", actor_network)
        self.actor_network = actor_network
        if actor_network is not None:
            self._use(actor_network)
        check_flags(self.name, average_adv=average_adv)
        self.average_adv = average_adv
        self.register_discount("lmbda", lmbda)
        self.register_coefficient("rho_thresh", rho_thresh, "positive")
        self.register_coefficient("c_thresh", c_thresh, "positive")

    def lend(
        self,
        value_network: nn.Module,
        actor_network: Optional[nn.Module] = None,
        value_key: Optional[Key] = None,
    ) -> None:
        """Use the networks of a loss, whose children they stay; an actor of its own stays in use.

        Raises:
            KeyError: the critic has no output of the key of ``value``.
            ValueError: the estimator has another critic of its own, or of another loss.
        """
        super().lend(value_network, actor_network, value_key)
        if self.actor_network is None and actor_network is not None:
            self._use(actor_network)

    def _use(self, actor_network: nn.Module) -> None:
        """Ask this actor; where its action and log-probability are found, it says itself."""
        actor = PlainPolicy(actor_network)
        # Outside the module tree: its modules are those of a child already.
        object.__setattr__(self, "_actor", actor)
        keys = {
            "action": one_or_several(actor.action_keys),
            "sample_log_prob": one_or_several(actor.log_prob_keys),
        }
        own = {name: self.tensor_keys[name] for name in keys}
        unset = {name for name in keys if own[name] == self.default_keys[name]}
        self.default_keys = self.default_keys | keys
        self.tensor_keys = self.tensor_keys | {name: keys[name] for name in unset}
        self.wire()

    def networks(self) -> tuple[PlainForm, ...]:
        """The critic and the actor, as far as they are there."""
        return super().networks() + (() if self._actor is None else (self._actor,))

    def estimate(self, steps: Steps) -> AdvantageOutput:
        """Advantage for the policy's gradient, and value target."""
        assert steps.value is not None
        assert steps.log_prob is not None
        assert steps.behavior_log_prob is not None
        flags = (steps.terminated, steps.done)
        log_probs = (steps.log_prob, steps.behavior_log_prob)
        scalars = (self.discount(steps), self.along_time(self.lmbda, steps))
        bounds = (self.rho_thresh, self.c_thresh)
        inputs = (steps.reward, steps.value, steps.next_value, *flags, *log_probs)
        advantage, target = vtrace(*inputs, *scalars, *bounds, steps.mask, steps.time_dim)
        if self.average_adv:
            advantage = standardize(advantage, steps.mask, 1e-5)
        return AdvantageOutput(advantage, target)

    def _steps(
        self,
        data: Data,
        axes: Axes,
        values: Values,
        log_prob: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
    ) -> Steps:
        log_prob = self._log_prob(data) if log_prob is None else log_prob
        steps = super()._steps(data, axes, values, log_prob, mask)
        recorded = self.require_each(data, "sample_log_prob")
        actions = [data[key] for key in self.keys_of("action") if key in data]
        joint = joint_log_prob(recorded, actions, log_prob).to(steps.reward.dtype)
        return steps._replace(behavior_log_prob=axes.like(joint, steps.reward))

    def _log_prob(self, data: Data) -> Tensor:
        if self._actor is None:
            return self.require(data, "log_prob", "without an `actor_network`")
        return self._actor.log_prob(self._actor.detached(data), self.require_each(data, "action"))
