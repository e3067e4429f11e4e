"""A target as an exported program, with nothing in it of this package or this machine."""

from collections.abc import Callable
from typing import Any

import torch
from sympy import Integer
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from compiled_rl.export.axes import TIME, Axes
from compiled_rl.export.errors import ExportError
from compiled_rl.export.subject import Subject
from compiled_rl.export.training import EpochModule, StepModule
from compiled_rl.kernels.doubling import bounded_doubling


def export_program(subject: Subject) -> ExportedProgram:
    """The subject as exported, with the axes that may change; operators are left as they are.

    Raises:
        ExportError: it draws at random.
    """
    return _exported(subject, lambda module: module)


def portable_program(subject: Subject) -> ExportedProgram:
    """The subject in torch's own operators alone; a time past the bound is refused as it runs."""
    program = _exported(subject, lambda module: _Refusing(module, subject.axes))
    program = program.run_decompositions(
        {torch.ops.compiled_rl.linear_recurrence.default: _recurrence}
    )
    graphs = [x for x in program.graph_module.modules() if isinstance(x, GraphModule)]
    for node in [node for x in graphs for node in x.graph.nodes]:  # of the bodies of loops, too
        for trace in ("stack_trace", "nn_module_stack", "torch_fn", "from_node"):
            node.meta.pop(trace, None)
    return program


def _exported(subject: Subject, wrapped: Callable[[nn.Module], nn.Module]) -> ExportedProgram:
    module, axes = subject.module, subject.axes
    if isinstance(module, StepModule | EpochModule):  # torch.export traces no backward pass
        module = module.traced(subject.example, axes)
    inputs = tuple(x.clone() for x in subject.example.values())
    program = torch.export.export(wrapped(module), inputs, dynamic_shapes=(axes.dynamic_shapes(),))
    if not _repeats(subject):
        raise ExportError(
            f"{_drawing(program)} draws at random, so that no file could be compared with it; "
            "make what it draws an input, or put it in eval mode"
        )
    return program


def _repeats(subject: Subject) -> bool:
    """Whether the subject computes the same twice."""
    with torch.no_grad():
        once, again = (subject.module(*subject.example.values()) for _ in range(2))
    return all(
        torch.equal(torch.nan_to_num(x), torch.nan_to_num(y))
        for x, y in zip(once, again, strict=True)
    )


def _drawing(program: ExportedProgram) -> str:
    """The module that draws."""
    for node in program.run_decompositions().graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            return owner_of(node)
    return "the target"


def owner_of(node: torch.fx.Node) -> str:
    """The module in which an operator was called, as the user's module names it, in ticks."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    name: str = path.removeprefix("L['self'].").removeprefix("module.").removeprefix("target.")
    return f"`{name}`" if name else "the target"


class _Refusing(nn.Module):
    """An assertion in the graph: the guards of a program do not survive its compilation."""

    def __init__(self, module: nn.Module, axes: Axes) -> None:
        super().__init__()
        self.module = module
        self.axes = axes

    def forward(self, *tensors: Tensor) -> Any:
        """What ``module`` returns."""
        for axis, limit in self.axes.limits.items():
            position, dim = self.axes.place(axis)
            size = tensors[position].shape[dim]
            within = torch.full((), size, dtype=torch.int64) <= limit
            torch._assert_async(within, f"`{axis}` must be at most {limit}")
        return self.module(*tensors)


def _recurrence(x: Tensor, decay: Tensor, time_dim: int, reverse: bool) -> Tensor:
    """The operator, in as many doublings as the longest time needs."""
    doublings = (_longest(x.shape[time_dim]) - 1).bit_length()
    return bounded_doubling(x, decay, time_dim, reverse, max(doublings, 1))


def _longest(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    longest = size.node.shape_env.bound_sympy(size.node.expr).upper
    if not isinstance(longest, Integer):
        raise ExportError(
            f"the recurrence must run over an axis that is bounded: name it `{TIME}` in `dynamic` "
            "and give `max_time`"
        )
    return int(longest)
