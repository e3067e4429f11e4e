"""A target as an exported program, with nothing in it of this package or this machine."""

from collections.abc import Mapping
from typing import Any

import torch
from sympy import Integer
from torch import Tensor, nn
from torch.export import ExportedProgram

from compiled_rl.export.axes import TIME, Axes
from compiled_rl.export.errors import ExportError
from compiled_rl.kernels.doubling import bounded_doubling


def export_program(module: nn.Module, example: Mapping[str, Tensor], axes: Axes) -> ExportedProgram:
    """``module`` as exported, with the axes that may change; operators are left as they are."""
    return torch.export.export(
        module, tuple(example.values()), dynamic_shapes=(axes.dynamic_shapes(example),)
    )


def portable_program(
    module: nn.Module, example: Mapping[str, Tensor], axes: Axes
) -> ExportedProgram:
    """``module`` in torch's own operators alone; a time past the bound is refused as it runs."""
    program = export_program(_Refusing(module, axes), example, axes)
    program = program.run_decompositions(
        {torch.ops.compiled_rl.linear_recurrence.default: _recurrence}
    )
    for node in program.graph.nodes:
        for trace in ("stack_trace", "nn_module_stack", "torch_fn", "from_node"):
            node.meta.pop(trace, None)
    return program


class _Refusing(nn.Module):
    """An assertion in the graph: the guards of a program do not survive its compilation."""

    def __init__(self, module: nn.Module, axes: Axes) -> None:
        super().__init__()
        self.module = module
        self.axes = axes

    def forward(self, *tensors: Tensor) -> Any:
        """What ``module`` returns."""
        for name, limit in self.axes.limits.items():
            axis = self.axes.names.index(name)
            size = next(x.shape[axis] for x in tensors if x.dim() > axis)
            within = torch.full((), size, dtype=torch.int64) <= limit
            torch._assert_async(within, f"`{name}` must be at most {limit}")
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
