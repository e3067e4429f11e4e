"""What may be wrong with one argument of a call, and what must come of it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

ABSENT: Any = object()  # the argument is left out


class Mutation(NamedTuple):
    """Another value for an argument.

    ``expected`` is ``"refused"``; ``"equal"``, where the call must return what it returned with
    ``instead`` in the argument's place; or ``"any"``: an answer, or a refusal. ``may_refuse`` says
    that an equal answer may be a refusal, too, and ``relative`` that another value of another
    argument may make it valid.
    """

    what: str
    value: Any
    expected: str = "refused"
    instead: Any = None
    may_refuse: bool = False
    relative: bool = False


class Range(NamedTuple):
    """The numbers that a scalar may be; ``relative``, where another argument is the bound."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    relative: bool = False

    def holds(self, x: float) -> bool:
        above = x > self.low if self.open_low else x >= self.low
        below = x < self.high if self.open_high else x <= self.high
        return above and below

    def mutation(self, x: float) -> Mutation:
        """Another number, which is refused out of the range, if it still is in float32."""
        with np.errstate(over="ignore"):
            rounded = float(np.float32(x))
        expected = "any" if self.holds(x) or self.holds(rounded) else "refused"
        return Mutation(f"{x}", x, expected, relative=self.relative)


ANYTHING = Range()
FRACTION = Range(0.0, 1.0)
POSITIVE = Range(0.0, open_low=True)
NOT_NEGATIVE = Range(0.0)


def mutations(value: Any, coupled: bool, range_: Range, optional: bool) -> Iterator[Mutation]:
    """Every way to spoil one argument.

    Args:
        value: a valid one.
        coupled: whether there are other tensors, to whose shape and device it is bound.
        range_: of a number.
        optional: whether None is a valid value.
    """
    if not optional:
        yield Mutation("None", None)
    kinds = {
        Tensor: of_tensor,
        bool: of_bool,
        int: of_int,
        float: of_float,
        str: of_string,
        nn.Module: of_module,
        Mapping: of_mapping,
        Sequence: of_sequence,
    }
    for kind, made in kinds.items():
        if isinstance(value, kind):
            yield from made(value, coupled, range_)
            return
    yield from wrong_types()


def wrong_types() -> Iterator[Mutation]:
    """What no argument may be."""
    yield Mutation("a string", "text")
    yield Mutation("an object", object())
    yield Mutation("an empty dict", {})


def of_tensor(x: Tensor, coupled: bool, _: Range) -> Iterator[Mutation]:
    shapes = "refused" if coupled else "any"
    yield from wrong_types()
    yield Mutation("a number", 0.5)
    yield Mutation("a list", x.tolist(), "equal", x, may_refuse=True)
    yield Mutation("an array", x.detach().numpy(), "equal", x, may_refuse=True)
    yield Mutation("an axis more", x.unsqueeze(-1), shapes)
    yield Mutation("an axis more in front", x.unsqueeze(0), shapes)
    yield Mutation("no axis", x.new_zeros([]), shapes)
    if x.dim():
        yield Mutation("an axis less", x[0], shapes)
        yield Mutation("a row less", x[1:], shapes)
        yield Mutation("a row more", torch.cat([x, x[:1]]), shapes)
        yield Mutation("no row", x[:0], shapes)
        if x.shape[0] > 1:
            yield Mutation("one row", x[:1], shapes)
        if x.dim() > 1 and x.shape[-1] > 1:
            yield Mutation("one column", x[..., :1], shapes)
            yield Mutation("a column less", x[..., 1:], shapes)
            yield Mutation("turned", x.movedim(-1, 0), shapes)
    yield Mutation("complex", x.to(torch.complex64))
    yield Mutation("on another device", x.to("meta"), "refused" if coupled else "any")
    yield from _of_dtypes(x)
    yield Mutation("strided", _strided(x), "equal", x)
    if not x.is_floating_point() and x.dtype != torch.bool:
        for number in (-1000, -1, 1000):
            yield Mutation(f"{number} in it", _with(x, number), "any")
    if x.is_floating_point():
        yield Mutation("requiring grad", x.clone().requires_grad_(), "equal", x, may_refuse=True)
        for number in (math.nan, math.inf, -math.inf, 1e30, 0.0, -1e30):
            yield Mutation(f"{number} in it", _with(x, number), "any")


def _of_dtypes(x: Tensor) -> Iterator[Mutation]:
    dtypes = [torch.bool, torch.uint8, torch.int32, torch.int64]
    dtypes += [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    for dtype in dtypes:
        if dtype != x.dtype:
            other = x.to(dtype)
            yield Mutation(f"{dtype}", other, "equal", other.to(x.dtype), may_refuse=True)


def _strided(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0]


def _with(x: Tensor, number: float) -> Tensor:
    y = x.clone()
    y.view(-1)[:1] = number
    return y


def of_float(x: float, coupled: bool, range_: Range) -> Iterator[Mutation]:
    yield from wrong_types()
    yield Mutation("a number in a string", str(x))
    yield Mutation("a complex number", 1j)
    yield Mutation("a list", [x])
    yield Mutation("True", True)
    yield Mutation("a tensor with an axis", torch.tensor([x, x]))
    yield Mutation("a tensor of bool", torch.tensor(True))
    yield Mutation("a complex tensor", torch.tensor(1j))
    yield Mutation("NaN", math.nan)
    for number in (-1.0, -1e-3, 0.0, 0.5, 1.0, 1.5, 1e30, 1e300, math.inf, -math.inf):
        yield range_.mutation(number)
    yield Mutation("a 0-d tensor", torch.tensor(x), "equal", x, may_refuse=True)
    fine = torch.tensor(x, dtype=torch.float64)
    yield Mutation("a 0-d float64 tensor", fine, "equal", x, may_refuse=True)
    yield Mutation("a NumPy number", np.float64(x), "equal", x)
    yield Mutation("a NumPy float32", np.float32(x), "equal", float(np.float32(x)))
    if range_.holds(1):
        yield Mutation("an integer", 1, "equal", 1.0)


def of_int(x: int, coupled: bool, range_: Range) -> Iterator[Mutation]:
    yield from wrong_types()
    yield Mutation("a number in a string", str(x))
    yield Mutation("a float", x + 0.5)
    yield Mutation("NaN", math.nan)
    yield Mutation("a list", [x])
    yield Mutation("True", True)
    for number in (-10_000, -1, 0, 1000):
        yield range_.mutation(number)
    yield Mutation("a NumPy integer", np.int64(x), "equal", x)


def of_bool(x: bool, coupled: bool, range_: Range) -> Iterator[Mutation]:
    yield Mutation("a string", "text")
    yield Mutation("an object", object())
    yield Mutation("2", 2)


def of_string(x: str, coupled: bool, range_: Range) -> Iterator[Mutation]:
    yield Mutation("an object", object())
    yield Mutation("an unknown word", "nothing")
    yield Mutation("an empty string", "")
    yield Mutation("a number", 3)
    yield Mutation("bytes", x.encode())
    yield Mutation("upper case", x.upper() + "X")


def of_module(x: nn.Module, coupled: bool, range_: Range) -> Iterator[Mutation]:
    yield from wrong_types()
    yield Mutation("a class", nn.Identity)
    yield Mutation("a function", torch.tanh)
    yield Mutation("a number", 3)


def of_sequence(x: Sequence[Any], coupled: bool, range_: Range) -> Iterator[Mutation]:
    yield from wrong_types()
    yield Mutation("a number", 3)
    yield Mutation("None inside", [None, *x[1:]])
    yield Mutation("an object inside", [object(), *x[1:]])
    yield Mutation("empty", type(x)(), "any")
    yield Mutation("one more", [*x, *x[-1:]], "any")


def of_mapping(x: Mapping[str, Any], coupled: bool, range_: Range) -> Iterator[Mutation]:
    yield Mutation("a string", "text")
    yield Mutation("an object", object())
    yield Mutation("a number", 3)
    yield Mutation("a list", list(x))
