"""A call: a callable, valid arguments for it, and every way to spoil one of them."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.fuzz.mutations import (
    ABSENT,
    ANYTHING,
    Mutation,
    Range,
    mutations,
)

Made = tuple[Callable[..., Any], dict[str, Any]]
ABSENT_NEEDED = Mutation("absent", ABSENT)
ABSENT_PERHAPS = Mutation("absent", ABSENT, "any")
SHAPES = {
    "an axis more", "an axis more in front", "no axis", "an axis less", "a row less", "a row more",
    "no row", "one row", "one column", "a column less", "turned",
}  # fmt: skip
EXTRA = "nothing_of_this_name"
CONVERTED = {"a number", "a list", "an array"}  # by a TensorDict
WORDS = {"an unknown word", "an empty string", "upper case"}


class Call(NamedTuple):
    """A callable and valid arguments, made anew for every attempt.

    Attributes:
        ranges: the numbers that an argument may be.
        names: what a refusal may call an argument, beside its name.
        skipped: arguments that are not spoiled, each with its reason.
        allowed: what an argument may also be, though most may not.
        writes: arguments that a call is there to change.
        words: arguments that may be any string.
        signed: whether the callable has a signature that refuses too many arguments.
        only: the ways to spoil it, where a call that is not refused would take seconds.
        shaped: whether other shapes are refused before the call, by a TensorDict.
        alone: whether a tensor is bound to no other.
        users: arguments that a network of the user's own reads, and may refuse by itself.
    """

    name: str
    make: Callable[[], Made]
    ranges: dict[str, Range] = {}  # noqa: RUF012
    names: dict[str, set[str]] = {}  # noqa: RUF012
    skipped: dict[str, str] = {}  # noqa: RUF012
    allowed: dict[str, set[str]] = {}  # noqa: RUF012
    words: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    signed: bool = True
    alone: bool = False
    shaped: bool = False
    only: dict[str, set[str]] = {}  # noqa: RUF012
    users: frozenset[str] = frozenset()

    def ways(self) -> Iterator[tuple[str, Mutation]]:
        """Every argument with every way to spoil it, and one argument too many."""
        function, arguments = self.make()
        given = {**defaults(function), **arguments}
        several = sum(isinstance(x, Tensor) for x in arguments.values()) > 1 + self.alone * 9
        for name, value in given.items():
            if value is None or name in self.skipped:
                continue
            range_ = self.ranges.get(name, ANYTHING)
            optional = name not in needed(function) and defaults(function).get(name) is None
            for way in mutations(value, several, range_, optional):
                if self.shaped and way.what in SHAPES | CONVERTED:
                    continue
                if not self.only or way.what in self.only.get(name, ()):
                    yield name, self._judged(name, way)
        if not self.signed or self.only:
            return
        for name in arguments:
            if name not in defaults(function) and name not in self.skipped:
                yield name, ABSENT_NEEDED if name in needed(function) else ABSENT_PERHAPS
        yield EXTRA, self._judged(EXTRA, Mutation("too much", torch.ones(2)))

    def _judged(self, name: str, way: Mutation) -> Mutation:
        """What is a fault elsewhere may be documented here."""
        word = name in self.words and way.what in WORDS
        may = word or way.what in self.allowed.get(name, ())
        return way._replace(expected="any") if may else way

    def named(self, argument: str) -> set[str]:
        """What a refusal may call an argument."""
        return {argument, *self.names.get(argument, ())}


def signature(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters; of a class, those of its constructor."""
    if inspect.isclass(function):
        found = dict(inspect.signature(function.__init__).parameters)
        found.pop("self", None)
        return found
    return dict(inspect.signature(getattr(function, "forward", function)).parameters)


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {k: p.default for k, p in signature(function).items() if p.default is not p.empty}


def needed(function: Callable[..., Any]) -> set[str]:
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = signature(function).items()
    return {k for k, p in found if p.default is p.empty and p.kind not in several}


AT_LEAST_ONE = Range(1.0)
