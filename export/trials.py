"""Inputs on which a file is tried, and what eager computes of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from compiled_rl.export.errors import ExportError
from compiled_rl.export.reasons import reason
from compiled_rl.export.subject import Subject

CORNERS = 2  # trials before those at several sizes


class Trial(NamedTuple):
    """Inputs of one size, and what eager computes of them."""

    sizes: dict[str, int]
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]


def draw_trials(subject: Subject, seed: int = 0) -> list[Trial]:
    """The example, zeros, then fresh inputs of several sizes, and what eager computes of them.

    A robot at rest sends zeros, by which no random input divides.

    What a caller carries and has one shape, such as parameters and their moments, goes from trial
    to trial as it would there; what the caller keeps and nothing moves is another each time.
    """
    generator = Generator().manual_seed(seed)
    trials = [
        try_eager(subject, subject.example, {"the example": 1}),
        try_eager(subject, _at_zero(subject), {"zeros": 1}),
    ]
    for sizes in subject.axes.sizes():
        inputs = fresh_inputs(subject, sizes, generator)
        kept = _carried(subject, trials[-1])
        kept |= {name: nearby(inputs[name], generator) for name in subject.held if name not in kept}
        trials.append(try_eager(subject, {**inputs, **kept}, sizes))
    return trials


def _carried(subject: Subject, last: Trial) -> dict[str, Tensor]:
    return {
        name: last.expected[output]
        for name, output in subject.state.items()
        if output is not None and subject.axes.is_fixed(name)
    }


def nearby(x: Tensor, generator: Generator, scale: float = 0.1) -> Tensor:
    """Values of the same sign, by default a tenth away; what counts stays as it is."""
    if not x.is_floating_point() or (x.dim() == 0 and float(x).is_integer()):
        return x
    factor = 1 + scale * torch.randn(x.shape, generator=generator, dtype=x.dtype).clamp(-3, 3)
    return x * factor


def try_eager(subject: Subject, inputs: Mapping[str, Tensor], sizes: dict[str, int]) -> Trial:
    """A trial on these inputs."""
    try:
        with torch.no_grad():
            expected = subject.module(*[x.clone() for x in inputs.values()])
    except (RuntimeError, ValueError, IndexError) as error:
        raise ExportError(
            f"{reason(subject.target, error)} at {sizes}; where an axis is a number in it, compute "
            "with the tensor's own sizes, or leave the axis out of `dynamic`"
        ) from error
    return Trial(sizes, dict(inputs), dict(zip(subject.outputs, expected, strict=True)))


def _at_zero(subject: Subject) -> dict[str, Tensor]:
    """The example with zeros, or what is nearest in its range, in the place of its numbers."""
    kept = {*subject.held, *subject.rows, *subject.noise}
    return {
        name: x if name in kept or not x.is_floating_point() else _nearest_zero(x)
        for name, x in subject.example.items()
    }


def _nearest_zero(x: Tensor) -> Tensor:
    if not x.numel():
        return x
    return torch.zeros_like(x).clamp(float(x.min()), float(x.max()))


def fresh_inputs(
    subject: Subject, sizes: dict[str, int], generator: Generator
) -> dict[str, Tensor]:
    """Inputs at these sizes; what a caller keeps is as the example has it."""
    axes, inputs = subject.axes, {}
    for name, x in subject.example.items():
        shape = axes.sized(name, x, sizes)
        if name in subject.held:
            inputs[name] = x
        elif name in subject.rows:
            count = sizes[subject.rows[name]]
            inputs[name] = torch.randint(count, shape, generator=generator)
        elif name in subject.noise:
            draw = torch.rand if subject.noise[name] == "uniform" else torch.randn
            inputs[name] = draw(shape, generator=generator, dtype=x.dtype)
        else:
            inputs[name] = fresh(x, shape, generator)
    return inputs


def fresh(example: Tensor, shape: Sequence[int], generator: Generator) -> Tensor:
    """Random values of the example's kind: what keeps its sign stays within its range."""
    if example.dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if not example.is_floating_point():
        start, stop = int(example.min()), int(example.max()) + 1
        return torch.randint(start, stop, shape, generator=generator, dtype=example.dtype)
    low, high = float(example.min()), float(example.max())
    if low < high and (low >= 0 or high <= 0):
        uniform = torch.rand(shape, generator=generator, dtype=example.dtype)
        return low + uniform * (high - low)
    normal = torch.randn(shape, generator=generator, dtype=example.dtype)
    return normal.abs() + 0.1 if low > 0 else normal
