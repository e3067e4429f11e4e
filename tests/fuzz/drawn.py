"""Spoiled calls at random: one argument or two, numbers from the whole range of floats."""

from typing import Any

from hypothesis import strategies as st

from tests.fuzz.call import Call, defaults
from tests.fuzz.mutations import ANYTHING, Mutation

Changes = dict[str, Mutation]


@st.composite
def changes(draw: Any, call: Call, most: int = 2) -> Changes:
    """Up to ``most`` arguments with a way to spoil each."""
    ways = list(call.ways())
    found: Changes = {}
    for _ in range(draw(st.integers(1, 1 if call.only else most))):
        name, way = draw(st.sampled_from(ways))
        found[name] = way
    numbers = [] if call.only else _numbers(call)
    if numbers and draw(st.booleans()):
        name = draw(st.sampled_from(numbers))
        found[name] = call.ranges.get(name, ANYTHING).mutation(draw(st.floats()))
    return found


def _numbers(call: Call) -> list[str]:
    function, arguments = call.make()
    given = {**defaults(function), **arguments}
    return [name for name, x in given.items() if type(x) is float and name not in call.skipped]
