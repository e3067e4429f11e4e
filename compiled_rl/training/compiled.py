"""How an update is compiled: one graph, with the guards and the code that measured fastest."""

from collections.abc import Callable, Iterable
from functools import partial
from operator import is_
from typing import Any, Literal, Optional

import torch
from torch import Tensor, nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from torch.nn.modules.conv import _ConvNd

Mode = Literal["eager", "default", "reduce-overhead", "max-autotune"]
Function = Callable[..., Any]

# Inductor's own tanh and random numbers are several times slower than ATen's on CPU; a sum over a
# few actions that it unrolls makes everything before it scalar, a tenth of an update at batch 256.
_CPU: dict[str, Any] = {
    "cpp.use_decompose_tanh": True,
    "fallback_random": True,
    "unroll_reductions_threshold": 1,
}
# One file of C++ is compiled sooner than many with Python between them, and spares that Python. It
# calls convolutions by a slower way, which is a tenth of the update of an Atari network.
_IN_ONE_FILE = {"cpp_wrapper": True}

_LIBRARIES = ("torch_dot_", "compiled_rl_dot_")
_MOVED = ("params", "state", "targets", "held", "updates")  # the arguments that hold tensors
# Kinds of guards: on how a module is built, and on what its class has and it has not itself.
_BUILT = {
    "DICT_CONTAINS",
    "DICT_KEYS_MATCH",
    "DICT_NOT_CONTAINS",
    "EMPTY_NN_MODULE_HOOKS_DICT",
    "HASATTR",
    "NOT_PRESENT_IN_GENERIC_DICT",
    "TYPE_MATCH",
}
_BUILT_OF = ("_modules", "_parameters", "_hooks", "_hooks_with_kwargs")


class Graphs:
    """A function as one graph, or as few: it moves tensors in place, by data.

    TorchDynamo would look at every tensor, option and submodule before every call, an eighth of an
    update's time. ``Structure`` knows whether the modules are what they were, and the tensors that
    are moved are compared here, most of the time by what they are: it is told to leave those out.
    Where the shape, dtype, strides or device of a moved tensor is another, there is another graph.

    Args:
        function: of the moved tensors, in dicts and lists, and of data; it is a method whose owner
            has the pure update as ``_update``.
        loss: what it calls.
        mode: of the compilation.
        on_cpu: whether the tensors are there.
        split: whether there are sums over processes in it.
    """

    def __init__(
        self, function: Function, loss: nn.Module, mode: Mode, on_cpu: bool, split: bool = False
    ) -> None:
        convolves = any(isinstance(part, _ConvNd) for part in loss.modules())
        self._function, self._options = function, _options(mode, on_cpu, convolves)
        if split:
            from compiled_rl.training.collectives import OneOfAKind  # not every torch has them

            self._options = {**self._options, "joint_custom_pre_pass": OneOfAKind()}
        self._loss = loss
        self._records = mode != "default" and not on_cpu  # CUDA graphs
        self._by_layout: dict[Any, Function] = {}
        self._seen: list[Tensor] = []
        self._kinds: list[Any] = []
        self._device: Optional[torch.device] = None
        self._graph: Function = function

    def forget(self) -> None:
        """Make other graphs from now on: the function is not what it was."""
        self._by_layout.clear()
        self._seen = []

    def __call__(
        self, params: dict[str, Tensor], others: list[Tensor], *arguments: Any
    ) -> dict[str, Tensor]:
        """Call the graph that there is for the tensors that move.

        Args:
            params: the parameters, by name. They may be given another dtype, layout or shape and
                stay the same objects, as ``loss.to`` does it.
            others: what else moves.
            *arguments: of the function, which hold both.
        """
        moved = [*params.values(), *others]
        kinds: list[Any] = [(x.dtype, x.shape, x.stride()) for x in params.values()]
        same = len(moved) == len(self._seen) and all(map(is_, moved, self._seen))
        if not same or kinds != self._kinds or moved[0].device != self._device:
            self._take(tuple(params), moved)
            self._seen, self._kinds, self._device = moved, kinds, moved[0].device
        if not self._records:
            outputs: dict[str, Tensor] = self._graph(*arguments)
            return outputs
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        # A graph that was recorded writes its outputs to the same memory every time.
        return {name: x.clone() for name, x in self._graph(*arguments).items()}

    def _take(self, names: tuple[str, ...], moved: list[Tensor]) -> None:
        layout = (names, *[(x.shape, x.stride(), x.dtype, x.device) for x in moved])
        if layout not in self._by_layout:
            known = frozenset(id(part) for part in self._loss.modules())
            self._by_layout[layout] = _compiled(self._function, self._options, known)
        if self._records:
            for x in moved:
                torch._dynamo.mark_static_address(x, guard=False)
        self._graph = self._by_layout[layout]


def obstacle_to_compiling(module: nn.Module, on_cpu: bool) -> Optional[str]:
    """Why a module cannot be compiled, as the end of a sentence; None: it can."""
    recurrent = {type(m).__name__ for m in module.modules() if isinstance(m, nn.RNNBase)}
    if recurrent:
        return f"TorchDynamo does not trace torch.nn.{min(recurrent)}"
    if on_cpu:
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            return "there is no C++ compiler"
    return None


def _compiled(function: Function, options: dict[str, Any], known: frozenset[int]) -> Function:
    made: Function = torch.compile(  # type: ignore[call-overload]
        function,
        fullgraph=True,
        isolate_recompiles=True,  # the graphs of one step never crowd out another's
        options={**options, "guard_filter_fn": partial(_needed, known)},
    )
    return made


def _options(mode: Mode, on_cpu: bool, convolves: bool) -> dict[str, Any]:
    options: dict[str, Any] = torch._inductor.list_mode_options(mode)
    if not on_cpu:
        return options
    options |= {**_CPU, "triton.cudagraphs": False}
    return options if convolves else options | _IN_ONE_FILE


def _needed(known: frozenset[int], guards: Iterable[Any]) -> list[bool]:
    """Of each guard, whether it stays; ``known`` are the modules that ``Structure`` compares."""
    return [not (_is_library(guard) or _is_known(guard, known)) for guard in guards]


def _is_library(guard: Any) -> bool:
    """Whether a guard is on a global of the compiled file, of this library, or of torch.

    It notices only that a library was patched; those on what a user defines stay.
    """
    origin = guard.name.partition("__import_")[2]
    return guard.is_global and (not origin or origin.startswith(_LIBRARIES))


def _is_known(guard: Any, known: frozenset[int]) -> bool:
    """Whether a guard is on what the owner of the graphs looks after."""
    root = guard.name.partition("[")[0]
    if root in _MOVED:
        return True
    if not guard.name.startswith("self._update"):
        return False
    if not guard.name.startswith("self._update.loss"):
        return True  # its own, and never changed
    if guard.guard_type == "DUPLICATE_INPUT":  # of the parameters, which are compared, too
        return isinstance(guard.value, nn.Parameter)
    is_part = id(guard.value) in known or guard.name.endswith(_BUILT_OF)
    is_ours = type(guard.value).__module__.startswith("compiled_rl.")
    return guard.guard_type in _BUILT and (is_part or is_ours)
