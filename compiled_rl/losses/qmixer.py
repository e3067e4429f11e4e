"""Deep Q-learning of a team: the agents' values, mixed into one."""

from typing import Any, ClassVar, Optional, Unpack

import torch
from torch import Tensor, nn

from compiled_rl.adapters import Data, Field, Key, PlainForm
from compiled_rl.adapters.action_values import forbid_value
from compiled_rl.adapters.plain import RefusedForm
from compiled_rl.functional import chosen_action_value
from compiled_rl.kernels.checks import check_flag, check_shape
from compiled_rl.losses.action_values import FITTED, ActionValueLoss
from compiled_rl.losses.arguments import check_options
from compiled_rl.losses.off_policy import TRANSITION, OffPolicyOptions
from compiled_rl.modules.arguments import check_flags

_OBSERVATION: Key = ("agents", "observation")


class QMixerLoss(ActionValueLoss):
    """QMIX, VDN and their like: deep Q-learning of a team that is rewarded as one.

        Q_team      = mixer(Q of each agent at its observation and action, state)
        next_action = of each agent the argmax of its Q' (double_q: of its Q) at next_observation
        y           = reward + gamma * (0 if terminated else Q_team'(next_state, next_action))
        loss        = distance(Q_team(state, action), y)

    Q' and the mixer of Q_team' are the frozen copies, where there are some. Agents are the axis
    before the last, ``[*B, n, ...]``; rewards and flags are the team's, ``[*B]`` or ``[*B, 1]``.

    Args:
        local_value_network: gives the values of all actions of each agent, ``[*B, n, N]``: a plain
            module from ``("agents", "observation")``, or from what ``Reads`` says; a ``QPolicy``,
            of which the network is taken; or a TensorDict module, such as TorchRL's
            ``QValueActor``.
        mixer_network: gives the team's value, ``[*B, 1]`` or ``[*B]``: a plain module from the
            values of the actions that were taken, ``[*B, n, 1]``, and ``state``, if its
            ``needs_state`` is true, or from what ``Reads`` says, such as ``modules.QMixer`` and
            ``modules.VDNMixer``; or a TensorDict module, which may read what the agents' network
            computes, too.
        delay_value: whether states entered are valued by frozen copies of both networks.
        action_space: of which kind an agent's actions are; see ``QNetworkLoss``.
        double_q: whether the network itself, not the copy, chooses the actions that are valued.
        **options: see ``OffPolicyLoss``.

    Raises:
        KeyError: a network has no output of the key of ``action_value`` or ``global_value``, or
            the mixer does not read that of ``local_value``.
        TypeError: a network is missing or of no known kind.
        ValueError: an argument is out of its range, nobody says what the actions are, or
            ``double_q`` has no copy to value with.

    Reference: Rashid et al. 2018, arXiv:1803.11485, eq. 4 to 6; Sunehag et al. 2017,
    arXiv:1706.05296, for the sum; van Hasselt et al. 2015, arXiv:1509.06461, eq. 4, for
    ``double_q``.
    """

    fields: tuple[Field, ...] = (
        Field(
            "action",
            ("agents", "action"),
            "input",
            "[*B, n], [*B, n, 1] or [*B, n, N]",
            "the recorded actions",
        ),
        *TRANSITION,
        Field(
            "action_mask",
            ("next", "agents", "action_mask"),
            "input",
            "bool [*B, n, N]",
            "the actions that are allowed next; None: all",
        ),
        Field("action_value", ("agents", "action_value"), "computed", "", "of the agents' network"),
        Field(
            "local_value", ("agents", "chosen_action_value"), "computed", "", "what the mixer reads"
        ),
        Field("global_value", "chosen_action_value", "computed", "", "the mixer's output"),
        *FITTED,
    )
    fixed: ClassVar[tuple[str, ...]] = (
        "reduction",
        "local_value_network",
        "mixer_network",
        "delay_value",
        "double_q",
    )
    _local: PlainForm
    _target_local: PlainForm
    _mixer: PlainForm
    _target_mixer: PlainForm

    def __init__(
        self,
        local_value_network: Optional[nn.Module] = None,
        mixer_network: Optional[nn.Module] = None,
        *,
        delay_value: bool = True,
        action_space: Any = None,
        double_q: bool = False,
        **options: Unpack[OffPolicyOptions],
    ) -> None:
        check_options(type(self).__name__, options, OffPolicyOptions)
        super().__init__(**options)
        check_flags(self.name, delay_value=delay_value, double_q=double_q)
        local = self.check_network("local_value_network", local_value_network)
        self.local_value_network = self.take_network(local, action_space)
        self.mixer_network = self.check_network("mixer_network", mixer_network)
        if double_q and not delay_value:
            raise ValueError(f"{self.name}: `double_q` needs `delay_value`, got False")
        self.delay_value, self.double_q = delay_value, double_q
        self.delay("local_value_network", delay_value)
        self.delay("mixer_network", delay_value)
        self.make_value_estimator()

    def networks(self) -> tuple[PlainForm, ...]:
        """The networks, and those with which states entered are valued."""
        local, target_local = [
            self.plain_critic(x, "action_value", (_OBSERVATION,))
            for x in self.with_target("local_value_network")
        ]
        mixers = zip(self.with_target("mixer_network"), (local, target_local), strict=True)
        mixer, target_mixer = [self._plain_mixer(x, agents) for x, agents in mixers]
        self.hold(_local=local, _target_local=target_local)
        self.hold(_mixer=mixer, _target_mixer=target_mixer)
        self.hold_entered(target_local, target_mixer)
        return local, target_local, mixer, target_mixer

    def _plain_mixer(self, network: nn.Module, local: PlainForm) -> PlainForm:
        """The plain form of a mixer; the agents' values, and what else their network computes of
        what it reads, are put into the data.
        """
        local_value = self.tensor_keys["local_value"]
        reads = (local_value, "state") if getattr(network, "needs_state", False) else (local_value,)
        mixer: PlainForm = self.plain_critic(network, "global_value", reads)
        if local_value in mixer.in_keys:
            mixer.supplied(local_value)
            local.keep((self.tensor_keys["action_value"], *mixer.in_keys))
            return mixer.supplied(*local.out_keys)
        why = (
            f"{self.name}: the mixer must read the agents' values, {local_value!r}, the key of "
            f"`local_value`; it reads {list(mixer.in_keys)}"
        )
        if local_value == self.default_keys["local_value"]:  # it has yet to be set
            return RefusedForm(network, why)
        raise KeyError(why)

    def evaluate(self, data: Data) -> dict[str, Tensor]:
        """The loss and metrics by name; see the class."""
        data = self.select_valid(data)
        found = self._local(data)
        action_value = self.output(found, "action_value", self)
        action = self.recorded_action(data, action_value.shape[:-1], action_value.shape[-1])
        chosen = chosen_action_value(action_value, action)
        value = self._mixed(self._mixer, found, chosen)
        return self.fitted(data, value, self._next_value(data, action_value))

    @torch.no_grad()
    def _next_value(self, data: Data, action_value: Tensor) -> Tensor:
        """The team's value of the agents' best actions at the state entered, ``[*B]``."""
        entered = self.entered(data)
        found = self._target_local(entered)
        value = self.output(found, "action_value", self)
        check_shape(self.name, "next action_value", value, "action_value", action_value)
        judged = self.values(self._local, entered) if self.double_q else value
        best = self.best_action(self._allowed(data, judged))
        return self._mixed(self._target_mixer, found, chosen_action_value(value, best))

    def _allowed(self, data: Data, action_value: Tensor) -> Tensor:
        """The values, with the least number there is for actions that are forbidden next."""
        mask = data.get(self.tensor_keys["action_mask"])
        if mask is None:
            return action_value
        check_flag(self.name, "action_mask", mask, "action_value", action_value)
        return forbid_value(action_value, mask)

    def _mixed(self, form: PlainForm, data: Data, chosen: Tensor) -> Tensor:
        """The team's value ``[*B]``, of the agents' ``[*B, n]`` and what their network computed."""
        inputs = data | {self.tensor_keys["local_value"]: chosen.unsqueeze(-1)}
        value = self.output(form(inputs), "global_value", self)
        return self.per_step(chosen.shape[:-1], global_value=value)["global_value"]
