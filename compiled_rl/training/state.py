"""What an update step goes on from: everything that moves while it trains."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from compiled_rl.training.update import UpdateStep

_OWNER = "UpdateStep.load_state_dict"


def state_of(step: "UpdateStep") -> dict[str, Any]:
    """Tensors, numbers and strings in dicts and lists; see ``UpdateStep.state_dict``."""
    updater = step.target_updater
    return {
        "loss": dict(step.loss.state_dict()),
        "optimizers": [optimizer.state_dict() for optimizer in _optimizers(step)],
        "target_updater": {} if updater is None else updater.state_dict(),
        "updates": step.updates,
        "accumulated": {"calls": step._calls, "gradients": dict(step._gathered)},
        "generator": _random_state(step),
    }


def load_state(step: "UpdateStep", state: Mapping[str, Any]) -> None:
    """Write it to where it was; see ``UpdateStep.load_state_dict``."""
    own = state_of(step)
    _check_keys("the state", state, own)
    _check_tensors("loss", state["loss"], own["loss"])
    _check_optimizers(state["optimizers"], own["optimizers"])
    step.loss.load_state_dict(state["loss"])
    for optimizer, saved in zip(_optimizers(step), state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    if step.target_updater is not None:
        step.target_updater.load_state_dict(state["target_updater"])
    step.updates.copy_(state["updates"])
    step._calls = state["accumulated"]["calls"]
    step._gathered = {k: x.clone() for k, x in state["accumulated"]["gradients"].items()}
    _set_random_state(step, state["generator"])


def _optimizers(step: "UpdateStep") -> Sequence[torch.optim.Optimizer]:
    return step.optimizer if isinstance(step.optimizer, Sequence) else [step.optimizer]


def _random_state(step: "UpdateStep") -> Tensor:
    if step.generator is not None:
        return step.generator.get_state()
    device = step.updates.device
    return torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)


def _set_random_state(step: "UpdateStep", state: Tensor) -> None:
    device = step.updates.device
    if step.generator is not None:
        step.generator.set_state(state)
    elif device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)


def _check_keys(what: str, given: Any, own: Mapping[str, Any]) -> None:
    names = list(given) if isinstance(given, Mapping) else type(given).__name__
    if not isinstance(given, Mapping) or given.keys() != own.keys():
        raise ValueError(f"{_OWNER}: {what} must have the keys {list(own)}, got {names}")


def _check_tensors(what: str, given: Any, own: Mapping[str, Tensor]) -> None:
    _check_keys(f"`{what}`", given, own)
    for name, x in own.items():
        if given[name].shape != x.shape:
            raise ValueError(
                f"{_OWNER}: `{name}` must be of shape {list(x.shape)}, "
                f"got {list(given[name].shape)}"
            )


def _check_optimizers(given: Any, own: Sequence[Mapping[str, Any]]) -> None:
    sizes = list(_sizes(own))
    got = list(_sizes(given)) if isinstance(given, Sequence) else type(given).__name__
    if got != sizes:
        raise ValueError(
            f"{_OWNER}: `optimizers` must have parameters in groups of {sizes}, got {got}"
        )


def _sizes(optimizers: Sequence[Mapping[str, Any]]) -> Iterator[list[int]]:
    """How many parameters each group of each optimiser has."""
    for optimizer in optimizers:
        yield [len(group["params"]) for group in optimizer["param_groups"]]
