"""The arithmetic of ``torch.optim``'s optimisers, torch's own, on lists of tensors in place."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

Options = dict[str, Any]
Lists = dict[str, list[Tensor]]
# Moves parameters, and the slots that go with them, by gradients at a learning rate.
Step = Callable[[Options, list[Tensor], list[Tensor], Lists, Tensor], None]


class Rule(NamedTuple):
    """How an optimiser moves parameters, and what it remembers of each, of a group's options."""

    step: Step
    slots: Callable[[Mapping[str, Any]], list[str]]


def _adam(
    options: Options, params: list[Tensor], grads: list[Tensor], slots: Lists, rate: Tensor
) -> None:
    beta1, beta2 = options["betas"]
    in_a_file = _in_a_file()
    # Eagerly the bias is corrected in double: of float32, the first steps have five digits.
    steps = [x.double() for x in slots["step"]] if in_a_file else slots["step"]
    adam(
        params,
        grads,
        slots["exp_avg"],
        slots["exp_avg_sq"],
        slots.get("max_exp_avg_sq", []),
        steps,
        foreach=False,
        fused=_in_one_kernel(params, grads, slots),
        differentiable=in_a_file,  # else numbers would be read of the tensors
        decoupled_weight_decay=options["decoupled_weight_decay"],
        amsgrad=options["amsgrad"],
        beta1=beta1,
        beta2=beta2,
        lr=rate,
        weight_decay=options["weight_decay"],
        eps=options["eps"],
        maximize=options["maximize"],
    )
    if in_a_file:
        for x, step in zip(slots["step"], steps, strict=True):
            x.copy_(step)


def _adam_slots(group: Mapping[str, Any]) -> list[str]:
    return ["step", "exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * group["amsgrad"]


def _sgd(
    options: Options, params: list[Tensor], grads: list[Tensor], slots: Lists, rate: Tensor
) -> None:
    changes = [torch.zeros_like(p) for p in params]
    none: list[Any] = [None] * len(params)
    sgd(
        changes,
        _decayed(options, params, grads),
        slots.get("momentum_buffer", none),
        foreach=False,
        fused=_in_one_kernel(params, grads, slots),
        weight_decay=0.0,
        momentum=options["momentum"],
        lr=1.0,
        dampening=options["dampening"],
        nesterov=options["nesterov"],
        maximize=False,
    )
    _move_by(changes, params, rate)


def _sgd_slots(group: Mapping[str, Any]) -> list[str]:
    return ["momentum_buffer"] if group["momentum"] else []


def _rmsprop(
    options: Options, params: list[Tensor], grads: list[Tensor], slots: Lists, rate: Tensor
) -> None:
    changes = [torch.zeros_like(p) for p in params]
    rmsprop(
        changes,
        _decayed(options, params, grads),
        slots["square_avg"],
        slots.get("grad_avg", []),
        slots.get("momentum_buffer", []),
        slots["step"],
        foreach=_in_one_kernel(params, grads, slots),
        lr=1.0,
        alpha=options["alpha"],
        eps=options["eps"],
        weight_decay=0.0,
        momentum=options["momentum"],
        centered=options["centered"],
    )
    _move_by(changes, params, rate)


def _rmsprop_slots(group: Mapping[str, Any]) -> list[str]:
    momentum, centered = group["momentum"] > 0, group["centered"]
    return ["step", "square_avg"] + ["momentum_buffer"] * momentum + ["grad_avg"] * centered


# Torch's own SGD and RMSprop would make a number of the rate: they move zeros at a rate of one.


def _decayed(options: Options, params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """The gradients with the decay of weights, of what is minimised."""
    sign = -1.0 if options["maximize"] else 1.0
    decay = options["weight_decay"]
    return [sign * grad + decay * p for grad, p in zip(grads, params, strict=True)]


def _move_by(changes: list[Tensor], params: list[Tensor], rate: Tensor) -> None:
    for p, change in zip(params, changes, strict=True):
        p.add_(rate * change)


def _in_a_file() -> bool:
    """Whether a graph is made by ``make_fx``, as an export does, and not by TorchDynamo."""
    return not torch.compiler.is_compiling() and get_proxy_mode() is not None


def _in_one_kernel(params: list[Tensor], grads: list[Tensor], slots: Lists) -> bool:
    """Whether torch's own kernel of all parameters is taken: not where a graph is made of it.

    It reads memory in order, so all must be laid out as the parameters are.
    """
    if torch.compiler.is_compiling() or _in_a_file():
        return False
    others = [grads, *[xs for name, xs in slots.items() if name != "step"]]
    alike = all(
        x.stride() == p.stride() and x.shape == p.shape
        for xs in others
        for x, p in zip(xs, params, strict=True)
    )
    return alike and params[0].device.type in ("cpu", "cuda")


_ADAM = Rule(_adam, _adam_slots)
RULES: dict[type, Rule] = {
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.RMSprop: Rule(_rmsprop, _rmsprop_slots),
    torch.optim.SGD: Rule(_sgd, _sgd_slots),
}
