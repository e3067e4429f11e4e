"""What the losses of one network of action values share."""

from typing import Any, ClassVar, Optional, Unpack

from torch import nn

from compiled_rl.adapters import Field, PlainForm
from compiled_rl.losses.action_values import ActionValueLoss
from compiled_rl.losses.off_policy import TRANSITION, OffPolicyOptions

INPUTS = (
    Field("action", "action", "input", "[*B], [*B, 1] or [*B, N]", "the recorded action"),
    *TRANSITION,
    Field("action_value", "action_value", "computed", "", "the network's output"),
)


class QNetworkLoss(ActionValueLoss):
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
        self.value_network = self.take_network(network, action_space)
        self.delay_value = delay_value
        self.delay("value_network", delay_value)

    def networks(self) -> tuple[PlainForm, ...]:
        """The network, and that with which states entered are valued."""
        network, target = [
            self.plain_critic(x, "action_value") for x in self.with_target("value_network")
        ]
        self.hold(_network=network, _target=target)
        self.hold_entered(target)
        return network, target
