"""What is exported: positional tensors in, a flat tuple of tensors out, and the names of all."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Optional

from torch import Tensor, nn

from compiled_rl.export.axes import Axes, Dynamic, check_axes, check_dynamic, check_example
from compiled_rl.export.errors import ExportError
from compiled_rl.export.names import MINIBATCHES
from compiled_rl.export.options import Options
from compiled_rl.export.signature import (
    Example,
    Explicit,
    Target,
    deployable,
    named_example,
    output_names,
    renamed,
)
from compiled_rl.export.training import EpochModule, StepModule, following
from compiled_rl.training import NamedUpdate, UpdateEpochs, UpdateStep

Draw = Callable[[], dict[str, Tensor]]


class Subject(NamedTuple):
    """What is exported, in the one form that every exporter takes.

    Attributes:
        target: what the user gave, for the words of an error and the contract.
        module: computes it, eagerly.
        example: inputs by name, in the order of the module's.
        outputs: names, in the order of the module's.
        axes: which may change.
        state: by input that the caller keeps, the output that replaces it, if one does.
        held: of those inputs, the values to begin with, where zeros are not.
        noise: by input that the caller draws, how: ``"normal"`` or ``"uniform"``.
        rows: by input of indices, the axis whose rows they are.
    """

    target: Target
    module: nn.Module
    example: dict[str, Tensor]
    outputs: list[str]
    axes: Axes
    state: dict[str, Optional[str]]
    held: dict[str, Tensor]
    noise: dict[str, str]
    rows: dict[str, str]


def subject_of(
    target: Target,
    example: Example,
    dynamic: Dynamic,
    max_time: Optional[int],
    bounded: bool,
    options: Options,
) -> Subject:
    """The target in that form.

    Args:
        target: as ``to_onnx`` takes it.
        example: likewise.
        dynamic: likewise.
        max_time: the longest time, or None.
        bounded: whether a dynamic time needs it.
        options: see ``Options``.

    Raises:
        ExportError: they do not fit together.
    """
    check_dynamic(dynamic)
    if isinstance(target, UpdateStep):
        return _of_step(target, example, dynamic, max_time, bounded, options)
    if isinstance(target, UpdateEpochs):
        return _of_epochs(target, example, dynamic, options)
    called = deployable(target)
    named = named_example(called, example)
    drawn = {k: x for k, x in _drawn(called, named).items() if k not in named}
    named |= drawn
    parameters = _held(target, options)
    held = {name: p.detach().clone() for name, p in parameters.items()}
    names = output_names(target, called, named, options.get("output_names"))
    explicit = Explicit(called, list(named), parameters)
    inputs = renamed(named, options.get("input_names"), held)
    axes = check_axes(dynamic, max_time, bounded, {**inputs, **held}, fixed=held)
    new = dict(zip(named, inputs, strict=True))
    return Subject(
        target,
        explicit,
        check_example({**inputs, **held}, axes),
        names,
        axes,
        {**dict.fromkeys(held), **_state(called, options, new, names)},
        held,
        {new[name]: _kind_of(partial(_drawn, called, named), name) for name in drawn},
        {},
    )


def _of_step(
    step: UpdateStep,
    example: Example,
    dynamic: Dynamic,
    max_time: Optional[int],
    bounded: bool,
    options: Options,
) -> Subject:
    update = _named_update(step, example, options)
    module = StepModule(update)
    axes = check_axes(dynamic, max_time, bounded, module.example, fixed=update.state)
    return _of_training(step, module, axes, {})


def _of_epochs(
    epochs: UpdateEpochs, example: Example, dynamic: Dynamic, options: Options
) -> Subject:
    module = EpochModule(_named_update(epochs.step, example, options))
    leading: dict[str, tuple[str, ...]] = dict.fromkeys(module.batch, ("samples",))
    leading |= dict.fromkeys([MINIBATCHES, *module.noise], ("updates", "batch"))
    of = {
        name: (*axes, *[None] * (module.example[name].dim() - len(axes)))
        for name, axes in leading.items()
    }
    axes = check_axes(of, None, False, module.example)
    if not _are_of_epochs(dynamic, axes):
        raise ExportError(f"`dynamic` must be ('batch',) for epochs, got {dynamic!r}")
    # In the order in which sizes are tried: many updates on one sample would be mere rounding.
    axes = axes._replace(names=("batch", "samples", "updates"))
    return _of_training(epochs, module, axes, {MINIBATCHES: "samples"})


def _are_of_epochs(dynamic: Dynamic, axes: Axes) -> bool:
    """Whether a user asks for what there is; a contract says it by input."""
    if isinstance(dynamic, Mapping):
        return all(axes.of.get(name) == tuple(given) for name, given in dynamic.items())
    return tuple(dynamic) == ("batch",)


def _of_training(
    target: UpdateStep | UpdateEpochs,
    module: StepModule | EpochModule,
    axes: Axes,
    rows: dict[str, str],
) -> Subject:
    update = module.update
    twice = sorted(set(update.state) & {*update.data, MINIBATCHES})
    if twice:
        raise ExportError(f"`example` must have other names than the state's, got {twice}")
    state: dict[str, Optional[str]] = dict.fromkeys(update.state)
    state |= {name: following(name) for name in update.moved}
    kinds = {name: _kind_of(update.redrawn, name) for name in update.noise}
    example = check_example(module.example, axes)
    return Subject(target, module, example, module.outputs, axes, state, update.state, kinds, rows)


def _named_update(step: UpdateStep, example: Example, options: Options) -> NamedUpdate:
    superfluous = [name for name in options if name not in ("deployment", "tolerance")]
    if superfluous:
        raise ExportError(f"a training step has names of its own, got {superfluous}")
    try:
        return NamedUpdate(step, example)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        said = error.args[0] if isinstance(error, KeyError) else error
        raise ExportError(f"the step could not be taken on `example`: {said}") from error


def _drawn(called: Target, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a target would draw at random, by the names of its inputs."""
    draw = getattr(called, "draw_noise", None)
    if draw is None:
        return {}
    drawn: dict[str, Tensor] = draw(dict(named))
    return drawn


def _kind_of(draw: Draw, name: str) -> str:
    """Standard normal noise, or uniform in [0, 1): as many draws as settle it."""
    seen = 0
    while seen < 64:
        x = draw()[name]
        if bool((x < 0).any()):
            return "normal"
        seen += max(x.numel(), 1)
    return "uniform"


def _held(target: Target, options: Options) -> dict[str, Tensor]:
    """The parameters that become inputs, by their names in the module that was given."""
    module = options.get("parameters")
    if module is None:
        return {}
    if not isinstance(target, nn.Module):
        raise ExportError("`parameters` must go with a target that is a module, got a function")
    own = set(target.parameters())
    held: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p in own}
    if len(held) != len(own):
        raise ExportError(
            f"`parameters` must be a module with all {len(own)} parameters of the target, "
            f"got {len(held)} of them"
        )
    return held


def _state(
    called: Target, options: Options, inputs: Mapping[str, str], outputs: Sequence[str]
) -> dict[str, str]:
    """What is carried from call to call, under the names of the file."""
    given = options.get("state")
    if given is None:
        own = getattr(called, "state_names", None)
        pairs = {name: f"{name.removesuffix('_in')}_out" for name in inputs if name.endswith("_in")}
        carried = {inputs[k]: out for k, out in (own or pairs).items() if k in inputs}
        return {name: output for name, output in carried.items() if output in outputs}
    for name, output in given.items():
        if name not in inputs.values() or output not in outputs:
            raise ExportError(
                f"`state` must lead from inputs {list(inputs.values())} to outputs "
                f"{list(outputs)}, got {name!r} to {output!r}"
            )
    return dict(given)
