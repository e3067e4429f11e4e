"""An explicit signature for what is exported: named tensors in, named tensors out."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Optional

import torch
from torch import Tensor, nn

from compiled_rl.export.errors import ExportError
from compiled_rl.modules import Policy

Example = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Target = Callable[..., Any]


class Explicit(nn.Module):
    """``target`` with positional tensors in the order of ``inputs``; outputs as a flat tuple."""

    def __init__(self, target: Target, inputs: Sequence[str]) -> None:
        super().__init__()
        self.target = target
        self.inputs = list(inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs of ``target``, never an alias of an input."""
        outputs = self.target(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(_flat(outputs).values())


def named_example(target: Target, example: Example) -> dict[str, Tensor]:
    """The example inputs by name; names not given are those of the target's parameters.

    Every tensor is a copy of its own: two inputs that share one would be exported as one.
    """
    if isinstance(example, Mapping):
        named = dict(example)
    else:
        tensors = [example] if isinstance(example, Tensor) else list(example)
        function = target.forward if isinstance(target, nn.Module) else target
        named = dict(zip(inspect.signature(function).parameters, tensors, strict=False))
        if len(named) != len(tensors):
            raise ExportError(
                f"to_onnx: `example` has {len(tensors)} tensors, but the target takes {list(named)}"
            )
    for name, x in named.items():
        if not isinstance(x, Tensor):
            raise ExportError(
                f"to_onnx: `example` must hold tensors, got a {type(x).__name__} for `{name}`; "
                "bind other arguments with functools.partial"
            )
    return {name: x.detach().clone() for name, x in named.items()}


def output_names(
    target: Target, example: Mapping[str, Tensor], given: Optional[Sequence[str]]
) -> list[str]:
    """Names of the outputs: those given, or the target's own."""
    with torch.no_grad():
        outputs = _flat(target(**example))
    if given is None:
        return ["action"] if isinstance(target, Policy) else list(outputs)
    if len(given) != len(outputs):
        raise ExportError(
            f"to_onnx: `output_names` must name {len(outputs)} outputs, got {list(given)}"
        )
    return list(given)


def name_of(target: Target) -> str:
    """What the user calls it: the class of a module, the name of a function."""
    if isinstance(target, nn.Module):
        return type(target).__name__
    return str(getattr(getattr(target, "func", target), "__name__", target))


@contextmanager
def in_eval_mode(target: Target) -> Iterator[None]:
    """Put a module and its children in eval mode, and back as each was."""
    modules = list(target.modules()) if isinstance(target, nn.Module) else []
    training = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, was in zip(modules, training, strict=True):
            module.training = was


def _flat(outputs: Any) -> dict[str, Tensor]:
    if isinstance(outputs, Tensor):
        return {"output": outputs}
    if isinstance(outputs, Mapping):
        return dict(outputs)
    if hasattr(outputs, "_asdict"):
        return dict(outputs._asdict())
    return {f"output_{i}": x for i, x in enumerate(outputs)}
