"""How an update is compiled: one graph, with the guards and the CPU code that measured fastest."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

# Guards on what a library defines notice only that it was patched; without them a call at batch 256
# is an eighth faster. Those on what a user defines stay.
_LIBRARIES = ("torch_dot_", "compiled_rl_dot_")
# Inductor's own tanh and random numbers are several times slower than ATen's on CPU; a sum over a
# few actions that it unrolls makes everything before it scalar, a tenth of an update at batch 256.
_CPU_OPTIONS: dict[str, Any] = {
    "cpp.use_decompose_tanh": True,
    "fallback_random": True,
    "unroll_reductions_threshold": 1,
}
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function, on_cpu: bool) -> Function:
    """The function as one graph, compiled at its first call."""
    made: Function = torch.compile(  # type: ignore[call-overload]
        function,
        fullgraph=True,
        isolate_recompiles=True,  # the graphs of one step never crowd out another's
        options={"guard_filter_fn": _needed, **(_CPU_OPTIONS if on_cpu else {})},
    )
    return made


def _needed(guards: list[Any]) -> list[bool]:
    return [not _is_library(guard) for guard in guards]


def _is_library(guard: Any) -> bool:
    """Whether a guard is on a global of the compiled file, of this library, or of torch."""
    origin = guard.name.partition("__import_")[2]
    return guard.is_global and (not origin or origin.startswith(_LIBRARIES))
