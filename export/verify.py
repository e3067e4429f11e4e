"""Prove that a file computes what eager computes, on inputs that it has not seen."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Optional, Protocol

import torch
from torch import Generator, Tensor

from compiled_rl.export.axes import Axes
from compiled_rl.export.errors import ExportError

Eager = Callable[..., tuple[Tensor, ...]]


class Model(Protocol):
    """A loaded file: named tensors in, named tensors out."""

    inputs: list[str]
    outputs: list[str]

    def program(self, *tensors: Tensor) -> Any:
        """The file alone, which nothing protects: tensors in the order of ``inputs``."""
        ...

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """The outputs by name."""
        ...


class Trial(NamedTuple):
    """Inputs of one size, and what eager computes of them."""

    sizes: dict[str, int]
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]


class Check(NamedTuple):
    """One size at which the file was compared: the largest absolute error, the median latency."""

    sizes: dict[str, int]
    max_error: float
    latency_us: float


class Report(NamedTuple):
    """What was measured of an artefact before it was given its name."""

    path: Path
    bytes: int
    checks: list[Check]

    @property
    def max_error(self) -> float:
        """The largest absolute error at any size."""
        return max(check.max_error for check in self.checks)


def draw_trials(
    eager: Eager, example: Mapping[str, Tensor], outputs: Sequence[str], axes: Axes
) -> list[Trial]:
    """Fresh inputs of several sizes, and what eager computes of them.

    Args:
        eager: positional tensors in the order of ``example``.
        example: inputs like those that the file will see.
        outputs: names, in the order of ``eager``.
        axes: which of the inputs' axes may change.
    """
    generator = Generator().manual_seed(0)
    return [
        try_eager(eager, _fresh_inputs(example, sizes, generator), outputs, sizes)
        for sizes in axes.sizes()
    ]


def try_eager(
    eager: Eager, inputs: Mapping[str, Tensor], outputs: Sequence[str], sizes: dict[str, int]
) -> Trial:
    """A trial on these inputs."""
    with torch.no_grad():
        expected = eager(*inputs.values())
    return Trial(sizes, dict(inputs), dict(zip(outputs, expected, strict=True)))


def verify(model: Model, trials: Sequence[Trial], tolerance: Optional[float]) -> list[Check]:
    """Compare every output of the file with eager's.

    Args:
        model: the loaded file.
        trials: what it must compute.
        tolerance: allowed error, relative to the output's largest magnitude; None: by its dtype.

    Raises:
        ExportError: the file's names are others, or an output differs.
    """
    inputs, outputs = list(trials[0].inputs), list(trials[0].expected)
    if model.inputs != inputs or model.outputs != outputs:
        raise ExportError(
            f"the file must have the inputs {inputs} and outputs {outputs}, "
            f"got {model.inputs} and {model.outputs}"
        )
    return [_check(model, trial, tolerance) for trial in trials]


def verify_bound(model: Model, example: Mapping[str, Tensor], axes: Axes) -> None:
    """See that the file itself refuses what is longer than its bound, where it would be wrong.

    Raises:
        ExportError: it does not.
    """
    if axes.max_time is None:
        return
    inputs = _fresh_inputs(example, axes.too_long(), Generator().manual_seed(0))
    try:
        with _silent():
            model.program(*inputs.values())
    except Exception:
        return
    raise ExportError(f"the file must refuse {axes.too_long()}, got an answer")


def _check(model: Model, trial: Trial, tolerance: Optional[float]) -> Check:
    sizes, inputs, expected = trial
    with torch.no_grad():
        try:
            got = model(**inputs)
        except Exception as error:
            raise ExportError(f"the file must run at {sizes}, got: {_last_line(error)}") from error
        latency = _latency_us(lambda: model.program(*inputs.values()))
    errors = [_error(name, got[name], x, sizes, tolerance) for name, x in expected.items()]
    return Check(sizes, max(errors), latency)


def _last_line(error: Exception) -> str:
    """What went wrong; a runtime of torch's shows where first."""
    return [line.strip() for line in str(error).splitlines() if line.strip()][-1]


def _error(
    name: str, got: Tensor, expected: Tensor, sizes: dict[str, int], tolerance: Optional[float]
) -> float:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise ExportError(
            f"the output `{name}` at {sizes} must be {dtype_name(expected)} of shape "
            f"{list(expected.shape)}, got {dtype_name(got)} of shape {list(got.shape)}"
        )
    allowed = magnitude = 0.0
    if expected.is_floating_point():
        allowed = tolerance or (1e-11 if expected.dtype == torch.float64 else 1e-5)
        magnitude = _largest(expected, torch.zeros_like(expected))
        if expected.numel() and not expected.isfinite().any():
            raise ExportError(
                f"the output `{name}` at {sizes} must have a finite value to be verified, "
                "got none; give an example of the kind of values that the target takes"
            )
    if not torch.allclose(got, expected, rtol=allowed, atol=allowed * magnitude, equal_nan=True):
        raise ExportError(
            f"the output `{name}` at {sizes} must equal eager's to {allowed:g}, "
            f"got an error of {_largest(got, expected):.3g} at a magnitude of {magnitude:.3g}"
        )
    return _largest(got, expected)


def dtype_name(x: Tensor) -> str:
    """A dtype as numpy and the contract write it."""
    return str(x.dtype).removeprefix("torch.")


def _largest(got: Tensor, expected: Tensor) -> float:
    """The largest absolute difference of what is finite in both."""
    got, expected = got.double(), expected.double()
    difference = (got - expected)[got.isfinite() & expected.isfinite()].abs()
    return float(difference.max()) if difference.numel() else 0.0


def _latency_us(run: Callable[[], object], calls: int = 50) -> float:
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[calls // 2] * 1e6


@contextmanager
def _silent() -> Iterator[None]:
    """Without what a compiled package prints on the process's stderr when it refuses."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _fresh_inputs(
    example: Mapping[str, Tensor], sizes: dict[str, int], generator: Generator
) -> dict[str, Tensor]:
    new = list(sizes.values())
    return {
        name: _fresh(x, [*new[: x.dim()], *x.shape[len(new) :]], generator)
        for name, x in example.items()
    }


def _fresh(example: Tensor, shape: Sequence[int], generator: Generator) -> Tensor:
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
