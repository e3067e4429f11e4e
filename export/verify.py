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

from compiled_rl.export.errors import ExportError
from compiled_rl.export.subject import Subject
from compiled_rl.export.trials import CORNERS, Trial, fresh_inputs, nearby, try_eager

_OF_A_MOVE = 1e-2  # the error that is allowed of the largest change of a state


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


class Check(NamedTuple):
    """One size at which the file was compared.

    Attributes:
        sizes: of the axes that may change.
        max_error: the largest absolute error.
        latency_us: the median latency.
        ties: values that differ by more, where the last digits of the inputs decide.
    """

    sizes: dict[str, int]
    max_error: float
    latency_us: float
    ties: int


class Report(NamedTuple):
    """What was measured of an artefact before it was given its name."""

    path: Path
    bytes: int
    checks: list[Check]

    @property
    def max_error(self) -> float:
        """The largest absolute error at any size."""
        return max(check.max_error for check in self.checks)


def verify(
    model: Model, subject: Subject, trials: Sequence[Trial], tolerance: Optional[float]
) -> list[Check]:
    """Compare every output of the file with eager's; a ``Check`` a size, of those drawn for it.

    Args:
        model: the loaded file.
        subject: what it was made of.
        trials: what it must compute.
        tolerance: allowed error, relative to the output's largest magnitude; None: by its dtype.

    Raises:
        ExportError: the file's names are others, or an output differs, or is never finite.
    """
    inputs, outputs = list(subject.example), subject.outputs
    if model.inputs != inputs or model.outputs != outputs:
        raise ExportError(
            f"the file must have the inputs {inputs} and outputs {outputs}, "
            f"got {model.inputs} and {model.outputs}"
        )
    for name in outputs:
        if not any(_has_finite(trial.expected[name]) for trial in trials):
            raise ExportError(
                f"the output `{name}` must have a finite value to be verified, "
                "got none; give an example of the kind of values that the target takes"
            )
    checks = [_check(model, subject, trial, tolerance) for trial in trials]
    return checks[CORNERS:]


def _has_finite(x: Tensor) -> bool:
    return not x.is_floating_point() or not x.numel() or bool(x.isfinite().any())


def verify_bound(model: Model, subject: Subject) -> None:
    """See that the file itself refuses what is longer than its bound, where it would be wrong.

    Raises:
        ExportError: it does not.
    """
    axes = subject.axes
    if axes.max_time is None:
        return
    inputs = fresh_inputs(subject, axes.too_long(), Generator().manual_seed(0))
    try:
        with _silent():
            model.program(*inputs.values())
    except Exception:
        return
    raise ExportError(f"the file must refuse {axes.too_long()}, got an answer")


def _check(model: Model, subject: Subject, trial: Trial, tolerance: Optional[float]) -> Check:
    sizes, inputs, expected = trial
    with torch.no_grad():
        try:
            got = model(**inputs)
        except Exception as error:
            raise ExportError(f"the file must run at {sizes}, got: {_last_line(error)}") from error
        latency = _latency_us(lambda: model.program(*inputs.values()))
    for name, x in expected.items():
        _check_kind(name, got[name], x, sizes)
    before = {
        output: inputs[k] for k, output in subject.state.items() if output and k in subject.held
    }
    wrong = {k: _beyond(got[k], x, tolerance) for k, x in expected.items()}
    astray = {k: _astray(got[k], expected[k], x, tolerance) for k, x in before.items()}
    ties = {k: x | astray[k] if k in astray else x for k, x in wrong.items()}
    if any(bool(x.any()) for x in ties.values()):
        excused = _excused(subject, trial, got, tolerance is None)
        for name, x in wrong.items():
            if bool((x & ~excused[name]).any()):
                raise ExportError(_difference(name, got[name], expected[name], sizes, tolerance))
            if bool((ties[name] & ~excused[name]).any()):
                raise ExportError(
                    f"the output `{name}` at {sizes} must move as eager's, which moves by "
                    f"{_largest(expected[name], before[name]):.3g}, got an error of "
                    f"{_largest(got[name], expected[name]):.3g}"
                )
    errors = [_largest(got[k], x) for k, x in expected.items()]
    return Check(sizes, max(errors), latency, sum(int(x.sum()) for x in ties.values()))


def _check_kind(name: str, got: Tensor, expected: Tensor, sizes: dict[str, int]) -> None:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise ExportError(
            f"the output `{name}` at {sizes} must be {dtype_name(expected)} of shape "
            f"{list(expected.shape)}, got {dtype_name(got)} of shape {list(got.shape)}"
        )


def _astray(got: Tensor, expected: Tensor, before: Tensor, tolerance: Optional[float]) -> Tensor:
    """Where a state has not moved as eager's, by more than rounding.

    A learning rate may be so small that parameters that stay are within any tolerance.
    """
    if not expected.is_floating_point():
        return torch.zeros_like(expected, dtype=torch.bool)
    rounding = 4 * torch.finfo(expected.dtype).eps * expected.abs()
    allowed = max(_OF_A_MOVE, tolerance or 0.0) * _largest(expected, before)
    return (got - expected).abs() > rounding + allowed


def _beyond(got: Tensor, expected: Tensor, tolerance: Optional[float]) -> Tensor:
    """Where an output differs by more than is allowed, relative to its largest magnitude."""
    allowed = _allowed(expected, tolerance)
    magnitude = _magnitude(expected) if allowed else 0.0
    near = torch.isclose(got, expected, rtol=allowed, atol=allowed * magnitude, equal_nan=True)
    return ~near


def _allowed(x: Tensor, tolerance: Optional[float]) -> float:
    if not x.is_floating_point():
        return 0.0
    usual = 1e-11 if x.dtype == torch.float64 else 1e-5
    return usual if tolerance is None else tolerance


def _excused(
    subject: Subject, trial: Trial, got: Mapping[str, Tensor], floats: bool
) -> dict[str, Tensor]:
    """Where the last digits of the inputs decide: an argmax of a tie, what nearly cancels.

    Floats are excused where a user has set no tolerance.

    Eager itself, on inputs as near as rounding, gives the file's whole numbers there, or numbers
    that are as far apart as the file's and eager's.
    """
    generator = Generator().manual_seed(0)
    double = any(x.dtype == torch.float64 for x in trial.inputs.values())
    digits = 8 * torch.finfo(torch.float64 if double else torch.float32).eps
    near = [
        try_eager(
            subject,
            {k: nearby(x, generator, digits) for k, x in trial.inputs.items()},
            trial.sizes,
        )
        for _ in range(16)
    ]
    excused = {}
    for name, x in trial.expected.items():
        others = torch.stack([each.expected[name] for each in near])
        if x.is_floating_point():
            apart = (others - x).abs()
            apart = apart.where(apart.isfinite(), 0)  # beside what is infinite, all would be near
            excused[name] = ((got[name] - x).abs() <= 2 * apart.amax(0)) & floats
        else:
            excused[name] = (others == got[name]).any(0)
    return excused


def _difference(
    name: str, got: Tensor, x: Tensor, sizes: dict[str, int], tolerance: Optional[float]
) -> str:
    return (
        f"the output `{name}` at {sizes} must equal eager's to {_allowed(x, tolerance):g}, "
        f"got an error of {_largest(got, x):.3g} at a magnitude of {_magnitude(x):.3g}"
    )


def _magnitude(x: Tensor) -> float:
    return _largest(x, torch.zeros_like(x))


def _last_line(error: Exception) -> str:
    """What went wrong; a runtime of torch's shows where first."""
    return [line.strip() for line in str(error).splitlines() if line.strip()][-1]


def dtype_name(x: Tensor) -> str:
    """A dtype as numpy and the contract write it."""
    return str(x.dtype).removeprefix("torch.")


def _largest(got: Tensor, expected: Tensor) -> float:
    """The largest absolute difference of what is finite in both."""
    got, expected = got.double(), expected.double()
    difference = (got - expected)[got.isfinite() & expected.isfinite()].abs()
    return float(difference.max()) if difference.numel() else 0.0


def _latency_us(run: Callable[[], object], calls: int = 50, seconds: float = 0.1) -> float:
    """The median of as many calls, or of those that fit into the time."""
    times: list[float] = []
    while len(times) < calls and sum(times) < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] * 1e6


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
