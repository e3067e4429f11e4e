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
_BLOCK, _STRETCH = 1024, 256
# Below so many neighbours in the batch a row of them is not worth a loop of its own.
_SHORT = 8


class Axis(NamedTuple):
    """One axis of several tensors: its size, and its stride in each of them."""

    size: int
    strides: tuple[int, ...]


class Plan(NamedTuple):
    """What the loops need to know about a layout."""

    along: bool  # whether the items are time (else the lines are)
    geometries: tuple[int, ...]  # for each call of a loop, the address of its sizes and strides
    storage: tuple[object, ...]  # keeps them alive


@lru_cache(maxsize=4096)
def plan(shape: tuple[int, ...], strides: tuple[tuple[int, ...], ...], time_dim: int) -> Plan:
    """The walk over tensors of one shape; the last of them, an output, decides the order.

    Args:
        shape: the shape of all tensors.
        strides: of each tensor, in elements.
        time_dim: the time axis.
    """
    axes = [Axis(size, step) for size, step in zip(shape, zip(*strides, strict=True), strict=True)]
    time = axes.pop(time_dim)
    batch = merge(axes) or [Axis(1, (0,) * len(strides))]
    inner = batch[-1]
    along = time.strides[-1] < inner.strides[-1] or inner.size < _SHORT
    if along:
        item, line = time, _pop_longest(batch)
    else:
        item, line = batch.pop(), time
    page = _pop_longest(batch) if batch else Axis(1, (0,) * len(strides))
    width = _STRETCH
    sizes = (page.size, line.size, item.size, width, _joined(line, item, width))
    steps = tuple(zip(page.strides, line.strides, item.strides, strict=True))
    storage = tuple(_pack(sizes, starts, steps) for starts in _starts(batch, len(strides)))
    return Plan(along, tuple(addressof(geometry) for geometry in storage), storage)


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


def _joined(line: Axis, item: Axis, width: int) -> int:
    """How many lines the elementwise loops may take as one."""
    if item.size > width or not _contiguous(line, item):
        return 1
    return _BLOCK // max(1, item.size)


def _pack(sizes: tuple[int, ...], starts: tuple[int, ...], steps: tuple) -> Array[c_int64]:
    tensors = zip(starts, steps, strict=True)
    values = [*sizes, *(value for start, step in tensors for value in (start, *step))]
    return (c_int64 * len(values))(*values)


def _starts(axes: list[Axis], tensors: int) -> Iterator[tuple[int, ...]]:
    """Where each tensor starts, in elements, for every index into the axes that are left over."""
    for index in product(*(range(axis.size) for axis in axes)):
        steps = [(k, axis.strides) for k, axis in zip(index, axes, strict=True)]
        yield tuple(sum(k * strides[tensor] for k, strides in steps) for tensor in range(tensors))
