"""How far are the estimators from the memory limit, and from TorchRL?

The limit is what any implementation must pay that returns tensors: two ``torch.empty_like``, and
one elementwise pass in machine code, called by address on their data, that reads and writes the
same bytes as GAE: three float arrays and two flags in, two float arrays out.
"""

import ctypes
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Optional

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

from benchmarks.timing import Row, measure, one_thread, save
from compiled_rl.functional import gae
from compiled_rl.kernels import fused

SHAPES = [(64, 128), (1024, 16), (4096, 32), (256, 1024), (16, 8192), (1, 100_000)]
# What an element costs at least: bytes of its reals and of its flags, read and written.
BYTES = {"gae": 5 * 4 + 2, "td_lambda": 3 * 4 + 2, "vtrace": 7 * 4 + 2}
SCALARS = {"td_lambda": (0.99, 0.95), "vtrace": (0.99, 0.95, 1.0, 1.0)}
Inputs = tuple[Tensor, ...]
Contenders = dict[tuple[str, str], Callable[[], object]]


def main(quick: bool = False, json: Optional[Path] = None) -> None:
    """Print medians and ratios, float32, one thread, time first and batch first."""
    one_thread()
    shapes = [SHAPES[0], SHAPES[3]] if quick else SHAPES
    rows = [row for shape in shapes for row in _rows(*shape, samples=20 if quick else 60)]
    rows += _first_call(3 if quick else 9)
    _show_medians(rows)
    _show_ratios(rows, [_name(*shape) for shape in shapes])
    save(json, rows)


def _rows(batch: int, time: int, samples: int) -> list[Row]:
    torch.manual_seed(0)
    time_first = _inputs(time, batch)
    batch_first = {name: tuple(x.T.contiguous() for x in xs) for name, xs in time_first.items()}
    steps = time_first["gae"]
    contenders: Contenders = {("gae", "limit"): _limit(steps)}
    for layout, inputs, axis in (("time first", time_first, 0), ("batch first", batch_first, 1)):
        contenders |= _ours(layout, inputs, axis)
    contenders |= _differentiated(steps)
    rows = _measured(_name(batch, time), contenders, samples)
    # Apart and last: they allocate hundreds of megabytes, which every other contender would feel.
    columns = [x.unsqueeze(-1) for x in steps]
    return rows + _measured(_name(batch, time), _torchrl(columns), 5)


def _name(batch: int, time: int) -> str:
    return f"{batch}x{time}"


def _inputs(time: int, batch: int) -> dict[str, Inputs]:
    reward, value, next_value, log_prob, behavior = torch.randn(5, time, batch).unbind()
    done = torch.rand(time, batch) < 0.02
    terminated = done & (torch.rand(time, batch) < 0.5)
    steps = (reward.clone(), value.clone(), next_value.clone(), terminated, done)
    policies = (log_prob / 10, behavior / 10)
    return {
        "gae": steps,
        "td_lambda": (steps[0], *steps[2:]),
        "vtrace": (*steps, *policies),
    }


def _ours(layout: str, inputs: dict[str, Inputs], axis: int) -> Contenders:
    contenders: Contenders = {
        ("gae", f"ours, {layout}"): lambda: gae(*inputs["gae"], 0.99, 0.95, time_dim=axis)
    }
    for name, scalars in SCALARS.items():
        contenders[name, f"ours, {layout}"] = lambda name=name, scalars=scalars: fused(
            name, inputs[name], scalars, None, axis
        )
    return contenders


def _differentiated(steps: Inputs) -> Contenders:
    """Tier 1, time first, with gradients to the values, in two halves."""
    value = steps[1].clone().requires_grad_()
    inputs = (steps[0], value, *steps[2:])
    advantage = gae(*inputs, 0.99, 0.95, time_dim=0).advantage
    ones = torch.ones_like(advantage)
    return {
        ("gae, forward for a gradient", "ours, time first"): lambda: gae(
            *inputs, 0.99, 0.95, time_dim=0
        ),
        ("gae, backward", "ours, time first"): lambda: torch.autograd.grad(
            advantage, value, ones, retain_graph=True
        ),
    }


def _torchrl(columns: list[Tensor]) -> Contenders:
    """TorchRL's functions want a trailing one; each is given the layout that it is faster in."""
    reward, value, next_value, terminated, done = columns
    loop = (value, next_value, reward, done, terminated)
    vectorised = tuple(x.transpose(0, 1).contiguous() for x in loop)
    return {
        ("gae", "torchrl"): lambda: generalized_advantage_estimate(0.99, 0.95, *loop, time_dim=0),
        ("gae", "torchrl, vectorised"): lambda: vec_generalized_advantage_estimate(
            0.99, 0.95, *vectorised, time_dim=1
        ),
    }


def _measured(shape: str, contenders: Contenders, samples: int) -> list[Row]:
    rows = measure("", shape, {"/".join(key): run for key, run in contenders.items()}, samples)
    return [
        row._replace(what=what, contender=contender)
        for row, (what, contender) in zip(rows, contenders, strict=True)
    ]


def _limit(inputs: Inputs) -> Callable[[], object]:
    pass_over = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * 7)(_elementwise.address)

    def run() -> tuple[Tensor, Tensor]:
        x, y = torch.empty_like(inputs[0]), torch.empty_like(inputs[0])
        pass_over(x.numel(), *[z.data_ptr() for z in inputs], x.data_ptr(), y.data_ptr())
        return x, y

    return run


_REALS, _BYTES = types.CPointer(types.float32), types.CPointer(types.uint8)


@cfunc(types.void(types.int64, *[_REALS] * 3, *[_BYTES] * 2, *[_REALS] * 2), error_model="numpy")
def _elementwise(n, a, b, c, flag, other, x, y):
    for i in range(n):
        x[i] = a[i] + b[i] * c[i] + types.float32(flag[i])
        y[i] = x[i] - b[i] * types.float32(other[i])


_FIRST_CALL = """
import time
import torch
x = torch.randn(128, 64)
flag = x > 2
start = time.perf_counter()
import numba
middle = time.perf_counter()
from compiled_rl.functional import gae
gae(x, x, x, flag, flag, time_dim=0)
print(middle - start, time.perf_counter() - middle)
"""


def _first_call(processes: int) -> list[Row]:
    """A fresh process with a warm cache: Numba's own import, and what comes on top of it."""
    command = [sys.executable, "-c", _FIRST_CALL]
    runs = [
        [float(x) * 1e6 for x in subprocess.check_output(command, text=True).split()]
        for _ in range(processes + 1)
    ]
    names = ("numba's import", "ours, beyond it")
    rows = []
    for contender, taken in zip(names, zip(*runs[1:], strict=True), strict=True):
        low, median, high = statistics.quantiles(taken, n=4)
        rows.append(Row("first call", contender, _name(*SHAPES[0]), median, high - low))
    return rows


# ---- tables --------------------------------------------------------------------------------------


def _show_medians(rows: list[Row]) -> None:
    table = Table(title="float32, one thread (batch x time), median us (interquartile range)")
    shapes = list(dict.fromkeys(row.shape for row in rows))
    for column in ("what", "contender", *shapes):
        table.add_column(column, justify="left" if column in ("what", "contender") else "right")
    cells = {(row.what, row.contender, row.shape): row for row in rows}
    for what, contender in dict.fromkeys((row.what, row.contender) for row in rows):
        found = [cells.get((what, contender, shape)) for shape in shapes]
        texts = [f"{row.median_us:.1f} ({row.iqr_us:.1f})" if row else "" for row in found]
        table.add_row(what, contender, *texts)
    Console(width=160).print(table)


def _show_ratios(rows: list[Row], shapes: list[str]) -> None:
    table = Table(title="ratios")
    for column in ("ratio", *shapes):
        table.add_column(column, justify="left" if column == "ratio" else "right")
    columns = [ratios(rows, shape) for shape in shapes]
    for name in columns[0]:
        table.add_row(name, *[f"{column[name]:.2f}" for column in columns])
    Console(width=160).print(table)


def ratios(rows: list[Row], shape: str) -> dict[str, float]:
    """The ratios of a shape's medians that this benchmark is about."""
    us = {(row.what, row.contender): row.median_us for row in rows if row.shape == shape}
    first, limit = us["gae", "ours, time first"], us["gae", "limit"]
    best = min(us["gae", "torchrl"], us["gae", "torchrl, vectorised"])
    found = {"gae, time first, times TorchRL's best": best / first}
    for layout in ("ours, time first", "ours, batch first"):
        found[f"gae, {layout[6:]}: the limit's time, times"] = us["gae", layout] / limit
    for name in SCALARS:
        for layout in ("ours, time first", "ours, batch first"):
            cost = us[name, layout] / BYTES[name]
            found[f"{name}, {layout[6:]}: GAE's cost for a byte, times"] = cost / (
                us["gae", layout] / BYTES["gae"]
            )
    for half in ("gae, forward for a gradient", "gae, backward"):
        found[f"{half}: the fused forward's time, times"] = us[half, "ours, time first"] / first
    return found


if __name__ == "__main__":
    typer.run(main)
