"""Soft actor-critic for discrete actions."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Optional, Unpack

import torch
from torch import Size, Tensor, nn

from compiled_rl.adapters import Data, EnsembleForm, Field, PlainForm, PlainPolicy
from compiled_rl.adapters.specs import number_of_actions
from compiled_rl.functional import (
    categorical_entropy,
    categorical_soft_value,
    chosen_action_value,
)
from compiled_rl.losses.arguments import check_actor, check_options
from compiled_rl.losses.dtypes import widened
from compiled_rl.losses.off_policy import TRANSITION
from compiled_rl.losses.parts import DiscreteSACParts
from compiled_rl.losses.soft import OUTPUTS, SoftLoss, SoftOptions
from compiled_rl.losses.temperature import automatic
from compiled_rl.modules import Categorical
from compiled_rl.modules.arguments import check_count
from compiled_rl.modules.coefficients import check_range
from compiled_rl.modules.q_policy import action_family


class DiscreteSACLoss(DiscreteSACParts, SoftLoss):
    """Soft actor-critic of discrete actions: the mean over all of them, and no noise.

        V(s)        = sum over a of p(a) * (min over the critics of Q'(s, a) - alpha * log(p(a)))
        y           = reward + gamma * (0 if terminated else V(next_observation))
        loss_qvalue = sum over the critics of distance(Q(observation)[action], y)
        loss_actor  = sum over a of p(a) * (alpha * log(p(a)) - min over the critics of Q(a))
        loss_alpha  = log_alpha * (entropy - target_entropy)

    Q' are the frozen copies, where there are some. No gradient of ``loss_actor`` reaches the
    critics or the temperature. What the policy forbids, the critics are not asked about.

    Args:
        actor_network: a ``Policy`` or a ``ProbabilisticTensorDictSequential`` with a categorical
            distribution of whatever kind.
        qvalue_network: a plain module from ``observation``, or from what ``Reads`` says, to the
            values of all actions, or a TensorDict module; or a list of them. See ``SoftLoss``.
        action_space: ``"categorical"`` or ``"one-hot"``, or a spec or a space of such actions,
            which also says how many there are. The shape of the recorded actions tells the one from
            the other, whatever it says.
        num_actions: how many actions there are, for the target entropy; None: ``action_space`` says
            it.
        target_entropy_weight: the target as a share of the largest entropy.
        target_entropy: in nats; ``"auto"``: ``target_entropy_weight * log(num_actions)``.
        **options: see ``SoftLoss``.

    Raises:
        KeyError: the critic has no output of the key of ``action_value``.
        TypeError: a network is missing or of no known kind, or the policy is not categorical.
        ValueError: an argument is out of its range, or ``num_actions`` is missing.

    Reference: Christodoulou 2019, arXiv:1910.07207, algorithm 1.
    """

    fields: tuple[Field, ...] = (
        Field("action", "action", "input", "[*B], [*B, 1] or one-hot [*B, A]", "the recorded one"),
        *TRANSITION,
        Field("action_value", "action_value", "computed", "", "the critics'"),
        Field("value", "state_value", "computed", "", "of the critics and the policy; not needed"),
        Field("log_prob", "log_prob", "computed", "", "of the policy; not needed"),
        *OUTPUTS,
    )
    critics_output: ClassVar[str] = "action_value"

    def __init__(
        self,
        actor_network: nn.Module,
        qvalue_network: nn.Module | Sequence[nn.Module],
        *,
        action_space: Any = None,
        num_actions: Optional[int] = None,
        target_entropy_weight: float = 0.98,
        target_entropy: float | str = "auto",
        **options: Unpack[SoftOptions],
    ) -> None:
        owner = type(self).__name__
        check_options(owner, options, SoftOptions)
        actor = PlainPolicy(check_actor(owner, actor_network))
        _check_categorical(owner, actor, action_space)
        if num_actions is not None:
            check_count(owner, "num_actions", num_actions)
        check_range(owner, "target_entropy_weight", target_entropy_weight, "finite")
        share = target_entropy_weight
        if isinstance(target_entropy, str) and target_entropy == "auto":
            count = number_of_actions(action_space) if num_actions is None else num_actions
            target_entropy = automatic(owner, "num_actions", count, lambda n: share * math.log(n))
        elsewhere = (actor.network,)
        super().__init__(actor, elsewhere, qvalue_network, target_entropy=target_entropy, **options)
        self.make_value_estimator()

    def networks(self) -> tuple[PlainForm | EnsembleForm, ...]:
        """The policy, the critics, and those that value states entered."""
        actor = PlainPolicy(self.actor_network)
        critics, targets = [
            self.plain_critic(network, self.critics_output)
            for network in self.with_target("qvalue_network")
        ]
        self.hold(_actor=actor, _critics=critics, _target_critics=targets)
        self.hold_entered(actor, critics)
        return actor, critics, targets

    def actor_terms(self, data: Data) -> tuple[Tensor, Tensor]:
        """The policy's loss, and minus its entropy, ``[*B]``."""
        value, logits = self._soft_value(data, self._critics)
        return -value, -categorical_entropy(logits)

    def recorded_value(self, data: Data, batch: Size) -> Tensor:
        """What each critic says of the recorded action, ``[N, *B]``."""
        action = self.require(data, "action")
        self.check_recorded("action", action)
        value = self.output(
            self._critics.without_shared(data), self.critics_output, self.qvalue_network
        )
        if action.shape == (*batch, 1):
            action = action.squeeze(-1)
        return chosen_action_value(value, action.expand(value.shape[0], *action.shape))

    @torch.no_grad()
    def next_value(self, data: Data, batch: Size) -> Tensor:
        """The soft value of the states entered, ``[*B]``."""
        self.transition(data, batch)
        return self._soft_value(self.entered(data), self._target_critics)[0]

    def _soft_value(self, state: Data, critics: EnsembleForm) -> tuple[Tensor, Tensor]:
        """The soft value of a state, ``[*B]``, and the policy's logits there, ``[*B, A]``."""
        (head,) = self._actor.heads
        computed = widened(self._actor(state), head.param_keys, self.actor_network)
        family, params = head.family, head.params(computed)
        assert isinstance(family, Categorical)
        logits = family.logits(params)
        value = self.output(critics.detached(state), self.critics_output, self.qvalue_network)
        return categorical_soft_value(value, logits, self.temperature()), logits


def _check_categorical(owner: str, actor: PlainPolicy, action_space: Any) -> None:
    """The policy, and what is said of it."""
    families = [head.family for head in actor.heads]
    if len(families) != 1 or not isinstance(families[0], Categorical):
        raise TypeError(
            f"{owner}: `actor_network` must have one categorical distribution, got "
            f"{[type(family).__name__ for family in families]}"
        )
    if action_space is not None and not isinstance(action_family(action_space), Categorical):
        raise ValueError(
            f"{owner}: `action_space` must be 'categorical' or 'one-hot', got {action_space!r}"
        )
