"""How much of a GPU's bandwidth do the fused estimators reach, and how far is TorchRL?

The limit is a device copy that moves as many bytes as the estimator reads and writes: "times limit"
is the share of a copy's bandwidth. ``limit`` and ``ours`` are replayed from a CUDA graph, so that
what is timed is the device; ``ours, called`` and TorchRL's are called from Python, and on a small
batch that is what they wait for. Float32. A small batch stays in the device's cache, as does the
limit's.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import torch
import typer
from torch import Tensor
from torchrl.objectives.value import functional as torchrl

from benchmarks.timing import Row, save, show, summary
from compiled_rl.kernels import cuda
from compiled_rl.kernels.table import KERNELS

SHAPES = [(256, 1024), (4096, 128), (65536, 128)]
SCALARS = {"gae": (0.99, 0.95), "td_lambda_return": (0.99, 0.95), "vtrace": (0.99, 1.0, 1.0, 1.0)}
_SAMPLE_MILLISECONDS, _REPLAYED = 2.0, 20
Call = Callable[[], object]


class Contender(NamedTuple):
    """What is timed, and how many calls of it that is."""

    run: Call
    calls: int = 1


class Experience(NamedTuple):
    """What the estimators read, ``[B, T]`` or ``[T, B]``."""

    reward: Tensor
    value: Tensor
    next_value: Tensor
    terminated: Tensor
    done: Tensor
    log_prob: Tensor
    behavior_log_prob: Tensor


def main(quick: bool = False, json: Optional[Path] = None) -> None:
    """Print medians and shares of the limit for every estimator, time first and batch first."""
    if not (torch.cuda.is_available() and cuda.works()):
        print("There is no GPU that Triton can use here: nothing was measured.")
        return
    device, samples = torch.cuda.get_device_name(), 10 if quick else 40
    rows = [
        row
        for shape in (SHAPES[:1] if quick else SHAPES)
        for time_first in (True, False)
        for name in SCALARS
        for row in _rows(f"{name}, {device}", name, *shape, time_first, samples)
    ]
    show(f"Estimators, float32, {device} (batch x time)", rows, against="limit")
    save(json, rows)


def _rows(what: str, name: str, batch: int, time: int, time_first: bool, samples: int) -> list[Row]:
    data = experience(batch, time, time_first, "cuda")
    ours = fused(name, data, 0 if time_first else 1)
    contenders = {
        "limit": _replayed(_copy(traffic(name, data))),
        "ours": _replayed(ours),
        "ours, called": Contender(ours),
        **{key: Contender(run) for key, run in theirs(name, data, int(not time_first)).items()},
    }
    layout = "time first" if time_first else "batch first"
    return _measure(what, f"{name} {batch}x{time}, {layout}", contenders, samples)


def experience(batch: int, time: int, time_first: bool, device: str) -> Experience:
    """Episodes of 50 steps, half of which are truncated."""
    shape = (time, batch) if time_first else (batch, time)
    reals = [torch.randn(shape, device=device) for _ in range(5)]
    done = torch.rand(shape, device=device) < 0.02
    terminated = done & (torch.rand(shape, device=device) < 0.5)
    return Experience(*reals[:3], terminated, done, *reals[3:])


def inputs(name: str, data: Experience) -> Sequence[Tensor]:
    """What an estimator reads, in its order."""
    if name == "td_lambda_return":
        return data.reward, data.next_value, data.terminated, data.done
    return data[:5] if name == "gae" else data


def traffic(name: str, data: Experience) -> int:
    """The bytes that an estimator cannot but read and write."""
    outputs = [data.reward] * (1 if name == "td_lambda_return" else 2)
    return sum(x.numel() * x.element_size() for x in (*inputs(name, data), *outputs))


def fused(name: str, data: Experience, time_dim: int) -> Call:
    """Our kernel, its scalars on the device."""
    scalars = [data.reward.new_tensor(scalar) for scalar in SCALARS[name]]
    return lambda: cuda.fused(KERNELS[name], inputs(name, data), scalars, None, time_dim)


def theirs(name: str, data: Experience, time_dim: int) -> dict[str, Call]:
    """TorchRL's loop, and its vectorised form where it has one; they want a trailing one."""
    d = Experience(*[x.unsqueeze(-1) for x in data])
    values, flags = (d.next_value, d.reward), (d.done, d.terminated)
    if name == "vtrace":
        forms = [torchrl.vtrace_advantage_estimate]
        arguments = (0.99, d.log_prob, d.behavior_log_prob, d.value, *values, *flags, 1.0, 1.0)
    elif name == "gae":
        forms = [torchrl.generalized_advantage_estimate, torchrl.vec_generalized_advantage_estimate]
        arguments = (0.99, 0.95, d.value, *values, *flags)
    else:
        forms = [torchrl.td_lambda_return_estimate, torchrl.vec_td_lambda_return_estimate]
        arguments = (0.99, 0.95, *values, *flags)
    calls = [_with(form, arguments, time_dim) for form in forms]
    return dict(zip(["torchrl", "torchrl, vectorised"], calls, strict=False))


def _with(function: Callable[..., object], arguments: tuple, time_dim: int) -> Call:
    # By keyword: by position TorchRL's V-trace takes another axis for time.
    return lambda: function(*arguments, time_dim=time_dim)


def _copy(moved: int) -> Call:
    """A copy that reads one half of the bytes and writes the other."""
    source = torch.empty(moved // 2, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _replayed(call: Call) -> Contender:
    """Several calls as one CUDA graph: nothing but the device's own time."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_REPLAYED):
            call()
    return Contender(graph.replay, _REPLAYED)


def _measure(what: str, shape: str, contenders: Mapping[str, Contender], samples: int) -> list[Row]:
    """As ``timing.measure``, by the device's clock."""
    contenders = {name: one for name, one in contenders.items() if _fits(shape, name, one.run)}
    repeats = {name: _repeats(contender.run) for name, contender in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(samples):
        for name, (run, calls) in contenders.items():
            times[name].append(_milliseconds(run, repeats[name]) * 1e-3 / calls)
    return [summary(what, name, shape, taken) for name, taken in times.items()]


def _fits(shape: str, name: str, run: Call) -> bool:
    """Run it once; TorchRL's vectorised forms take far more memory than they are given."""
    try:
        run()
    except torch.OutOfMemoryError:
        print(f"{name} ran out of the device's memory at {shape}.")
        return False
    return True


def _repeats(run: Call) -> int:
    run()
    return max(1, int(_SAMPLE_MILLISECONDS / _milliseconds(run, 1)))


def _milliseconds(run: Call, repeats: int) -> float:
    """Of one run; the device is idle before and after."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats


if __name__ == "__main__":
    typer.run(main)
