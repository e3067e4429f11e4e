"""What an update step goes on from: everything that moves while it trains."""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from compiled_rl.training.update import UpdateStep


def state_of(step: "UpdateStep") -> dict[str, Any]:
    """Copies, in dicts and lists; see ``UpdateStep.state_dict``."""
    for optimiser in step._optimisers:
        optimiser.state()  # made if there is none yet
    updater = step.target_updater
    live = {
        "loss": dict(step.loss.state_dict()),
        "optimizers": [optimizer.state_dict() for optimizer in _optimizers(step)],
        "target_updater": {} if updater is None else updater.state_dict(),
        "updates": step.updates,
        "accumulated": {"calls": step._calls, "gradients": step._gathered},
        "generator": _random_state(step),
    }
    return copy.deepcopy(live)


def load_state(step: "UpdateStep", given: Mapping[str, Any]) -> None:
    """Write it to where it was; see ``UpdateStep.load_state_dict``."""
    _check_like("the state", given, state_of(step))
    state: dict[str, Any] = copy.deepcopy(dict(given))  # an optimiser would keep what it is given
    calls = state["accumulated"]["calls"]
    if not 0 <= calls < step.accumulate:
        _refuse("`calls`", f"below `accumulate`, {step.accumulate}", calls)
    _check_random_state(step, state["generator"])
    step.loss.load_state_dict(state["loss"])
    for optimizer, saved in zip(_optimizers(step), state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    if step.target_updater is not None:
        step.target_updater.load_state_dict(state["target_updater"])
    step.updates.copy_(state["updates"])
    step._calls = calls
    for name, x in state["accumulated"]["gradients"].items():
        step._gathered[name].copy_(x)
    _set_random_state(step, state["generator"])


def _optimizers(step: "UpdateStep") -> Sequence[torch.optim.Optimizer]:
    return step.optimizer if isinstance(step.optimizer, Sequence) else [step.optimizer]


def _check_like(name: str, given: Any, own: Any, option: bool = False) -> None:
    """The same structure: keys, lengths, shapes and types; of an optimiser's options, values."""
    if isinstance(own, dict):
        if not isinstance(given, Mapping) or given.keys() != own.keys():
            keys = list(given) if isinstance(given, Mapping) else type(given).__name__
            _refuse(name, f"a mapping of {list(own)}", keys)
        for key, x in own.items():
            fixed = option and key not in ("lr", "initial_lr", "params")
            _check_like(f"`{key}`", given[key], x, fixed or key == "param_groups")
    elif isinstance(own, Tensor):
        if not isinstance(given, Tensor) or given.shape != own.shape:
            shape = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
            _refuse(name, f"a tensor of shape {list(own.shape)}", shape)
        if _kind(given) != _kind(own):
            _refuse(name, f"a tensor of {_kind(own)}", _kind(given))
    elif isinstance(own, list):
        if not isinstance(given, list) or len(given) != len(own):
            count = len(given) if isinstance(given, list) else type(given).__name__
            _refuse(name, f"a list of {len(own)}", count)
        for k, x in enumerate(own):
            _check_like(f"{name}[{k}]", given[k], x, option)
    elif option and given != own:
        _refuse(name, f"{own!r}, as the step's optimiser has it", repr(given))
    elif not option and not isinstance(given, type(own) | Tensor | float):
        _refuse(name, f"a {type(own).__name__}", repr(given))


def _kind(x: Tensor) -> str:
    """What one tensor must have in common with another to take its values."""
    numbers = "complex" if x.is_complex() else "real" if x.is_floating_point() else "whole"
    return f"{numbers} numbers, {'without memory' if x.is_meta else x.layout}"


def _refuse(name: str, wanted: str, got: Any) -> None:
    raise ValueError(f"UpdateStep.load_state_dict: {name} must be {wanted}, got {got}")


def _random_state(step: "UpdateStep") -> Tensor:
    if step.generator is not None:
        return step.generator.get_state()
    device = step.updates.device
    return torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)


def _check_random_state(step: "UpdateStep", state: Tensor) -> None:
    device = step.updates.device if step.generator is None else step.generator.device
    try:
        Generator(device).set_state(state)
    except (RuntimeError, TypeError) as error:
        _refuse("`generator`", f"the state of a generator on {device}", error)


def _set_random_state(step: "UpdateStep", state: Tensor) -> None:
    device = step.updates.device
    if step.generator is not None:
        step.generator.set_state(state)
    elif device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)
