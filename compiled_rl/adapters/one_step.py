"""One step of TensorDict modules that a loss runs over sequences, and the bounds of actions."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from compiled_rl.adapters.dispatch import Data
from compiled_rl.adapters.fields import Key
from compiled_rl.adapters.steps import Step
from compiled_rl.adapters.tensordict import CalledStep
from compiled_rl.extras import needed_by
from compiled_rl.modules.memory import remember

with needed_by(__name__):
    from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential

# Known by name: TorchRL is not imported here.
_MEMORIES = {"LSTMModule": ("lstm", nn.LSTM), "GRUModule": ("gru", nn.GRU)}
_PROJECTION = "_forward_hook_safe_action"


def acting_step(step: Step) -> Step:
    """The same call for a single step of control."""
    if not isinstance(step, CalledStep):
        return step
    name, kind = _MEMORIES.get(type(step.module).__name__, ("", ()))
    if kind and isinstance(getattr(step.module, name), kind):
        return MemoryStep(getattr(step.module, name), step.in_keys, step.out_keys)
    step.mode = _one_at_a_time
    return step


class MemoryStep(Step):
    """One step of a ``torch.nn.LSTM`` or ``GRU`` of features, its state, and ``is_init``.

    TorchRL's ``GRUModule`` looks at the values of ``is_init``, which no graph can.
    """

    def __call__(self, data: Data) -> Data:
        """What is read of the memory, and its new state."""
        features, *state, is_init = [data[key] for key in self.in_keys]
        read, after = remember(self.module, features, tuple(state), is_init)
        return dict(zip(self.out_keys, (read, *after), strict=True))


class Calls(nn.Module):
    """Steps in order, of positional tensors; what they call is part of it, and not what wraps that.

    A trace looks at every attribute of every module, which TorchRL's do not bear.

    Args:
        steps: the calls.
        in_keys: of the tensors that it takes.
        out_keys: of those that it returns.
    """

    def __init__(self, steps: Sequence[Step], in_keys: Sequence[Key], out_keys: Sequence[Key]):
        super().__init__()
        self.steps, self.in_keys, self.out_keys = list(steps), tuple(in_keys), tuple(out_keys)
        modules = [step.module for step in steps]
        self.parts = nn.ModuleList(x for x in modules if isinstance(x, nn.Module))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What is computed."""
        data: Data = dict(zip(self.in_keys, tensors, strict=True))
        for step in self.steps:
            data.update(step(data))
        return tuple(data[key] for key in self.out_keys)


def _one_at_a_time() -> AbstractContextManager[Any]:
    """What makes TorchRL's recurrent modules take a batch for single steps."""
    torchrl: Any = sys.modules.get("torchrl.modules")
    if torchrl is None:
        return nullcontext()
    mode: AbstractContextManager[Any] = torchrl.set_recurrent_mode(False)
    return mode


def bounds_of(module: nn.Module) -> dict[Key, tuple[Tensor, Tensor]]:
    """To what TorchRL's ``safe=True`` projects the actions of a policy.

    Raises:
        TypeError: the policy or its distribution has other hooks.
    """
    bounds: dict[Key, tuple[Tensor, Tensor]] = {}
    for part in module.modules():
        if isinstance(part, ProbabilisticTensorDictSequential | ProbabilisticTensorDictModule):
            if any(_hooks(part)):
                bounds.update(_bounds(part.spec))
    return bounds


def _hooks(part: nn.Module) -> Iterator[Callable[..., Any]]:
    for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values()):
        if getattr(hook, "__name__", "") != _PROJECTION:
            raise TypeError(
                f"{type(part).__name__} must have no hooks to be deployed, got {hook}; "
                "put that into the network"
            )
        yield hook


def _bounds(spec: Any) -> dict[Key, tuple[Tensor, Tensor]]:
    """Of every action that has some; what a discrete distribution gives is within its own."""
    boxes: dict[Key, Any] = {
        key: getattr(spec[key], "space", None) for key in spec.keys(True, True)
    }
    return {key: (box.low, box.high) for key, box in boxes.items() if hasattr(box, "low")}
