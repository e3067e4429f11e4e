"""What the losses of a network of action values share: the action, its space, the best one next."""

from typing import Any, ClassVar, Optional, Unpack

from torch import Size, Tensor, nn

from compiled_rl.adapters import Data, Field, PlainForm
from compiled_rl.adapters.action_values import action_space_of
from compiled_rl.functional import categorical_mode
from compiled_rl.losses.off_policy import TRANSITION, OffPolicyLoss, OffPolicyOptions
from compiled_rl.modules import (
    Categorical,
    MultiOneHotCategorical,
    OneHotCategorical,
    QPolicy,
    action_family,
)
from compiled_rl.modules.q_policy import names_blocks

INPUTS = (
    Field("action", "action", "input", "[*B], [*B, 1] or [*B, N]", "the recorded action"),
    *TRANSITION,
    Field("action_value", "action_value", "computed", "", "the network's output"),
)
LOSS = Field("loss", "loss", "output", "[]", "the network's loss")


class QNetworkLoss(OffPolicyLoss):
    """A loss of one network that gives the values of all actions.

    Args:
        value_network: a plain module from ``observation``, or from what ``Reads`` says; a
            ``QPolicy``, of which the network is taken; or a TensorDict module, such as TorchRL's
            ``QValueActor``.
        action_space: of which kind the actions are, as ``modules.action_family`` takes it; None:
            what ``value_network`` says, if it is a ``QPolicy`` or has TorchRL's choice among values
            at its end.
        delay_value: whether states entered are valued by a frozen copy of the network,
            ``target_value_network``, which a target-network updater moves.
        **options: see ``OffPolicyLoss``.

    Raises:
        KeyError: the network has no output of the key of ``action_value``.
        TypeError: the network is missing or of no known kind.
        ValueError: an argument is out of its range, or nobody says what the actions are.
    """

    fixed: ClassVar[tuple[str, ...]] = ("reduction", "value_network", "delay_value")
    _network: PlainForm
    _target: PlainForm

    def __init__(
        self,
        value_network: Optional[nn.Module] = None,
        *,
        action_space: Any = None,
        delay_value: bool = True,
        **options: Unpack[OffPolicyOptions],
    ) -> None:
        super().__init__(**options)
        network = self.check_network("value_network", value_network)
        space = _space_of(network, action_space)
        if space is None:
            raise ValueError(
                f"{self.name}: `action_space` must be given, as 'categorical', 'one_hot', 'binary' "
                f"or a spec, for a {type(network).__name__}, which does not say it"
            )
        self.family = action_family(space)
        self.value_network = self.network_of(network)
        self.delay_value = delay_value
        self.delay("value_network", delay_value)

    def network_of(self, network: nn.Module) -> nn.Module:
        """The network that learns, of what was given."""
        return network.network if isinstance(network, QPolicy) else network

    def networks(self) -> tuple[PlainForm, ...]:
        """The network, and that with which states entered are valued."""
        network, target = [
            self.plain_critic(x, "action_value") for x in self.with_target("value_network")
        ]
        self.hold(_network=network, _target=target)
        self.hold_entered(target)
        return network, target

    def values(self, form: PlainForm, data: Data) -> Tensor:
        """What a network says of all actions."""
        return self.output(form(data), "action_value", self.value_network)

    def best_action(self, action_value: Tensor) -> Tensor:
        """The action of most value; an index does for a one-hot one, and is found sooner."""
        if isinstance(self.family, Categorical):
            return categorical_mode(action_value)
        action: Tensor = self.family.mode((action_value,))
        return action

    def recorded_action(self, data: Data, batch: Size, count: int) -> Tensor:
        """The action, an index ``[*B]`` or zeros and ones ``[*B, N]``, of ``count`` actions.

        An index may come with a trailing one.
        """
        action = self.require(data, "action")
        self.check_recorded("action", action)
        index = isinstance(self.family, Categorical) and not isinstance(
            self.family, OneHotCategorical
        )
        if index and action.shape == (*batch, 1):
            action = action.squeeze(-1)
        # Not `in`: TorchDynamo decides it wrongly for sizes that it keeps symbolic.
        if action.shape != batch and action.shape != (*batch, count):
            raise ValueError(
                f"{self.name}: `action` must be of shape {list(batch)} of indices or "
                f"{[*batch, count]} of zeros and ones, got {list(action.shape)}"
            )
        return action


def _space_of(network: nn.Module, given: Any) -> Any:
    """What was given wins, but a name does not say how long blocks are, and the network may."""
    said = action_space_of(network)
    named = names_blocks(given) and isinstance(said, MultiOneHotCategorical)
    return said if given is None or named else given
