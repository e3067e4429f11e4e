"""Deep Q-learning."""

from typing import Any, ClassVar, Optional, Unpack

import torch
from torch import Tensor, nn

from compiled_rl.adapters import Data, Field
from compiled_rl.functional import chosen_action_value
from compiled_rl.losses.action_values import FITTED
from compiled_rl.losses.arguments import check_options
from compiled_rl.losses.off_policy import OffPolicyOptions
from compiled_rl.losses.q_network import INPUTS, QNetworkLoss
from compiled_rl.modules.arguments import check_flags


class DQNLoss(QNetworkLoss):
    """Deep Q-learning, with a target network and, if wanted, double.

        y           = reward + gamma * (0 if terminated else Q'(next_observation, next_action))
        next_action = argmax of Q'(next_observation), or of Q(next_observation) for double DQN
        loss        = distance(Q(observation, action), y)

    Q' is the frozen copy, where there is one. An action of several one-hot blocks, or of bits, is
    worth the sum of what they are.

    Args:
        value_network: gives the values of all actions, ``[*B, N]``; see ``QNetworkLoss``.
        action_space: of which kind the actions are; see ``QNetworkLoss``.
        delay_value: whether states entered are valued by a frozen copy of the network.
        double_dqn: whether the network itself, not the copy, chooses the action that is valued.
        **options: see ``OffPolicyLoss``.

    Raises:
        KeyError: the network has no output of the key of ``action_value``.
        TypeError: the network is missing or of no known kind.
        ValueError: an argument is out of its range, nobody says what the actions are, or
            ``double_dqn`` has no copy to value with.

    Reference: Mnih et al. 2015, Nature 518:529, algorithm 1; van Hasselt et al. 2015,
    arXiv:1509.06461, eq. 4, for double DQN.
    """

    fields: tuple[Field, ...] = (
        *INPUTS,
        Field("value", "chosen_action_value", "computed", "", "of the network; not needed"),
        *FITTED,
    )
    fixed: ClassVar[tuple[str, ...]] = (*QNetworkLoss.fixed, "double_dqn")

    def __init__(
        self,
        value_network: Optional[nn.Module] = None,
        *,
        action_space: Any = None,
        delay_value: bool = True,
        double_dqn: bool = False,
        **options: Unpack[OffPolicyOptions],
    ) -> None:
        check_options(type(self).__name__, options, OffPolicyOptions)
        check_flags(type(self).__name__, delay_value=delay_value, double_dqn=double_dqn)
        super().__init__(
            value_network, action_space=action_space, delay_value=delay_value, **options
        )
        if double_dqn and not delay_value:
            raise ValueError(f"{self.name}: `double_dqn` needs `delay_value`, got False")
        self.double_dqn = double_dqn
        self.make_value_estimator()

    def evaluate(self, data: Data) -> dict[str, Tensor]:
        """The loss and metrics by name; see the class."""
        data = self.select_valid(data)
        action_value = self.values(self._network, data)
        action = self.recorded_action(data, action_value.shape[:-1], action_value.shape[-1])
        return self.fitted(data, chosen_action_value(action_value, action), self._next_value(data))

    @torch.no_grad()
    def _next_value(self, data: Data) -> Tensor:
        """Q' of the best action at the state entered."""
        entered = self.entered(data)
        value = self.values(self._target, entered)
        judged = self.values(self._network, entered) if self.double_dqn else value
        return chosen_action_value(value, self.best_action(judged))
