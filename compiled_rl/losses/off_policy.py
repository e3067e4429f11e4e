"""What the losses of action values share: transitions, temporal differences, priorities."""

from typing import Any, ClassVar, Literal, Optional, TypedDict

from torch import Size, Tensor, nn

from compiled_rl.adapters import (
    Data,
    EnsembleForm,
    Field,
    Key,
    PlainForm,
    deterministic_actor,
    unique,
)
from compiled_rl.adapters.plain import at_next
from compiled_rl.estimators import (
    TD0Estimator,
    TD1Estimator,
    TDLambdaEstimator,
    ValueEstimatorBase,
    ValueEstimators,
)
from compiled_rl.functional.scalars import where_valid
from compiled_rl.kernels.checks import check_shape
from compiled_rl.losses.arguments import check_distance
from compiled_rl.losses.declared import DeclaredLoss
from compiled_rl.losses.dtypes import widened
from compiled_rl.modules import frozen_copy

TRANSITION = (
    Field("reward", ("next", "reward"), "input", "[*B] or [*B, 1]", "of the step"),
    Field("done", ("next", "done"), "input", "bool [*B] or [*B, 1]", "the episode ended"),
    Field("terminated", ("next", "terminated"), "input", "bool, as done", "the task ended"),
    Field("priority_weight", "priority_weight", "input", "[*B] or [*B, 1]", "of a sample"),
    Field("priority", "td_error", "written", "[*B]", "where replay finds its priorities"),
)
ACTION = Field("action", "action", "input", "[*B, A]", "the recorded action")
ACTION_VALUE = Field("state_action_value", "state_action_value", "computed", "", "the critic's")
TD_ERROR = Field("td_error", "td_error", "metric", "[*B]", "the error that priorities are made of")


class OffPolicyOptions(TypedDict, total=False):
    """The keyword arguments of every loss of action values; see ``OffPolicyLoss``."""

    loss_function: Literal["l1", "l2", "smooth_l1"]
    reduction: Optional[Literal["none", "mean", "sum"]]
    loss_mask_key: Optional[Key]
    use_prioritized_weights: bool | Literal["auto"]
    priority_key: Optional[Key]


class OffPolicyLoss(DeclaredLoss):
    """A loss that fits action values to bootstrapped targets, on transitions of any policy.

        y          = the value estimator's target: reward + gamma * next_value, for TD0
        loss_value = distance(Q(observation, action), y)

    The target has no gradient but through rewards. A subclass values the states entered by itself,
    with frozen copies of its networks, and asks ``td_target`` for the target. A batch may have any
    shape ``[*B]``; TD1 and TD(lambda) take its last axis for time, of a TensorDict its own last
    one or the one that it names ``"time"``. Rewards, flags, weights and
    values are all ``[*B]`` or all ``[*B, 1]``. Rewards that sum up ``n`` steps come with
    ``steps_to_next_obs``, and are discounted by ``gamma ** n``.

    Args:
        loss_function: the distance, ``"l1"``, ``"l2"`` or ``"smooth_l1"``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; None: ``"mean"``.
        loss_mask_key: ``"auto"``, None, or the key of a mask of valid steps.
        use_prioritized_weights: whether losses are weighted by ``priority_weight``: True, it must
            be given; False, never; ``"auto"``, where it is given.
        priority_key: as ``set_keys(priority=...)``.

    Raises:
        ValueError: an argument is out of its range.
    """

    default_value_estimator: ClassVar[ValueEstimators] = ValueEstimators.TD0
    SUPPORTED_VALUE_ESTIMATORS: ClassVar[tuple[ValueEstimators, ...]] = (
        ValueEstimators.TD0,
        ValueEstimators.TD1,
        ValueEstimators.TDLambda,
    )
    _entered: tuple[tuple[Key, ...], frozenset[Key]]

    def __init__(
        self,
        *,
        loss_function: Literal["l1", "l2", "smooth_l1"] = "l2",
        reduction: Optional[Literal["none", "mean", "sum"]] = None,
        loss_mask_key: Optional[Key] = "auto",
        use_prioritized_weights: bool | Literal["auto"] = "auto",
        priority_key: Optional[Key] = None,
    ) -> None:
        super().__init__(reduction, loss_mask_key)
        self.loss_function = check_distance(self.name, loss_function, "loss_function")
        if use_prioritized_weights not in (True, False, "auto"):
            raise ValueError(
                f"{self.name}: `use_prioritized_weights` must be True, False or 'auto', "
                f"got {use_prioritized_weights!r}"
            )
        self.use_prioritized_weights = use_prioritized_weights
        if priority_key is not None:
            checked = self.checked_key("priority", priority_key)
            self.tensor_keys = self.tensor_keys | {"priority": checked}

    def hold(self, **forms: Any) -> None:
        """Keep plain forms outside the module tree: their modules are those of children already."""
        for name, form in forms.items():
            object.__setattr__(self, name, form)

    def check_network(self, argument: str, network: Any) -> nn.Module:
        """A network, or a sentence that says what is none."""
        if not isinstance(network, nn.Module):
            got = "None" if network is None else type(network).__name__
            raise TypeError(f"{self.name}: `{argument}` must be an nn.Module, got {got}")
        return network

    def delay(self, name: str, delayed: bool) -> None:
        """Register ``target_<name>``, a frozen copy of a network, if states are valued with one."""
        if delayed:
            self.add_module(f"target_{name}", frozen_copy(getattr(self, name)))

    def with_target(self, name: str) -> tuple[nn.Module, nn.Module]:
        """A network, and that which stands for it at the states entered: its copy, if any."""
        network = getattr(self, name)
        return network, getattr(self, f"target_{name}", network)

    def plain_actor(self, network: nn.Module) -> PlainForm:
        """The plain form of an actor that acts deterministically."""
        return deterministic_actor(network, self.tensor_keys["action"])

    def action_critic(self, network: nn.Module) -> Any:
        """The plain form of a critic of actions."""
        reads = ("observation", self.tensor_keys["action"])
        return self.plain_critic(network, "state_action_value", reads)

    def take_action_key(self, actor: PlainForm, critic: PlainForm | EnsembleForm) -> None:
        """The action's key is that which the actor gives and the critic reads, if none was set.

        Raises:
            KeyError: there is no such key.
        """
        keys = [key for key in critic.in_keys if key in actor.out_keys]
        unset = self.tensor_keys["action"] == self.default_keys["action"]
        if unset and self.tensor_keys["action"] not in keys:
            # The critic may read the actor's features, too: what the actor ends in is its action.
            found = keys[0] if len(keys) == 1 else actor.out_keys[-1]
            self.take_defaults(action=found)
        if self.tensor_keys["action"] not in keys:
            raise KeyError(
                f"{self.name}: the critic must read the actor's action, "
                f"{self.tensor_keys['action']!r}; it reads {list(critic.in_keys)}, "
                f"and the actor gives {list(actor.out_keys)}"
            )

    def take_estimator(self, estimator: ValueEstimatorBase) -> None:
        """Refuse an estimator that needs the values of the states left."""
        if not isinstance(estimator, TD0Estimator | TD1Estimator | TDLambdaEstimator):
            raise NotImplementedError(
                f"{self.name}: the value estimator must be TD0, TD1 or TDLambda, "
                f"got {type(estimator).__name__}"
            )

    def keys_for(self, estimator: ValueEstimatorBase) -> tuple[Key, ...]:
        """The number of steps that a reward sums up."""
        return (estimator.tensor_keys["steps_to_next_obs"],)

    def hold_entered(self, *forms: PlainForm | EnsembleForm) -> None:
        """Keep what networks in a row read of the states entered."""
        needed: list[Key] = []
        computed: set[Key] = set()
        for form in forms:
            needed += [key for key in form.in_keys if key not in computed]
            computed |= set(form.out_keys)
        optional = frozenset(key for form in forms for key in form.optional)
        self.hold(_entered=(unique(needed), optional))

    def entered(self, data: Data) -> Data:
        """The inputs at the states entered, under the names of the root; see ``hold_entered``."""
        return at_next(data, *self._entered)

    def batch(self, data: Data) -> Size:
        """The shape ``[*B]``: that of the recorded action without its own axis."""
        action = self.require(data, "action")
        self.check_recorded("action", action)
        return action.shape[:-1]

    def output(self, computed: Data, name: str, network: nn.Module) -> Tensor:
        """What a network computed under the key of the field ``name``, as precise as it is."""
        key = self.tensor_keys[name]
        return widened(computed, [key], network)[key]

    def stacked(self, computed: Data, data: Data, batch: Size, critics: nn.Module) -> Tensor:
        """What several critics computed, as ``[N, *B]``."""
        value = self.output(computed, "state_action_value", critics)
        self.like_reward(data, batch, value[0])
        return value.reshape(value.shape[0], *batch)

    def td_target(
        self, data: Data, batch: Size, next_value: Tensor, mask: Optional[Tensor]
    ) -> Tensor:
        """The target ``[*B]`` of the value estimator, from the values of the states entered."""
        if next_value.shape != batch:
            raise ValueError(
                f"{self.name}: the states entered must be as many as those left, {list(batch)}, "
                f"got values of {list(next_value.shape)}"
            )
        return self.value_estimator.target_within(data, len(batch), next_value, mask)

    def transition(self, data: Data, batch: Size) -> dict[str, Tensor]:
        """The reward and the flags as ``[*B]``."""
        names = ("reward", "terminated", "done")
        return self.per_step(batch, **{name: self.require(data, name) for name in names})

    def like_reward(self, data: Data, batch: Size, value: Tensor) -> Tensor:
        """A network's value as ``[*B]``; its shape must be the reward's."""
        check_shape(self.name, "value", value, "reward", self.require(data, "reward"))
        return self.per_step(batch, value=value)["value"]

    def weight(self, data: Data, batch: Size) -> Optional[Tensor]:
        """The weight of each sample, ``[*B]``, if there is one."""
        wanted = self.use_prioritized_weights
        if wanted == "auto":
            wanted = self.tensor_keys["priority_weight"] in data
        if not wanted:
            return None
        weight = self.require(data, "priority_weight", "for `use_prioritized_weights`")
        return self.per_step(batch, priority_weight=weight)["priority_weight"]


def squared_error(value: Tensor, target: Tensor, mask: Optional[Tensor]) -> Tensor:
    """What replay takes for the priority of a sample; zero where it is not valid."""
    return where_valid(mask, (value - target).detach().square())
