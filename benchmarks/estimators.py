"""How far is GAE from the memory limit, and from TorchRL's loop?

The limit is one elementwise pass in machine code (Numba) that reads and writes the same bytes as
GAE: three float arrays and two flags in, two float arrays out, the outputs' allocation included.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Optional

import numba
import numpy as np
import torch
import typer
from torch import Tensor
from torchrl.objectives.value.functional import (
    generalized_advantage_estimate,
    vec_generalized_advantage_estimate,
)

from benchmarks.timing import Row, measure, one_thread, save, show
from compiled_rl.functional import gae

SHAPES = [(64, 128), (1024, 16), (4096, 32), (256, 1024), (16, 8192)]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def main(quick: bool = False, json: Optional[Path] = None) -> None:
    """Print medians and ratios for GAE, float32, time first and batch first."""
    one_thread()
    shapes = [SHAPES[0], SHAPES[3]] if quick else SHAPES
    rows = [row for shape in shapes for row in _rows(*shape, samples=20 if quick else 60)]
    show("GAE, float32, one thread (batch x time)", rows, against="torchrl")
    save(json, rows)


def _rows(batch: int, time: int, samples: int) -> list[Row]:
    time_first = _inputs(time, batch)
    batch_first = tuple(x.T.contiguous() for x in time_first)
    contenders = {
        "limit": _limit(time_first),
        "ours, time first": lambda: gae(*time_first, 0.99, 0.95, time_dim=0),
        "ours, batch first": lambda: gae(*batch_first, 0.99, 0.95),
        "torchrl": _torchrl(generalized_advantage_estimate, time_first, time_dim=0),
    }
    rows = measure("gae", f"{batch}x{time}", contenders, samples)
    # Apart, and last: it allocates hundreds of megabytes, which every other contender would feel.
    vectorised = _torchrl(vec_generalized_advantage_estimate, batch_first)
    return rows + measure("gae", f"{batch}x{time}", {"torchrl, vectorised": vectorised}, 5)


def _inputs(time: int, batch: int) -> Inputs:
    reward, value, next_value = torch.randn(3, time, batch).unbind()
    done = torch.rand(time, batch) < 0.02
    terminated = done & (torch.rand(time, batch) < 0.5)
    return reward.clone(), value.clone(), next_value.clone(), terminated, done


def _torchrl(
    function: Callable[..., object], inputs: Inputs, time_dim: int = 1
) -> Callable[[], object]:
    """TorchRL's functions want a trailing one; the loop is faster time first, as ours is timed."""
    reward, value, next_value, terminated, done = (x.unsqueeze(-1) for x in inputs)
    return lambda: function(
        0.99, 0.95, value, next_value, reward, done, terminated, time_dim=time_dim
    )


def _limit(inputs: Inputs) -> Callable[[], object]:
    arrays = [x.numpy().view(np.uint8) if x.dtype == torch.bool else x.numpy() for x in inputs]
    return lambda: _elementwise(*[x.ravel() for x in arrays])


@numba.njit(error_model="numpy")
def _elementwise(a, b, c, flag, other):
    x, y = np.empty_like(a), np.empty_like(a)
    for i in range(a.size):
        x[i] = a[i] + b[i] * c[i] + np.float32(flag[i])
        y[i] = x[i] - b[i] * np.float32(other[i])
    return x, y


if __name__ == "__main__":
    typer.run(main)
