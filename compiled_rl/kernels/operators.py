"""The operators' registration with PyTorch.

``Library.define`` and ``impl`` rather than ``custom_op``, which costs 10 us more a call.
"""

from collections.abc import Callable
from typing import Any, Optional

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.library import Library, register_fake, register_vmap

from compiled_rl.kernels import cpu, cuda
from compiled_rl.kernels.checks import check_recurrence
from compiled_rl.kernels.doubling import plain_recurrence
from compiled_rl.kernels.table import KERNELS, Kernel

_library = Library("compiled_rl", "DEF")


def _define(schema: str, check: Callable, forms: dict[str, Callable], fake: Callable) -> Any:
    """Register an operator: what it checks, and its forms by dispatch key."""
    name = _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key, form in forms.items():
        _library.impl(name, _checked(check, form), key)
    register_fake(f"compiled_rl::{name}", _checked(check, fake), lib=_library)
    return getattr(torch.ops.compiled_rl, name).default


def _checked(check: Callable, form: Callable) -> Callable:
    # Also behind the public functions: no call of an operator may read past a tensor's memory.
    def checked(*args: Any) -> Any:
        check(*args)
        return form(*args)

    return checked


def _define_fused(kernel: Kernel) -> Any:
    """Register a fused estimator: its arguments as the table says, its forms as they take them."""

    def check(*args: Any) -> None:
        kernel.check(*_sorted(kernel, args))

    def form(fused: Callable) -> Callable:
        def run(*args: Any) -> Any:
            outputs = fused(kernel, *_sorted(kernel, args))
            return outputs if kernel.outputs > 1 else outputs[0]

        return run

    def fake(kernel: Kernel, tensors: tuple[Tensor, ...], *rest: Any) -> tuple[Tensor, ...]:
        return tuple([torch.empty_like(tensors[0]) for _ in range(kernel.outputs)])

    forms = {"CPU": form(cpu.fused), "CUDA": form(cuda.fused)}
    return _define(kernel.schema, check, forms, form(fake))


def _sorted(kernel: Kernel, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Tensors, scalars, mask and time axis."""
    tensors, scalars = len(kernel.inputs), len(kernel.scalars)
    return args[:tensors], args[tensors : tensors + scalars], *args[tensors + scalars :]


def has_fused(on_cpu: bool, on_cuda: bool, dtype: torch.dtype) -> bool:
    """Whether the fused estimators have a form for a device and a dtype."""
    if on_cpu:
        return cpu.works(dtype)
    return on_cuda and dtype.is_floating_point and cuda.works()


# TorchDynamo asks it when it traces, and does not trace into it.
has_fused._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _recurrence_fake(x: Tensor, decay: Tensor, time_dim: int, reverse: bool) -> Tensor:
    return torch.empty_like(x)


FUSED = {name: _define_fused(kernel) for name, kernel in KERNELS.items()}
_recurrence = _define(
    "linear_recurrence(Tensor x, Tensor decay, int time_dim, bool reverse) -> Tensor",
    check_recurrence,
    {
        "CPU": cpu.linear_recurrence,
        "CUDA": cuda.linear_recurrence,
        "CompositeExplicitAutograd": plain_recurrence,
    },
    _recurrence_fake,
)


class _Recurrence(_SingleLevelFunction):
    """The recurrence's gradient is the same recurrence, the other way.

    grad_x[t]     = grad[t] + decay[t - 1] * grad_x[t - 1]
    grad_decay[t] = grad_x[t] * y[t + 1]
    """

    @staticmethod
    def forward(ctx: Any, keyset: Any, x: Tensor, decay: Tensor, *how: Any) -> Tensor:
        """``y``, kept for the gradient."""
        # Gradients are off in here, also for the levels of torch.func.grad that are still below.
        with torch.enable_grad():
            y = _below_autograd(_recurrence, keyset, x, decay, *how)
        ctx.save_for_backward(decay, y)
        ctx.how = how
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        """``grad_x`` and, where it is asked for, ``grad_decay``."""
        decay, y = ctx.saved_tensors
        time_dim, reverse = ctx.how
        before = _neighbour(decay, time_dim, not reverse)
        grad_x = _recurrence(grad, before, time_dim, not reverse)
        if not ctx.needs_input_grad[2]:
            return None, grad_x, None, None, None
        return None, grad_x, grad_x * _neighbour(y, time_dim, reverse), None, None


def _recurrence_autograd(keyset: Any, x: Tensor, decay: Tensor, *how: Any) -> Tensor:
    if not _needs_gradient((x, decay)):
        return _below_autograd(_recurrence, keyset, x, decay, *how)
    # `register_autograd` and `autograd.Function` refuse torch.func.grad. Here, below its dispatch,
    # one level of it is left to deal with, as for the operators that PyTorch brings.
    with enable_single_level_autograd_function():
        return _Recurrence.apply(keyset, x, decay, *how)  # type: ignore[attr-defined]


def _needs_gradient(tensors: tuple[Tensor, ...]) -> bool:
    # Forward mode too: better refused than a tangent lost without a word.
    if forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _below_autograd(operator: Any, keyset: Any, *args: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keyset & torch._C._after_autograd_keyset, *args)


def _neighbour(x: Tensor, time_dim: int, following: bool) -> Tensor:
    """``x[t + 1]`` (or ``x[t - 1]``) at ``t``, zero past the end."""
    behind = x.dim() - 1 - time_dim % x.dim()
    padding = [0, 0] * behind + ([0, 1] if following else [1, 0])
    start = 1 if following else 0
    return torch.nn.functional.pad(x, padding).narrow(time_dim, start, x.size(time_dim))


def _recurrence_vmap(
    info: Any, in_dims: tuple, x: Tensor, decay: Tensor, time_dim: int, reverse: bool
) -> tuple[Tensor, int]:
    x, decay = _batched(info, in_dims, x, decay)
    return _recurrence(x, decay, _inside(time_dim), reverse), 0


def _batched(info: Any, in_dims: tuple, *tensors: Tensor) -> list[Tensor]:
    """The tensors with the mapped axis in front, where those not mapped are expanded."""
    return [
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(tensors, in_dims, strict=False)
    ]


def _inside(time_dim: int) -> int:
    """The time axis once another axis stands in front."""
    return time_dim if time_dim < 0 else time_dim + 1


_library.impl("linear_recurrence", _recurrence_autograd, "Autograd", with_keyset=True)
register_vmap(_recurrence, _recurrence_vmap, lib=_library)
