"""What the losses of the values of all actions share: their space, the best one, the fit."""

from typing import Any

from torch import Size, Tensor, nn

from compiled_rl.adapters import Data, Field, PlainForm
from compiled_rl.adapters.action_values import action_space_of
from compiled_rl.functional import categorical_mode, distance_loss, reduce
from compiled_rl.losses.off_policy import TD_ERROR, OffPolicyLoss, squared_error
from compiled_rl.modules import (
    Categorical,
    Family,
    MultiOneHotCategorical,
    OneHotCategorical,
    QPolicy,
    action_family,
)
from compiled_rl.modules.q_policy import names_blocks

LOSS = Field("loss", "loss", "output", "[]", "the network's loss")
FITTED = (
    Field("advantage", "advantage", "computed", "", "of an estimator; not computed"),
    Field("value_target", "value_target", "computed", "", "of an estimator; not written"),
    LOSS,
    Field("pred_value", "pred_value", "metric", "[*B]", "the network's value"),
    Field("target_value", "target_value", "metric", "[*B]", "what it should be"),
    TD_ERROR,
)


class ActionValueLoss(OffPolicyLoss):
    """A loss of a network that gives the values of all actions, ``[*B, N]``.

    A subclass takes its network with ``take_network`` in its constructor.
    """

    family: Family

    def take_network(self, network: nn.Module, action_space: Any) -> nn.Module:
        """The network that learns, of what was given; it may say of which kind the actions are.

        Raises:
            ValueError: nobody says it, or they are of no known kind.
        """
        space = _space_of(network, action_space)
        if space is None:
            raise ValueError(
                f"{self.name}: `action_space` must be given, as 'categorical', 'one_hot', 'binary' "
                f"or a spec, for a {type(network).__name__}, which does not say it"
            )
        self.family = action_family(space)
        return self.network_of(network)

    def network_of(self, network: nn.Module) -> nn.Module:
        """The network itself, of a policy that has one."""
        return network.network if isinstance(network, QPolicy) else network

    def values(self, form: PlainForm, data: Data) -> Tensor:
        """What a network says of all actions."""
        return self.output(form(data), "action_value", self)

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

    def fitted(self, data: Data, value: Tensor, next_value: Tensor) -> dict[str, Tensor]:
        """The loss and metrics by name, of the values ``[*B]`` of recorded actions and of the best
        ones at the states entered.
        """
        batch = value.shape
        mask, weight = self.mask(data, batch), self.weight(data, batch)
        self.transition(data, batch)
        target = self.td_target(data, batch, next_value, mask)
        loss = distance_loss(value, target, self.loss_function)
        return {
            "loss": reduce(loss, mask, self.reduction, weight),
            "pred_value": value.detach(),
            "target_value": target.detach(),
            "td_error": squared_error(value, target, mask),
        }


def _space_of(network: nn.Module, given: Any) -> Any:
    """What was given wins, but a name does not say how long blocks are, and the network may."""
    said = action_space_of(network)
    named = names_blocks(given) and isinstance(said, MultiOneHotCategorical)
    return said if given is None or named else given
