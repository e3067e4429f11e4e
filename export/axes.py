"""The axes of an artefact that may have any size, and the sizes at which it is tried."""

from collections.abc import Mapping, Sequence
from itertools import chain, cycle
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from compiled_rl.export.errors import ExportError

TIME = "time"

# The first axis takes the first row, batch 1, 3 and 64; time the second; the others take turns.
_SIZES = ((1, 3, 64), (23, 1, 7), (5, 2, 1))
# How long a time without a bound is tried.
_LONG = 700


class Axes(NamedTuple):
    """The names of the leading axes that may change, and the bound on time, if there is one."""

    names: tuple[str, ...]
    max_time: Optional[int]

    @property
    def limits(self) -> dict[str, int]:
        """The largest size of each axis that is bounded."""
        return {} if self.max_time is None else {TIME: self.max_time}

    def named_shape(self, x: Tensor) -> list[int | str]:
        """The shape of an input, with names where it may change."""
        return [*self.names[: x.dim()], *x.shape[len(self.names) :]]

    def dynamic_shapes(self, example: Mapping[str, Tensor]) -> tuple[dict[int, Any], ...]:
        """What ``torch.export`` is told of every input."""
        dims = [torch.export.Dim(name, max=self.limits.get(name)) for name in self.names]
        return tuple(dict(enumerate(dims[: x.dim()])) for x in example.values())

    def sizes(self) -> list[dict[str, int]]:
        """The sizes at which an artefact is verified; the last are the longest."""
        others = [name for name in self.names if name != TIME]
        order = [*others[:1], *self._time(), *others[1:]]
        rows = dict(zip(order, chain(_SIZES[:1], cycle(_SIZES[1:])), strict=False))
        sizes = [{name: rows[name][k] for name in self.names} for k in range(len(_SIZES))]
        longest = {name: self.max_time or _LONG if name == TIME else 2 for name in self.names}
        return [self._within(row) for row in [*sizes, *[longest for _ in self._time()]]]

    def too_long(self) -> dict[str, int]:
        """Sizes just past the bound."""
        return {name: self.limits[TIME] + 1 if name == TIME else 2 for name in self.names}

    def _time(self) -> list[str]:
        return [name for name in self.names if name == TIME]

    def _within(self, sizes: dict[str, int]) -> dict[str, int]:
        return {name: min(size, self.limits.get(name, size)) for name, size in sizes.items()}


def check_axes(dynamic: Sequence[str], max_time: Optional[int], bounded: bool) -> Axes:
    """The axes that a user asks for; ``bounded``: time must have a bound.

    Raises:
        ExportError: the names are none, or the bound is missing, superfluous or none.
    """
    if isinstance(dynamic, str) or len(set(dynamic)) != len(dynamic):
        raise ExportError(f"`dynamic` must be a sequence of different axis names, got {dynamic!r}")
    if bounded and TIME in dynamic and max_time is None:
        raise ExportError("`max_time` must be given for a dynamic time axis, got None")
    if max_time is not None and TIME not in dynamic:
        raise ExportError(f"`max_time` must go with an axis `{TIME}`, got {tuple(dynamic)}")
    if max_time is not None and max_time < 2:  # torch takes a size of one for a constant
        raise ExportError(f"`max_time` must be at least 2, got {max_time}")
    return Axes(tuple(dynamic), max_time)


def check_example(example: Mapping[str, Tensor], axes: Axes) -> dict[str, Tensor]:
    """The example with no dynamic axis of size one, which torch would take for a constant.

    Raises:
        ExportError: the example has no axis that is bounded, or is longer than the bound.
    """
    rank = max([x.dim() for x in example.values()], default=0)
    if axes.limits and axes.names.index(TIME) >= rank:
        raise ExportError(
            f"`dynamic` must name axes that an input has, got {axes.names} for {rank} at most"
        )
    for name, x in example.items():
        for axis, size in zip(axes.names, x.shape, strict=False):
            if size > axes.limits.get(axis, size):
                raise ExportError(
                    f"`example` must have a `{axis}` of at most {axes.limits[axis]}, "
                    f"got {size} for `{name}`"
                )
    return {name: _at_least_two(x, len(axes.names)) for name, x in example.items()}


def _at_least_two(x: Tensor, leading: int) -> Tensor:
    for axis in range(min(leading, x.dim())):
        if x.shape[axis] == 1:
            x = torch.cat([x, x], axis)
    return x
