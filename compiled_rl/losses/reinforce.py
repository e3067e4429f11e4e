"""REINFORCE with a baseline."""

from typing import ClassVar, Optional, Unpack

from torch import Tensor, nn

from compiled_rl.adapters import Data, Field, PlainForm
from compiled_rl.functional import policy_gradient, reduce
from compiled_rl.losses.actor_critic import INPUTS, ActorCriticLoss, ActorCriticOptions, Steps
from compiled_rl.losses.arguments import check_options
from compiled_rl.losses.parts import CriticPart
from compiled_rl.modules import frozen_copy
from compiled_rl.modules.arguments import check_flags


class ReinforceLoss(CriticPart, ActorCriticLoss):
    """REINFORCE with a baseline.

        loss_actor = -log_prob * advantage
        loss_value = distance(value, value_target)

    The advantage is that of ``GAE`` by default; with ``make_value_estimator("td1")`` it is the
    return less the baseline, as in the paper. No gradient reaches the advantage.

    Args:
        actor_network: a ``Policy``, or a ``ProbabilisticTensorDictSequential``.
        critic_network: the baseline: a plain module from ``observation`` to values, or a
            ``TensorDictModule``. None: none, and ``advantage`` must be given, such as the return.
        delay_value: whether states entered are valued by a frozen copy of the critic,
            ``target_critic_network``, which a target-network updater moves.
        clip_value: bound on the value's distance from the stored value; None: no bound.
        **options: see ``ActorCriticLoss``.

    Raises:
        KeyError: the critic has no output of the key of ``value``.
        TypeError: a network is missing or of no known kind.
        ValueError: an argument is out of its range, or was given under two names with two values.

    Reference: Williams 1992, Machine Learning 8, sec. 4.
    """

    fields: tuple[Field, ...] = (
        *INPUTS,
        Field("loss_actor", "loss_actor", "output", "[]", "the policy's loss"),
        Field("loss_value", "loss_value", "output", "[]", "value loss"),
        Field("value_clip_fraction", "value_clip_fraction", "metric", "[]", "share clipped"),
    )
    critic_output: ClassVar[str] = "loss_value"
    needs_critic: ClassVar[bool] = False
    _target_critic: Optional[PlainForm] = None

    def __init__(
        self,
        actor_network: Optional[nn.Module] = None,
        critic_network: Optional[nn.Module] = None,
        *,
        delay_value: bool = False,
        clip_value: Optional[float | Tensor] = None,
        **options: Unpack[ActorCriticOptions],
    ) -> None:
        check_options(type(self).__name__, options, ActorCriticOptions)
        super().__init__(actor_network, critic_network, clip_value=clip_value, **options)
        check_flags(self.name, delay_value=delay_value)
        self.delay_value = delay_value
        if delay_value:
            if self.critic_network is None:
                raise ValueError("ReinforceLoss: `delay_value` needs a `critic_network`, got None")
            self.target_critic_network = frozen_copy(self.critic_network)
            self.wire()

    def networks(self) -> tuple[PlainForm, ...]:
        """Those of every loss; the plain form of the frozen copy is made, too."""
        forms = super().networks()
        if "target_critic_network" in self._modules:
            # Outside the module tree: its modules are those of `target_critic_network` already.
            target = self.plain_critic(self.target_critic_network)
            object.__setattr__(self, "_target_critic", target)
        return forms

    def target_critic(self) -> Optional[PlainForm]:
        """The frozen copy, if there is one."""
        return self._target_critic

    def policy_terms(self, data: Data, policy: Data, steps: Steps) -> dict[str, Tensor]:
        """The loss of the policy."""
        loss = policy_gradient(steps.log_prob, steps.advantage.detach())
        return {"loss_actor": reduce(loss, steps.mask, self.reduction)}
