"""``torch.optim`` objects as pure functions; the objects keep their state and their state dict."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compiled_rl.training.numbers import Number, writable
from compiled_rl.training.rules import RULES, Lists, Options

Tensors = dict[str, Tensor]


class GroupState(NamedTuple):
    """What an optimiser remembers of a parameter group; each slot has a tensor a parameter."""

    learning_rate: Tensor
    slots: Lists


OptimiserState = list[GroupState]


class Group:
    """A parameter group: the names of its parameters, its options, and where its state is.

    Args:
        optimizer: whose group it is.
        index: of the group.
        names: of the parameters, by identity of the tensor.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, index: int, names: Mapping[Any, str]
    ) -> None:
        self._optimizer, self._index = optimizer, index
        group = optimizer.param_groups[index]
        self.names, self.options = _names_of(group, names), _options_of(group)
        self._params: list[Tensor] = list(group["params"])
        self.slots = RULES[type(optimizer)].slots(group)
        self._owned: list[dict[str, Tensor]] = []
        self._rate = Number(_rate_of(self._params))

    def state(self) -> GroupState:
        """The optimiser's own tensors, made now if it has taken no step yet."""
        group = self._optimizer.param_groups[self._index]
        self._check_unchanged(group)
        state = self._optimizer.state
        if not all(state.get(p) is own for p, own in zip(self._params, self._owned, strict=False)):
            self._owned = []  # a state dict was loaded, or something was reset
        if not self._owned:
            self._owned = [self._made(p) for p in self._params]
        slots = {name: [own[name] for own in self._owned] for name in self.slots}
        return GroupState(self._rate.holding(group["lr"]), slots)

    def _made(self, parameter: Tensor) -> dict[str, Tensor]:
        own: dict[str, Tensor] = self._optimizer.state[parameter]
        for name in self.slots:
            if name == "step":  # where the parameter is: a graph of one device has no other tensors
                own[name] = own.get(name, torch.tensor(0.0)).to(parameter.device)
            elif name not in own:
                own[name] = torch.zeros_like(parameter)
        return own

    def take_rate(self) -> None:
        """Write the learning rate, which a rule has moved, to where the user looks for it."""
        group = self._optimizer.param_groups[self._index]
        if isinstance(group["lr"], Tensor):
            group["lr"].copy_(self._rate.tensor)
        else:
            group["lr"] = self._rate.moved()

    def _check_unchanged(self, group: Mapping[str, Any]) -> None:
        if len(group["params"]) != len(self.names):
            raise ValueError(
                f"`optimizer` must keep the {len(self.names)} parameters of a group, "
                f"got {len(group['params'])}"
            )
        for name, value in self.options.items():
            if group[name] != value:
                raise ValueError(
                    f"`optimizer` must keep its {name} of {value}, got {group[name]}; only the "
                    "learning rate may change, make another UpdateStep for anything else"
                )


class Optimiser:
    """The pure form of a ``torch.optim`` object.

        params, state = move_(params, grads, state)

    The arithmetic is torch's own functional optimiser.

    Args:
        optimizer: a ``torch.optim.Adam``, ``AdamW``, ``RMSprop`` or ``SGD``.
        names: of the parameters, by identity of the tensor.

    Raises:
        TypeError: the optimiser is of another class.
        ValueError: it holds a parameter without a name, or asks for what has no pure form.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, names: Mapping[Any, str]) -> None:
        if type(optimizer) not in RULES:
            known = [cls.__name__ for cls in RULES]
            raise TypeError(
                f"UpdateStep: `optimizer` must be in {known} of torch.optim, "
                f"got {type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        self.groups = [Group(optimizer, k, names) for k in range(len(optimizer.param_groups))]
        self._rule = RULES[type(optimizer)].step
        members = [p for group in optimizer.param_groups for p in group["params"]]
        self.members = {names[p]: p for p in members}

    @property
    def names(self) -> list[str]:
        """Of all its parameters."""
        return list(self.members)

    @property
    def params(self) -> Tensors:
        """The parameters that may move: those that are not frozen now."""
        return {name: p for name, p in self.members.items() if p.requires_grad}

    def state(self) -> OptimiserState:
        """The optimiser's own tensors, made now if it has taken no step yet.

        Raises:
            ValueError: a parameter or an option other than the learning rate is no longer what it
                was: each new value would compile a new graph.
        """
        count = len(self.optimizer.param_groups)
        if count != len(self.groups):
            raise ValueError(
                f"`optimizer` must keep its {len(self.groups)} parameter groups, got {count}"
            )
        return [group.state() for group in self.groups]

    def move_(self, params: Tensors, grads: Tensors, state: OptimiserState) -> None:
        """Move parameters and state in place; a parameter without a gradient stays as it is."""
        for group, held in zip(self.groups, state, strict=True):
            moved = [k for k, name in enumerate(group.names) if name in grads]
            if moved:
                values = [writable(params[group.names[k]]) for k in moved]
                given = [writable(grads[group.names[k]]) for k in moved]
                slots = {
                    slot: [xs[k] if slot == "step" else writable(xs[k]) for k in moved]
                    for slot, xs in held.slots.items()
                }
                self._rule(group.options, values, given, slots, held.learning_rate)


def optimisers_of(
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer], names: Mapping[Any, str]
) -> list[Optimiser]:
    """The pure forms of one or several ``torch.optim`` objects over different parameters.

    Raises:
        TypeError, ValueError: see ``Optimiser``; or there is none, or two share a parameter.
    """
    optimizers = optimizer if isinstance(optimizer, Sequence) else [optimizer]
    made = [Optimiser(each, names) for each in optimizers]
    owned = [name for each in made for name in each.names]
    twice = sorted({name for name in owned if owned.count(name) > 1})
    if twice or not made:
        raise ValueError(
            "`optimizer` must be one or several over different parameters, "
            f"got {len(made)} that share {twice}"
        )
    for each in optimizers:
        each._opt_called = True  # type: ignore[attr-defined]  # schedulers look for it
    return made


def _rate_of(params: Sequence[Tensor]) -> Tensor:
    """A learning rate in the precision of the parameters, and where they are if there is memory."""
    double = any(p.dtype == torch.float64 for p in params)
    device = next((p.device for p in params if not p.is_meta), None)
    return torch.zeros([], dtype=torch.float64 if double else torch.float32, device=device)


def _names_of(group: Mapping[str, Any], names: Mapping[Any, str]) -> list[str]:
    for parameter in group["params"]:
        if parameter not in names:
            raise ValueError(
                "`optimizer` must hold parameters of the loss only, "
                f"got one of shape {list(parameter.shape)} that is not among them"
            )
    return [names[parameter] for parameter in group["params"]]


def _options_of(group: Mapping[str, Any]) -> Options:
    """The group's options but for what changes from call to call."""
    # Torch starts the momentum buffer at the first gradient, undampened; zeros are that only so.
    for option in ("dampening", "differentiable"):
        if group.get(option):
            raise ValueError(f"`optimizer` must have no {option}, got {group[option]}")
    return {name: value for name, value in group.items() if name not in ("params", "lr")}
