"""The axes of an artefact that may have any size, and the sizes at which it is tried."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, cycle
from types import MappingProxyType
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from compiled_rl.export.errors import ExportError

TIME = "time"
Named = tuple[Optional[str], ...]
Range = tuple[int, int, int]
# The names of the leading axes of all inputs, or by input the name of each axis.
Dynamic = Sequence[str] | Mapping[str, Sequence[Optional[str]]]

# The first axis takes the first row, batch 1, 3 and 64; time the second; the others take turns.
_SIZES = ((1, 3, 64), (23, 1, 7), (5, 2, 1))
# How long a time without a bound is tried.
_LONG = 700


class Axes(NamedTuple):
    """Which axes of which inputs may change, and the bound on time, if there is one.

    Attributes:
        names: of the axes, in the order in which the user gave them.
        of: by input, the name of each axis; None where its size is fixed.
        max_time: the longest ``time``.
        ranges: by name, the smallest, usual and largest size, where a file is made for them.
    """

    names: tuple[str, ...]
    of: dict[str, Named]
    max_time: Optional[int]
    ranges: Mapping[str, Range] = MappingProxyType({})

    @property
    def limits(self) -> dict[str, int]:
        """The largest size of each axis that is bounded."""
        time = {} if self.max_time is None else {TIME: self.max_time}
        return {**time, **{name: largest for name, (_, _, largest) in self.ranges.items()}}

    def named_shape(self, name: str, x: Tensor) -> list[int | str]:
        """The shape of an input, with names where it may change."""
        return [axis or size for axis, size in zip(self.of[name], x.shape, strict=True)]

    def sized(self, name: str, x: Tensor, sizes: Mapping[str, int]) -> list[int]:
        """The shape of an input at these sizes of the axes that have names."""
        named = zip(self.of[name], x.shape, strict=True)
        return [size if axis is None else sizes[axis] for axis, size in named]

    def is_fixed(self, name: str) -> bool:
        """Whether the input has one shape."""
        return not any(self.of[name])

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """What ``torch.export`` is told of every input."""
        dims = {name: torch.export.Dim(name, max=self.limits.get(name)) for name in self.names}
        return tuple(
            {k: dims[axis] for k, axis in enumerate(axes) if axis is not None}
            for axes in self.of.values()
        )

    def place(self, axis: str) -> tuple[int, int]:
        """The position of an input that has the axis, and the axis's in it."""
        found = ((k, axes.index(axis)) for k, axes in enumerate(self.of.values()) if axis in axes)
        return next(found)

    def sizes(self) -> list[dict[str, int]]:
        """The sizes at which an artefact is verified; the last are the longest."""
        others = [name for name in self.names if name != TIME]
        order = [*others[:1], *self._time(), *others[1:]]
        rows: dict[str, Sequence[int]] = dict(
            zip(order, chain(_SIZES[:1], cycle(_SIZES[1:])), strict=False)
        )
        for turn, (name, row) in enumerate(self.ranges.items()):  # no two axes in the same order
            rows[name] = (*row[turn % 3 :], *row[: turn % 3])
        sizes = [{name: rows[name][k] for name in self.names} for k in range(len(_SIZES))]
        longest = {name: self.max_time or _LONG if name == TIME else 2 for name in self.names}
        return [self._within(row) for row in [*sizes, *[longest for _ in self._time()]]]

    def too_long(self) -> dict[str, int]:
        """Sizes just past the bound."""
        return {**self._within(dict.fromkeys(self.names, 2)), TIME: self.limits[TIME] + 1}

    def _time(self) -> list[str]:
        return [name for name in self.names if name == TIME]

    def _within(self, sizes: dict[str, int]) -> dict[str, int]:
        smallest = {name: row[0] for name, row in self.ranges.items()}
        return {
            name: max(min(size, self.limits.get(name, size)), smallest.get(name, 0))
            for name, size in sizes.items()
        }


def check_dynamic(dynamic: Dynamic) -> None:
    """Refuse what names no axes.

    Raises:
        ExportError: it does not.
    """
    given = isinstance(dynamic, Sequence | Mapping) and not isinstance(dynamic, str)
    if not given or not _are_names(dynamic) or len(set(dynamic)) != len(dynamic):
        raise ExportError(f"`dynamic` must be a sequence of different axis names, got {dynamic!r}")


def _are_names(names: Iterable[object]) -> bool:
    return all(isinstance(name, str) for name in names)


def check_axes(
    dynamic: Dynamic,
    max_time: Optional[int],
    bounded: bool,
    example: Mapping[str, Tensor],
    fixed: Collection[str] = (),
) -> Axes:
    """The axes that a user asks for.

    Args:
        dynamic: names of leading axes of all inputs, or of each axis by input.
        max_time: the longest time.
        bounded: time must have a bound.
        example: the inputs by name.
        fixed: the inputs that have no leading axes.

    Raises:
        ExportError: the names are none, or the bound is missing, superfluous or none.
    """
    names, of = _named(dynamic, example, fixed)
    if bounded and TIME in names and max_time is None:
        raise ExportError("`max_time` must be given for a dynamic time axis, got None")
    if max_time is not None and TIME not in names:
        raise ExportError(f"`max_time` must go with an axis `{TIME}`, got {names}")
    if max_time is not None and max_time < 2:  # torch takes a size of one for a constant
        raise ExportError(f"`max_time` must be at least 2, got {max_time}")
    carried = {axis for axes in of.values() for axis in axes}
    if max_time is not None and TIME not in carried:
        rank = max([x.dim() for x in example.values()], default=0)
        raise ExportError(
            f"`dynamic` must name axes that an input has, got {names} for {rank} at most"
        )
    return Axes(tuple(name for name in names if name in carried), of, max_time)


def _named(
    dynamic: Dynamic, example: Mapping[str, Tensor], fixed: Collection[str]
) -> tuple[tuple[str, ...], dict[str, Named]]:
    if isinstance(dynamic, Mapping):
        for name, axes in dynamic.items():
            if name not in example or len(axes) != example[name].dim():
                dims = {k: x.dim() for k, x in example.items()}
                raise ExportError(
                    f"`dynamic` must name every axis of an input, None where its size is fixed, "
                    f"of the inputs with these numbers of axes: {dims}, got {axes} for `{name}`"
                )
        given = {name: tuple(axes) for name, axes in dynamic.items()}
        of = {name: given.get(name, (None,) * x.dim()) for name, x in example.items()}
        names = dict.fromkeys(axis for axes in given.values() for axis in axes if axis is not None)
        return tuple(names), of
    leading = tuple(dynamic)
    of = {
        name: tuple(
            leading[k] if k < len(leading) and name not in fixed else None for k in range(x.dim())
        )
        for name, x in example.items()
    }
    return leading, of


def check_example(example: Mapping[str, Tensor], axes: Axes) -> dict[str, Tensor]:
    """The example with no dynamic axis of size one, which torch would take for a constant.

    Raises:
        ExportError: the example is longer than the bound, or an axis has two sizes.
    """
    seen: dict[str, int] = {}
    for name, x in example.items():
        for axis, size in zip(axes.of[name], x.shape, strict=True):
            if axis is not None and size > axes.limits.get(axis, size):
                raise ExportError(
                    f"`example` must have a `{axis}` of at most {axes.limits[axis]}, "
                    f"got {size} for `{name}`"
                )
            if axis is not None and seen.setdefault(axis, size) != size:
                raise ExportError(
                    f"`example` must have one size of the axis `{axis}`, got {seen[axis]} and "
                    f"{size} for `{name}`; name the axes of each input in `dynamic`"
                )
    return {name: _at_least_two(x, axes.of[name]) for name, x in example.items()}


def _at_least_two(x: Tensor, named: Named) -> Tensor:
    for k, axis in enumerate(named):
        if axis is not None and x.shape[k] == 1:
            x = torch.cat([x, x], k)
    return x
