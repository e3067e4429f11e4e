"""How far are the estimators from the memory limit, and from TorchRL?

The limit is one elementwise pass in machine code over the same memory as GAE's: three float arrays
and two flags in, two float arrays out. Like the estimators it returns new tensors: two calls of
``torch.empty_like``, and one of a loop by its address. V-trace and the lambda return are compared
with GAE by the byte that they read and write.
"""

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
import typer
from numba import cfunc, types
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchrl.objectives.value.functional import (
    generalized_advantage_estimate,
    vec_generalized_advantage_estimate,
)

from benchmarks.timing import Row, measure, one_thread, save, show, summary
from compiled_rl.functional import gae, td_lambda_return, vtrace

SHAPES = [(64, 128), (1024, 16), (4096, 32), (256, 1024), (16, 8192), (1, 100_000)]
BACKWARD_SHAPES = [(64, 128), (256, 1024)]
# Bytes a step: floats and flags in, floats out.
BYTES = {"gae": 3 * 4 + 2 + 2 * 4, "td_lambda_return": 2 * 4 + 2 + 4, "vtrace": 5 * 4 + 2 + 2 * 4}
Call = Callable[[], object]


class Experience(NamedTuple):
    """What the estimators read."""

    reward: Tensor
    value: Tensor
    next_value: Tensor
    terminated: Tensor
    done: Tensor
    log_prob: Tensor
    behavior_log_prob: Tensor


def main(quick: bool = False, json: Optional[Path] = None) -> None:
    """Print medians and ratios, float32, time first and batch first."""
    one_thread()
    samples = 20 if quick else 60
    shapes = [SHAPES[0], SHAPES[3]] if quick else SHAPES
    forward = [row for shape in shapes for row in _forward(*shape, samples)]
    peers = [row for shape in shapes for row in _peers(*shape, 3 if quick else 7)]
    backward = [row for shape in BACKWARD_SHAPES for row in _backward(*shape, samples)]
    first = _first_call(3 if quick else 7)
    gae_rows = [row for row in forward if row.what == "gae"]
    show("GAE, float32, one thread (batch x time)", gae_rows, against="limit")
    _show_peers(gae_rows, peers)
    _show_by_the_byte(forward)
    show("GAE with a gradient", backward, against="fused")
    show("The first call in a fresh process, Numba imported", [first], against=first.contender)
    save(json, [*forward, *peers, *backward, first])


def _forward(batch: int, time: int, samples: int) -> list[Row]:
    time_first = _experience(time, batch)
    batch_first = Experience(*[x.T.contiguous() for x in time_first])
    shape = f"{batch}x{time}"
    rows = []
    for name in BYTES:
        contenders: dict[str, Call] = {"limit": _limit(time_first)} if name == "gae" else {}
        contenders["ours, time first"] = _ours(name, time_first, 0)
        contenders["ours, batch first"] = _ours(name, batch_first, 1)
        rows += measure(name, shape, contenders, samples)
    return rows


def _ours(name: str, x: Experience, time_dim: int) -> Call:
    flags = (x.terminated, x.done)
    if name == "gae":
        return lambda: gae(*x[:5], 0.99, 0.95, time_dim=time_dim)
    if name == "td_lambda_return":
        return lambda: td_lambda_return(
            x.reward, x.next_value, *flags, 0.99, 0.95, time_dim=time_dim
        )
    return lambda: vtrace(*x, 0.99, time_dim=time_dim)


def _peers(batch: int, time: int, samples: int) -> list[Row]:
    """TorchRL's two, apart from the others: the vectorised one allocates what all would feel."""
    time_first = _experience(time, batch)
    batch_first = Experience(*[x.T.contiguous() for x in time_first])
    contenders = {
        "torchrl, loop": _torchrl(generalized_advantage_estimate, time_first, time_dim=0),
        "torchrl, vectorised": _torchrl(vec_generalized_advantage_estimate, batch_first, 1),
    }
    return measure("gae", f"{batch}x{time}", contenders, samples)


def _torchrl(function: Callable[..., object], x: Experience, time_dim: int) -> Call:
    """TorchRL's functions want a trailing one; the loop is faster time first, as ours is timed."""
    reward, value, next_value, terminated, done = (x.unsqueeze(-1) for x in x[:5])
    return lambda: function(
        0.99, 0.95, value, next_value, reward, done, terminated, time_dim=time_dim
    )


def _backward(batch: int, time: int, samples: int) -> list[Row]:
    x = _experience(time, batch)
    value = x.value.clone().requires_grad_()

    def composed() -> Tensor:
        return gae(x.reward, value, *x[2:5], 0.99, 0.95, time_dim=0).advantage

    advantage, grad = composed(), torch.ones_like(x.reward)
    contenders: dict[str, Call] = {
        "fused": _ours("gae", x, 0),
        "forward, composed": composed,
        "backward": lambda: torch.autograd.grad(advantage, value, grad, retain_graph=True),
    }
    return measure("gae backward", f"{batch}x{time}", contenders, samples)


_FIRST_CALL = """
import time, torch, numba
from compiled_rl.functional import gae
x, flag = torch.randn(64, 128), torch.zeros(64, 128, dtype=torch.bool)
start = time.perf_counter()
gae(x, x, x, flag, flag)
print(time.perf_counter() - start)
"""


def _first_call(samples: int) -> Row:
    """With a warm cache: the first process of all is not counted."""
    command = [sys.executable, "-c", _FIRST_CALL]
    taken = [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(samples + 1)
    ]
    return summary("first call", "ours", "64x128", taken[1:])


def _experience(time: int, batch: int) -> Experience:
    reals = [torch.randn(time, batch) for _ in range(5)]
    done = torch.rand(time, batch) < 0.02
    terminated = done & (torch.rand(time, batch) < 0.5)
    return Experience(*reals[:3], terminated, done, *reals[3:])


_POINTER = types.CPointer(types.float32)
_FLAGS = types.CPointer(types.uint8)
_SIGNATURE = types.void(*[_POINTER] * 3, *[_FLAGS] * 2, *[_POINTER] * 2, types.int64)


@cfunc(_SIGNATURE, error_model="numpy", nogil=True)
def _elementwise(a, b, c, flag, other, x, y, size):
    for i in range(size):
        x[i] = a[i] + b[i] * c[i] + types.float32(flag[i])
        y[i] = a[i] - b[i] * types.float32(other[i])


def _limit(inputs: Experience) -> Call:
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 7, ctypes.c_int64)
    loop: Any = prototype(_elementwise.address)
    like = inputs.reward

    def run() -> tuple[Tensor, Tensor]:
        x, y = torch.empty_like(like), torch.empty_like(like)
        loop(*[tensor.data_ptr() for tensor in (*inputs[:5], x, y)], like.numel())
        return x, y

    return run


def _show_peers(ours: list[Row], peers: list[Row]) -> None:
    table = Table("shape", "torchrl, loop", "torchrl, vectorised", "ours, time first", "times best")
    table.title = "GAE against the faster of TorchRL's"
    for shape in dict.fromkeys(row.shape for row in peers):
        theirs = [row.median_us for row in peers if row.shape == shape]
        (mine,) = [
            row.median_us
            for row in ours
            if (row.shape, row.contender) == (shape, "ours, time first")
        ]
        cells = [f"{x:,.0f} us" for x in theirs] + [f"{mine:,.1f} us"]
        table.add_row(shape, *cells, f"{min(theirs) / mine:.1f}")
    Console().print(table)


def _show_by_the_byte(rows: list[Row]) -> None:
    table = Table("shape", "layout", *[name for name in BYTES if name != "gae"])
    table.title = "Cost of a byte, as a multiple of GAE's"
    for shape in dict.fromkeys(row.shape for row in rows):
        for layout in ("ours, time first", "ours, batch first"):
            cost = {
                row.what: row.median_us / BYTES[row.what]
                for row in rows
                if (row.shape, row.contender) == (shape, layout)
            }
            others = [f"{cost[name] / cost['gae']:.2f}" for name in BYTES if name != "gae"]
            table.add_row(shape, layout, *others)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
