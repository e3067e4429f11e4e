"""How long a file takes, a call: the median and the slowest of a hundred, and against eager."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple, Optional

import numpy as np

from compiled_rl.export.errors import said
from compiled_rl.export.stored import read_contract

Arrays = dict[str, np.ndarray]
Contender = Callable[[], object]

_BURST, _BURSTS, _FEWEST = 2e-3, 100, 20


class Latency(NamedTuple):
    """What one contender took at one size.

    Attributes:
        sizes: of the axes that may change.
        contender: a runtime, or ``eager``.
        calls: that were timed.
        median_us: of a call.
        p99_us: that a call in a hundred exceeds.
        times_eager: how many times as fast as eager it is, where that was timed in turns.
    """

    sizes: dict[str, int]
    contender: str
    calls: int
    median_us: float
    p99_us: float
    times_eager: Optional[float] = None


def sizes_of(
    contract: Mapping[str, Any], batches: Sequence[int], length: int
) -> list[dict[str, int]]:
    """The sizes to time: ``batch`` is swept, or the first axis, and the others are ``length``."""
    axes = contract["dynamic"]
    swept = "batch" if "batch" in axes else axes[0] if axes else None
    rows = [{axis: batch if axis == swept else length for axis in axes} for batch in batches]
    limits = contract["max"]
    bounded = [{k: min(size, limits.get(k, size)) for k, size in row.items()} for row in rows]
    return [row for k, row in enumerate(bounded) if row not in bounded[:k]]


def draw_inputs(contract: Mapping[str, Any], sizes: Mapping[str, int], seed: int = 0) -> Arrays:
    """Inputs of the kind that a contract describes, by name.

    Floats are uniform where they have a range, as their noise says, or else standard normal; whole
    numbers are 0 or 1, and what the caller carries is zero, as it is at first.
    """
    generator = np.random.default_rng(seed)
    return {
        entry["name"]: _drawn(entry, sizes, entry["name"] in contract["state"], generator)
        for entry in contract["inputs"]
    }


def _drawn(
    entry: Mapping[str, Any],
    sizes: Mapping[str, int],
    carried: bool,
    generator: np.random.Generator,
) -> np.ndarray:
    shape = [sizes.get(axis, axis) for axis in entry["shape"]]
    dtype = np.dtype(entry["dtype"])
    if carried:
        return np.zeros(shape, dtype)
    if dtype.kind != "f":
        return generator.integers(0, 2, shape).astype(dtype)
    if entry.get("noise") == "uniform":
        return generator.random(shape).astype(dtype)
    if entry.get("low") is not None and entry.get("high") is not None:
        return generator.uniform(entry["low"], entry["high"], shape).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)


def onnx_contenders(path: Path, inputs: Arrays, threads: int) -> dict[str, Contender]:
    """The file in ONNX Runtime, called with arrays, and on memory that is bound once."""
    import onnxruntime

    from compiled_rl.export.session import failed

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    try:
        outputs = session.run(names, inputs)
    except Exception as error:
        raise failed(error) from None
    bound = session.io_binding()
    for name, x in inputs.items():
        bound.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(x))
    for name, x in zip(names, outputs, strict=True):
        bound.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(x))
    return {
        "onnxruntime": lambda: session.run(names, inputs),
        "onnxruntime, bound": lambda: session.run_with_iobinding(bound),
    }


def torch_contenders(
    inputs: Arrays, programs: Mapping[str, Callable[..., object]]
) -> dict[str, Contender]:
    """Programs of tensors, by name."""
    import torch

    tensors = [torch.from_numpy(x) for x in inputs.values()]
    return {name: partial(run, *tensors) for name, run in programs.items()}


def measure(sizes: dict[str, int], contenders: Mapping[str, Contender]) -> list[Latency]:
    """Time every contender; they take turns, in bursts whose first call is not counted."""
    calls = {name: _calls(sizes, name, run) for name, run in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(_BURSTS):
        for name, run in contenders.items():
            if calls[name] > 1 or len(times[name]) < _FEWEST:
                times[name] += _burst(run, calls[name])
    rows = [_latency(sizes, name, taken) for name, taken in times.items()]
    return [
        row._replace(times_eager=eager.median_us / row.median_us)
        for row in rows
        for eager in rows
        if eager.contender == "eager"
    ] or rows


def _calls(sizes: dict[str, int], name: str, run: Contender) -> int:
    """As many as last a burst."""
    try:
        (*_, last) = _burst(run, 3)
    except Exception as error:
        raise ValueError(f"{name} must run at {sizes}, got: {said(error)}") from error
    return max(1, int(_BURST / last))


def _burst(run: Contender, calls: int) -> list[float]:
    run()
    taken = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def _latency(sizes: dict[str, int], name: str, taken: list[float]) -> Latency:
    p99 = quantiles(taken, n=100, method="inclusive")[98]
    return Latency(sizes, name, len(taken), median(taken) * 1e6, p99 * 1e6)


def time_artefact(
    path: Path,
    batches: Sequence[int] = (1, 64, 4096),
    length: int = 16,
    threads: int = 1,
    eager: Optional[Callable[..., object]] = None,
) -> list[Latency]:
    """The latency of a file in its runtime, and of eager in turns with it.

    Args:
        path: of the file.
        batches: the sizes of ``batch``, or of the first axis that may change.
        length: of every other axis that may change.
        threads: that a call may use.
        eager: what computes the same, of tensors in the order of the file's inputs.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptedError: the file is damaged, or none that can be run.
        ValueError: it cannot be run here, or at these sizes.
    """
    contract = read_contract("time_artefact", path)
    programs: dict[str, Callable[..., object]] = {} if eager is None else {"eager": eager}
    is_onnx = contract["format"] == "onnx"
    if not is_onnx:
        from compiled_rl.export.again import load_artefact

        programs = {contract["format"]: load_artefact(path).program} | programs
    rows = []
    with _torch_at_rest(threads) if programs else nullcontext():
        for sizes in sizes_of(contract, batches, length):
            inputs = draw_inputs(contract, sizes)
            contenders = onnx_contenders(path, inputs, threads) if is_onnx else {}
            contenders |= torch_contenders(inputs, programs) if programs else {}
            rows += measure(sizes, contenders)
    return rows


def _torch_at_rest(threads: int) -> AbstractContextManager[None]:
    """Torch with so many threads, and without gradients."""
    import torch

    torch.set_num_threads(threads)
    return torch.no_grad()
