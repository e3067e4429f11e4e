"""An explicit signature for what is exported: named tensors in, named tensors out."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.func import functional_call

from compiled_rl.adapters import keyword
from compiled_rl.adapters.deploy import plain_policy
from compiled_rl.export.errors import ExportError
from compiled_rl.losses import DeclaredLoss

Example = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Target = Callable[..., Any]


class Explicit(nn.Module):
    """``target`` with positional tensors in the order of ``inputs``; outputs as a flat tuple.

    Args:
        target: called with keywords.
        inputs: those of its keywords.
        held: by further input, a parameter of ``target``, in whose place that input stands.
    """

    def __init__(
        self, target: Target, inputs: Sequence[str], held: Optional[Mapping[str, Tensor]] = None
    ) -> None:
        super().__init__()
        self.target = target
        self.inputs = list(inputs)
        self._places = _places(target, held or {})

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs of ``target`` in order."""
        count = len(self.inputs)
        given = dict(zip(self.inputs, tensors, strict=False))
        if not self._places:
            return tuple(flat(self.target(**given)).values())
        placed = dict(zip(self._places, tensors[count:], strict=True))
        assert isinstance(self.target, nn.Module)
        outputs = functional_call(self.target, placed, kwargs=given)
        return tuple(flat(outputs).values())


def _places(target: Target, held: Mapping[str, Tensor]) -> list[str]:
    """The names in a target of parameters that are its inputs."""
    if not held:
        return []
    assert isinstance(target, nn.Module)
    names = {id(p): name for name, p in target.named_parameters()}
    return [names[id(p)] for p in held.values()]


def named_example(target: Target, example: Example) -> dict[str, Tensor]:
    """The example inputs by name; names not given are those of the target's parameters.

    Every tensor is a copy of its own: two inputs that share one would be exported as one.
    """
    if isinstance(example, Mapping):
        named = dict(example)
    else:
        tensors = [example] if isinstance(example, Tensor) else list(example)
        named = dict(zip(_parameters(target), tensors, strict=False))
        if len(named) != len(tensors):
            raise ExportError(
                f"`example` has {len(tensors)} tensors, but the target takes {list(named)}"
            )
    for name, x in named.items():
        if not isinstance(x, Tensor):
            raise ExportError(
                f"`example` must hold tensors, got a {type(x).__name__} for `{name}`; "
                "bind other arguments with functools.partial"
            )
    return {name: x.detach().clone() for name, x in named.items()}


def deployable(target: Target) -> Target:
    """The target, or of a module that is called by keys, what is deployed of it."""
    if isinstance(target, DeclaredLoss):
        return _Loss(target)
    plain = plain_policy(target) if isinstance(target, nn.Module) else None
    return target if plain is None else plain


class _Loss(nn.Module):
    """A loss that returns all that it has by name, what is not minimised, too."""

    def __init__(self, loss: DeclaredLoss) -> None:
        super().__init__()
        self.loss = loss
        self.input_names = [keyword(key) for key in loss.in_keys]

    def forward(self, **tensors: Tensor) -> Any:
        """The outputs by name."""
        return self.loss(tensors)

    def draw_noise(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the loss draws for these inputs, by keyword."""
        drawn = self.loss.draw_noise(self.loss.inputs(tensors, {}))
        return {keyword(key): x for key, x in drawn.items()}


def renamed(
    example: Mapping[str, Tensor], names: Optional[Sequence[str]], held: Collection[str] = ()
) -> dict[str, Tensor]:
    """The example under the names that the file is to have; parameters have theirs."""
    names = () if names is None else names
    all_names = [*names, *list(example)[len(names) :], *held]
    few = len(names) <= len(example)
    if isinstance(names, str) or not few or len(set(all_names)) != len(all_names):
        raise ExportError(
            f"`input_names` must name the inputs {list(example)}, each another than all inputs, "
            f"got {names!r} and {all_names[len(names) :]}"
        )
    return dict(zip(all_names, example.values(), strict=False))


def output_names(
    target: Target,
    called: Target,
    example: Mapping[str, Tensor],
    given: Optional[Sequence[str]],
) -> list[str]:
    """Names of the outputs: those given, or the target's own; the target is called once."""
    try:
        with torch.no_grad():
            outputs = flat(called(**example))
    except ExportError:
        raise
    except Exception as error:
        name = name_of(target)
        raise ExportError(f"{name} could not be called with {list(example)}: {error}") from error
    if given is None:
        return list(outputs)
    if len(given) != len(outputs):
        raise ExportError(f"`output_names` must name {len(outputs)} outputs, got {list(given)}")
    return list(given)


def name_of(target: Any) -> str:
    """What the user calls it: the class of a module, the name of a function."""
    if isinstance(target, nn.Module):
        return type(target).__name__
    if hasattr(target, "func"):
        return name_of(target.func)
    return str(getattr(target, "__name__", type(target).__name__))


def modules_of(target: Any) -> list[nn.Module]:
    """Every module that a target calls: itself, what is bound to it, what it closes over."""
    if isinstance(target, nn.Module):
        return list(target.modules())
    held = [getattr(target, "__self__", None), getattr(target, "func", None)]
    held += [*getattr(target, "args", ()), *getattr(target, "keywords", {}).values()]
    held += [cell.cell_contents for cell in getattr(target, "__closure__", None) or ()]
    found = [
        part
        for x in held
        if isinstance(x, nn.Module) or hasattr(x, "func")
        for part in modules_of(x)
    ]
    return list(dict.fromkeys(found))


@contextmanager
def at_rest(target: Target) -> Iterator[None]:
    """The target's modules in eval mode, with every mode and buffer put back as it was.

    Raises:
        ExportError: the target changed a buffer, which a file would silently not do.
    """
    modules = modules_of(target)
    training = [module.training for module in modules]
    buffers = [(m, name, x, x.clone()) for m in modules for name, x in _state(m).items()]
    for module in modules:
        module.training = False
    try:
        yield
        changed = [name for m, name, x, was in buffers if not _same(_state(m).get(name), x, was)]
        if changed:
            raise ExportError(
                f"{name_of(target)} must not change its own tensors, got changes of "
                f"{sorted(set(changed))}; make state an input and an output"
            )
    finally:
        for module, was in zip(modules, training, strict=True):
            module.training = was
        for module, name, x, value in buffers:
            if not _same(_state(module).get(name), x, value):
                setattr(module, name, x.copy_(value))


def _state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module that are no parameters: buffers and plain attributes."""
    plain = {name: x for name, x in vars(module).items() if isinstance(x, Tensor)}
    return plain | {name: x for name, x in module._buffers.items() if x is not None}


def _same(now: Optional[Tensor], x: Tensor, was: Tensor) -> bool:
    return now is x and torch.equal(torch.nan_to_num(x), torch.nan_to_num(was))


def _parameters(target: Target) -> list[str]:
    declared = getattr(target, "input_names", None)
    if declared is not None:
        return list(declared)
    try:
        function = target.forward if isinstance(target, nn.Module) else target
        return list(inspect.signature(function).parameters)
    except ValueError as error:
        raise ExportError(
            f"{name_of(target)} does not tell its inputs' names; pass `example` by name"
        ) from error


def flat(outputs: Any) -> dict[str, Tensor]:
    """What a target returned, by name."""
    if isinstance(outputs, Tensor):
        return {"output": outputs}
    if isinstance(outputs, Mapping):
        flat = dict(outputs)
    elif hasattr(outputs, "_asdict"):
        flat = dict(outputs._asdict())
    elif isinstance(outputs, tuple | list):
        flat = {f"output_{i}": x for i, x in enumerate(outputs)}
    else:
        flat = {"output": outputs}
    for name, x in flat.items():
        if not isinstance(x, Tensor):
            raise ExportError(
                f"the target must return tensors, got a {type(x).__name__} for `{name}`"
            )
    return flat
