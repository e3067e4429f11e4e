"""``torch.optim`` objects as pure functions; the objects keep their state and their state dict."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

Tensors = dict[str, Tensor]
Slots = dict[str, Tensor]
Rule = Callable[[Mapping[str, Any], list[Tensor], list[Tensor], list[Slots], Tensor], None]


class OptimiserState(NamedTuple):
    """What an optimiser remembers: a learning rate a group, and the slots of each parameter."""

    learning_rate: list[Tensor]
    slots: dict[str, Slots]


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

    def __init__(self, optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> None:
        if type(optimizer) not in _RULES:
            known = [cls.__name__ for cls in _RULES]
            raise TypeError(
                f"`optimizer` must be in {known} of torch.optim, got {type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        self._rule, self._empty_slots = _RULES[type(optimizer)]
        self._groups = [_names_of(group, names) for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            _check_group(group)
        self.params = {
            name: p
            for group, found in zip(optimizer.param_groups, self._groups, strict=True)
            for name, p in zip(found, group["params"], strict=True)
        }

    def state(self) -> OptimiserState:
        """The optimiser's own tensors, made now if it has taken no step yet."""
        slots: dict[str, Slots] = {}
        rates: list[Tensor] = []
        for group, names in zip(self.optimizer.param_groups, self._groups, strict=True):
            rates.append(torch.as_tensor(group["lr"]))
            for name, parameter in zip(names, group["params"], strict=True):
                own = self.optimizer.state[parameter]
                if not own:
                    own.update(self._empty_slots(group, parameter))
                slots[name] = own
        return OptimiserState(rates, slots)

    def step(
        self, params: Tensors, grads: Tensors, state: OptimiserState
    ) -> tuple[Tensors, OptimiserState]:
        """New parameters and slots; a parameter without a gradient stays as it is."""
        params, slots = dict(params), dict(state.slots)
        groups = zip(self.optimizer.param_groups, self._groups, state.learning_rate, strict=True)
        for group, names, rate in groups:
            moved = [name for name in names if name in grads]
            new = [params[name].detach().clone() for name in moved]
            own = [{slot: x.clone() for slot, x in slots[name].items()} for name in moved]
            self._rule(group, new, [grads[name] for name in moved], own, rate)
            params.update(zip(moved, new, strict=True))
            slots.update(zip(moved, own, strict=True))
        return params, OptimiserState(state.learning_rate, slots)


def _adam(
    group: Mapping[str, Any],
    params: list[Tensor],
    grads: list[Tensor],
    slots: list[Slots],
    rate: Tensor,
) -> None:
    beta1, beta2 = group["betas"]
    adam(
        params,
        grads,
        [own["exp_avg"] for own in slots],
        [own["exp_avg_sq"] for own in slots],
        [own["max_exp_avg_sq"] for own in slots] if group["amsgrad"] else [],
        [own["step"] for own in slots],
        foreach=False,
        decoupled_weight_decay=group["decoupled_weight_decay"],
        amsgrad=group["amsgrad"],
        beta1=beta1,
        beta2=beta2,
        lr=rate,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )


def _adam_slots(group: Mapping[str, Any], parameter: Tensor) -> Slots:
    moments = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * group["amsgrad"]
    return {"step": torch.tensor(0.0)} | {name: torch.zeros_like(parameter) for name in moments}


def _sgd(
    group: Mapping[str, Any],
    params: list[Tensor],
    grads: list[Tensor],
    slots: list[Slots],
    rate: Tensor,
) -> None:
    sgd(
        params,
        grads,
        [own.get("momentum_buffer") for own in slots],
        foreach=False,
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=rate,  # type: ignore[arg-type]  # torch takes a tensor here, as Adam does
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
    )


def _sgd_slots(group: Mapping[str, Any], parameter: Tensor) -> Slots:
    return {"momentum_buffer": torch.zeros_like(parameter)} if group["momentum"] else {}


_RULES: dict[type, tuple[Rule, Callable[[Mapping[str, Any], Tensor], Slots]]] = {
    torch.optim.Adam: (_adam, _adam_slots),
    torch.optim.AdamW: (_adam, _adam_slots),
    torch.optim.SGD: (_sgd, _sgd_slots),
}


def _names_of(group: Mapping[str, Any], names: Mapping[Tensor, str]) -> list[str]:
    for parameter in group["params"]:
        if parameter not in names:
            raise ValueError(
                "`optimizer` must hold parameters of the loss only, "
                f"got one of shape {list(parameter.shape)} that is not among them"
            )
    return [names[parameter] for parameter in group["params"]]


def _check_group(group: Mapping[str, Any]) -> None:
    # Torch starts the momentum buffer at the first gradient, undampened; zeros are that only so.
    for option in ("dampening", "differentiable"):
        if group.get(option):
            raise ValueError(f"`optimizer` must have no {option}, got {group[option]}")
