"""How a loop walks over tensors of any layout without copying one.

The batch axes are merged as far as *all* tensors allow, and what remains is laid out as
``[page, line, item]`` (see ``loops``). More axes than that, which takes a sliced and permuted
tensor of four dimensions, become separate calls at other addresses.
"""

from collections.abc import Iterator
from ctypes import Array, addressof, c_int64
from functools import lru_cache
from itertools import product
from typing import NamedTuple

# The elements of a block, and of one of the four lines of a block of time: a block of every tensor
# fits in L1.
BLOCK, _STRETCH = 1024, 256
# Threads that write to one page of fresh memory wait for each other.
_MEMORY_PAGE = 1024
# Below so many neighbours in the batch a row of them is not worth a loop of its own.
_SHORT = 8


class Axis(NamedTuple):
    """One axis of several tensors: its size, its stride in each of them, and where it starts."""

    size: int
    strides: tuple[int, ...]
    first: int = 0


class Plan(NamedTuple):
    """What the loops need to know about a layout."""

    along: bool  # whether the items are time (else the lines are)
    shares: list[list[int]]  # for each thread, the addresses of the geometries that it walks over
    storage: list[list[Array[c_int64]]]  # keeps them alive


@lru_cache(maxsize=4096)
def plan(
    shape: tuple[int, ...], strides: tuple[tuple[int, ...], ...], time_dim: int, threads: int
) -> Plan:
    """The walk over tensors of one shape; the last of them, an output, decides the order.

    Args:
        shape: the shape of all tensors.
        strides: of each tensor, in elements.
        time_dim: the time axis.
        threads: how many at most share the work.
    """
    axes = [Axis(size, step) for size, step in zip(shape, zip(*strides, strict=True), strict=True)]
    time = axes.pop(time_dim)
    batch = merge(axes) or [Axis(1, (0,) * len(strides))]
    inner = batch[-1]
    along = time.strides[-1] < inner.strides[-1] or inner.size < _SHORT
    rows = _pop_longest(batch) if along else batch.pop()
    page = _pop_longest(batch) if batch else Axis(1, (0,) * len(strides))
    storage = []
    for part, lot in _share(page, rows, 4 if along else _MEMORY_PAGE, threads):
        walk = (part, lot, time) if along else (part, time, lot)
        storage.append([_pack(walk, starts) for starts in _starts((part, lot), batch)])
    return Plan(along, [[addressof(geometry) for geometry in share] for share in storage], storage)


def merge(axes: list[Axis]) -> list[Axis]:
    """As few axes as possible, outermost first, without those of size one."""
    merged: list[Axis] = []
    for axis in sorted(axes, key=lambda axis: axis.strides[-1], reverse=True):
        if axis.size == 1:
            continue
        if merged and _contiguous(merged[-1], axis):
            merged[-1] = Axis(merged[-1].size * axis.size, axis.strides)
        else:
            merged.append(axis)
    return merged


def _contiguous(outer: Axis, inner: Axis) -> bool:
    pairs = zip(outer.strides, inner.strides, strict=True)
    return all(above == below * inner.size for above, below in pairs)


def _pop_longest(axes: list[Axis]) -> Axis:
    return axes.pop(max(range(len(axes)), key=lambda k: axes[k].size))


def _share(page: Axis, rows: Axis, unit: int, threads: int) -> list[tuple[Axis, Axis]]:
    """The pages and the rows of each thread.

    Rows of time are shared by whole fours, as the loops take them: the numbers depend on it.
    """
    if page.size >= threads:
        return [(part, rows) for part in _split(page, 1, threads)]
    return [(page, part) for part in _split(rows, unit, threads)]


def _split(axis: Axis, unit: int, threads: int) -> list[Axis]:
    size = unit * max(1, -(-axis.size // (unit * threads)))
    firsts = range(0, max(1, axis.size), size)
    return [Axis(min(size, axis.size - first), axis.strides, first) for first in firsts]


def _pack(walk: tuple[Axis, Axis, Axis], starts: tuple[int, ...]) -> Array[c_int64]:
    """A geometry: sizes, the width of a block, the lines joined; then start and strides of each."""
    page, line, item = walk
    sizes = (page.size, line.size, item.size, _STRETCH, _joined(line, item))
    tensors = zip(starts, page.strides, line.strides, item.strides, strict=True)
    values = [*sizes, *(value for tensor in tensors for value in tensor)]
    return (c_int64 * len(values))(*values)


def _joined(line: Axis, item: Axis) -> int:
    """How many lines the elementwise loops may take as one."""
    if item.size > _STRETCH or not _contiguous(line, item):
        return 1
    return BLOCK // max(1, item.size)


def _starts(walked: tuple[Axis, Axis], left: list[Axis]) -> Iterator[tuple[int, ...]]:
    """Where each tensor starts, in elements, for every index into the axes that are left over."""
    axes = [*walked, *left]
    for index in product(*(range(axis.size) for axis in left)):
        at = (walked[0].first, walked[1].first, *index)
        strides = zip(*(axis.strides for axis in axes), strict=True)
        yield tuple(sum(k * step for k, step in zip(at, steps, strict=True)) for steps in strides)
