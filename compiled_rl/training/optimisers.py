"""``torch.optim`` objects as pure functions; the objects keep their state and their state dict."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

Tensors = dict[str, Tensor]
Slots = dict[str, list[Tensor]]
Options = dict[str, Any]


class GroupState(NamedTuple):
    """What an optimiser remembers of a parameter group; each slot has a tensor a parameter."""

    learning_rate: Tensor
    slots: Slots


OptimiserState = list[GroupState]
Rule = Callable[[Options, list[Tensor], list[Tensor], GroupState], None]


class Optimiser:
    """The pure form of a ``torch.optim`` object.

        params, state = step(params, grads, state)

    The arithmetic is torch's own functional optimiser, on copies.

    Args:
        optimizer: a ``torch.optim.Adam``, ``AdamW`` or ``SGD``.
        names: of the parameters, by identity of the tensor.

    Raises:
        TypeError: the optimiser is of another class.
        ValueError: it holds a parameter without a name, or asks for what has no pure form.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, names: Mapping[Any, str]) -> None:
        if type(optimizer) not in _RULES:
            known = [cls.__name__ for cls in _RULES]
            raise TypeError(
                f"`optimizer` must be in {known} of torch.optim, got {type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        self._rule, self._slot_names = _RULES[type(optimizer)]
        self._groups = [_names_of(group, names) for group in optimizer.param_groups]
        self._options = [_options_of(group) for group in optimizer.param_groups]
        members = [p for group in optimizer.param_groups for p in group["params"]]
        self._members = {names[p]: p for p in members}

    @property
    def names(self) -> list[str]:
        """Of all its parameters."""
        return list(self._members)

    @property
    def params(self) -> Tensors:
        """The parameters that may move: those that are not frozen now."""
        return {name: p for name, p in self._members.items() if p.requires_grad}

    def state(self) -> OptimiserState:
        """The optimiser's own tensors, made now if it has taken no step yet.

        Raises:
            ValueError: a parameter or an option other than the learning rate is no longer what it
                was: each new value would compile a new graph.
        """
        groups = self.optimizer.param_groups
        for group, names, options in zip(groups, self._groups, self._options, strict=False):
            _check_unchanged(group, len(names), options)
        if len(groups) != len(self._groups):
            raise ValueError(
                f"`optimizer` must keep its {len(self._groups)} parameter groups, got {len(groups)}"
            )
        return [self._group_state(group) for group in groups]

    def step(
        self, params: Tensors, grads: Tensors, state: OptimiserState
    ) -> tuple[Tensors, OptimiserState]:
        """New parameters and state; a parameter without a gradient stays as it is."""
        params, new_state = dict(params), []
        for options, names, group in zip(self._options, self._groups, state, strict=True):
            copies = {slot: [x.clone() for x in xs] for slot, xs in group.slots.items()}
            new = GroupState(group.learning_rate, copies)
            moved = [k for k, name in enumerate(names) if name in grads]
            values = [params[names[k]].detach().clone() for k in moved]
            own = {slot: [xs[k] for k in moved] for slot, xs in copies.items()}
            given = [grads[names[k]] for k in moved]
            self._rule(options, values, given, GroupState(group.learning_rate, own))
            params.update({names[k]: value for k, value in zip(moved, values, strict=True)})
            new_state.append(new)
        return params, new_state

    def _group_state(self, group: Mapping[str, Any]) -> GroupState:
        slots: Slots = {name: [] for name in self._slot_names(group)}
        for parameter in group["params"]:
            own = self.optimizer.state[parameter]
            for name, tensors in slots.items():
                if name not in own:
                    own[name] = torch.tensor(0.0) if name == "step" else torch.zeros_like(parameter)
                tensors.append(own[name])
        double = any(parameter.dtype == torch.float64 for parameter in group["params"])
        dtype = torch.float64 if double else torch.float32
        return GroupState(torch.as_tensor(group["lr"], dtype=dtype), slots)


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


def _adam(options: Options, params: list[Tensor], grads: list[Tensor], state: GroupState) -> None:
    beta1, beta2 = options["betas"]
    adam(
        params,
        grads,
        state.slots["exp_avg"],
        state.slots["exp_avg_sq"],
        state.slots.get("max_exp_avg_sq", []),
        state.slots["step"],
        foreach=False,
        decoupled_weight_decay=options["decoupled_weight_decay"],
        amsgrad=options["amsgrad"],
        beta1=beta1,
        beta2=beta2,
        lr=state.learning_rate,
        weight_decay=options["weight_decay"],
        eps=options["eps"],
        maximize=options["maximize"],
    )


def _adam_slots(group: Mapping[str, Any]) -> list[str]:
    return ["step", "exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * group["amsgrad"]


def _sgd(options: Options, params: list[Tensor], grads: list[Tensor], state: GroupState) -> None:
    none: list[Any] = [None] * len(params)
    sgd(
        params,
        grads,
        state.slots.get("momentum_buffer", none),
        foreach=False,
        weight_decay=options["weight_decay"],
        momentum=options["momentum"],
        lr=state.learning_rate,  # type: ignore[arg-type]  # torch takes a tensor, as Adam does
        dampening=options["dampening"],
        nesterov=options["nesterov"],
        maximize=options["maximize"],
    )


def _sgd_slots(group: Mapping[str, Any]) -> list[str]:
    return ["momentum_buffer"] if group["momentum"] else []


_RULES: dict[type, tuple[Rule, Callable[[Mapping[str, Any]], list[str]]]] = {
    torch.optim.Adam: (_adam, _adam_slots),
    torch.optim.AdamW: (_adam, _adam_slots),
    torch.optim.SGD: (_sgd, _sgd_slots),
}


def _names_of(group: Mapping[str, Any], names: Mapping[Any, str]) -> list[str]:
    for parameter in group["params"]:
        if parameter not in names:
            raise ValueError(
                "`optimizer` must hold parameters of the loss only, "
                f"got one of shape {list(parameter.shape)} that is not among them"
            )
    return [names[parameter] for parameter in group["params"]]


def _check_unchanged(group: Mapping[str, Any], count: int, options: Options) -> None:
    if len(group["params"]) != count:
        raise ValueError(
            f"`optimizer` must keep the {count} parameters of a group, got {len(group['params'])}"
        )
    for name, value in options.items():
        if group[name] != value:
            raise ValueError(
                f"`optimizer` must keep its {name} of {value}, got {group[name]}; only the "
                "learning rate may change, make another UpdateStep for anything else"
            )


def _options_of(group: Mapping[str, Any]) -> Options:
    """The group's options but for what changes from call to call."""
    # Torch starts the momentum buffer at the first gradient, undampened; zeros are that only so.
    for option in ("dampening", "differentiable"):
        if group.get(option):
            raise ValueError(f"`optimizer` must have no {option}, got {group[option]}")
    return {name: value for name, value in group.items() if name not in ("params", "lr")}
