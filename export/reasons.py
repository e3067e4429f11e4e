"""Why a target could not be exported, in one sentence that names the module and what to do."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Optional

from torch import nn

from compiled_rl.export.signature import modules_of, name_of

# What torch says of it, and what a user is told.
_KNOWN = {
    "data-dependent expression": (
        "it branches on the value of a tensor, which a graph cannot; choose with torch.where"
    ),
    "specialized it to be a constant": (
        "an axis that `dynamic` names is a number in it; compute with the tensor's own sizes, "
        "x.shape[0], or leave the axis out of `dynamic`"
    ),
}


def reason(target: Any, error: BaseException) -> str:
    """Who failed, and why."""
    errors = list(_causes(error))
    why = next((told for e in errors for said, told in _KNOWN.items() if said in str(e)), None)
    place = next((place for e in errors if (place := _place(target, e)) is not None), None)
    name = name_of(target)
    who = name if place is None else f"`{place}` of {name}"
    return f"{who} could not be exported: {why or _first_words(errors[-1])}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: Optional[BaseException] = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _first_words(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__


def _place(target: Any, error: BaseException) -> Optional[str]:
    """The innermost module of the target that was being called, by its name in the target."""
    named = {id(module): name for name, module in _named_modules(target)}
    called = [named[id(x)] for x in _callers(error.__traceback__) if id(x) in named]
    inner = [name for name in called if name]
    return inner[-1] if inner else None


def _named_modules(target: Any) -> list[tuple[str, nn.Module]]:
    if isinstance(target, nn.Module):
        return list(target.named_modules())
    return [(type(module).__name__, module) for module in modules_of(target)]


def _callers(traceback: Optional[TracebackType]) -> Iterator[Any]:
    """Whose methods were running, from the outermost."""
    while traceback is not None:
        yield traceback.tb_frame.f_locals.get("self")
        traceback = traceback.tb_next
