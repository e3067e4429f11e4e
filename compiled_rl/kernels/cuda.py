"""The Triton kernels on tensors: layout, the shape of a tile, and the launch.

Forward only, one launch a call, nothing is copied whatever the layout, and no value of a tensor is
asked for.
"""

import math
import warnings
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from compiled_rl.kernels.doubling import plain_recurrence
from compiled_rl.kernels.layout import Axis, merge
from compiled_rl.kernels.table import Kernel

# The elements of a tile: eight a thread, in four warps or, where programs are few, in 16.
_SMALL, _LARGE, _PER_WARP = 1024, 4096, 256
# A device has about so many processors to keep busy.
_PROGRAMS = 128
# So many neighbouring floats fill one transaction with memory; so many are comfortable.
_NARROW, _WIDE = 8, 32


def linear_recurrence(x: Tensor, decay: Tensor, time_dim: int, reverse: bool) -> Tensor:
    """The operator ``compiled_rl::linear_recurrence`` on CUDA.

        y[t] = x[t] + decay[t] * y[t + 1]        (reverse)
        y[t] = x[t] + decay[t] * y[t - 1]        (not reverse)

    Args:
        x: ``[*B, T]``; half precision is computed in float32.
        decay: of ``x``'s shape and dtype; not read at the step that the recurrence starts from.
        time_dim: the time axis.
        reverse: whether time runs backwards.

    Returns:
        ``y``, laid out as ``x``.
    """
    if not works():
        return plain_recurrence(x, decay, time_dim, reverse)
    y = torch.empty_like(x)
    _launch("recurrence", (x, decay), (y,), (), time_dim, reverse)
    return y


def fused(
    kernel: Kernel,
    tensors: Sequence[Tensor],
    scalars: Sequence[float | Tensor],
    mask: Optional[Tensor],
    time_dim: int,
) -> tuple[Tensor, ...]:
    """A fused estimator on CUDA, its arguments checked.

    Args:
        kernel: which one.
        tensors: ``[*B, T]`` each; half precision is computed in float32.
        scalars: floats, or 0-d tensors on the same device.
        mask: valid steps, bool ``[*B, T]``; others come out as zero, cut the trace, and may hold
            NaN.
        time_dim: the time axis.

    Returns:
        The outputs, laid out as the first of the tensors.
    """
    like = tensors[0]
    outputs = tuple([torch.empty_like(like) for _ in range(kernel.outputs)])
    # A float of Triton's is a single; and to fill a tensor does not wait for the device.
    values = tuple(
        [
            scalar if isinstance(scalar, Tensor) else like.new_full([], scalar, dtype=_real(like))
            for scalar in scalars
        ]
    )
    _launch(kernel.name, (*tensors, mask), outputs, values, time_dim, True)
    return outputs


@cache
def works() -> bool:
    """Launch a first kernel; where that fails, say so once."""
    try:
        # Also asked while a graph is traced, where tensors are not real ones.
        with _disable_current_modes():
            one = torch.ones(1, device="cpu" if _interpreted() else "cuda")
            _launch("recurrence", (one, one), (one.clone(),), (), 0, True)
    except Exception as error:
        warnings.warn(
            f"compiled_rl: Triton cannot run here ({error!r}); the slower torch form is used",
            stacklevel=2,
        )
        return False
    return True


@cache
def _blocks() -> Any:
    """The kernels; with them comes Triton."""
    return import_module("compiled_rl.kernels.blocks")


def _interpreted() -> bool:
    """Whether the kernels run on CPU tensors, in Triton's interpreter."""
    blocks = _blocks()
    return not isinstance(blocks.walk, blocks.triton.JITFunction)


def _real(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _launch(
    name: str,
    inputs: tuple[Optional[Tensor], ...],
    outputs: tuple[Tensor, ...],
    scalars: tuple[Tensor, ...],
    time_dim: int,
    reverse: bool,
) -> None:
    """One launch of the estimator, on the device and the stream of its tensors."""
    blocks, like = _blocks(), outputs[0]
    if like.numel() == 0:
        return
    tensors = [x for x in (*inputs, *outputs) if x is not None]
    walk = plan(like.shape, tuple([x.stride() for x in tensors]), time_dim)
    placed = [(x, *strides) for x, strides in zip(tensors, walk.strides, strict=True)]
    read = len(placed) - len(outputs)
    absent = (None,) * (len(inputs) - read)
    with torch.cuda.device_of(like):
        blocks.walk[(walk.programs,)](
            *blocks.ESTIMATORS[name],
            (*placed[:read], *absent),
            tuple(placed[read:]),
            scalars,
            walk.extent,
            blocks.tl.float64 if like.dtype == torch.float64 else blocks.tl.float32,
            reverse,
            walk.lanes,
            walk.steps,
            num_warps=walk.warps,
            enable_fp_fusion=True,
        )


class Walk(NamedTuple):
    """How the kernel goes over tensors of one layout."""

    programs: int
    lanes: int  # of a tile
    steps: int  # of a tile
    warps: int
    extent: tuple[int, int, tuple[int, ...]]  # lanes in all, steps in all, inner batch sizes
    strides: list[tuple[int, tuple[int, ...]]]  # a tensor: of time, of the batch axes


@lru_cache(maxsize=4096)
def plan(shape: tuple[int, ...], strides: tuple[tuple[int, ...], ...], time_dim: int) -> Walk:
    """The walk over tensors of one shape; the last of them, an output, decides the order.

    Batch axes are merged as far as *all* tensors allow; the kernel finds its way in the rest.
    """
    axes = [Axis(size, step) for size, step in zip(shape, zip(*strides, strict=True), strict=True)]
    time = axes.pop(time_dim)
    batch = merge(axes)[::-1] or [Axis(1, (0,) * len(strides))]
    count = math.prod(axis.size for axis in batch)
    along = time.strides[-1] < batch[0].strides[-1] or count == 1
    lanes, steps = _tile(count, time.size, along)
    sizes = tuple(axis.size for axis in batch[:-1])
    steps_of_batch = zip(*[axis.strides for axis in batch], strict=True)
    return Walk(
        programs=-(-count // lanes),
        lanes=lanes,
        steps=steps,
        warps=max(1, lanes * steps // _PER_WARP),
        extent=(count, time.size, sizes),
        strides=list(zip(time.strides, steps_of_batch, strict=True)),
    )


def _tile(batch: int, time: int, along: bool) -> tuple[int, int]:
    """Lanes and steps of a tile, both powers of two.

    Along time a tile takes as much of a row as it can. Across the batch it takes as few lanes as
    the memory bears, so that there are programs enough, and fills up with steps.
    """
    lanes = max(1, _SMALL // _power(time)) if along else _WIDE
    while not along and lanes > _NARROW and batch < lanes * _PROGRAMS:
        lanes //= 2
    lanes = min(lanes, _power(batch))
    room = _SMALL if batch >= lanes * _PROGRAMS else _LARGE
    return lanes, min(_power(time), room // lanes)


def _power(n: int) -> int:
    """The power of two at or above."""
    return 1 << max(0, n - 1).bit_length()
