"""Scalars on their way into a formula or an operator."""

import torch
from torch import Tensor


def as_scalar(value: float, like: Tensor) -> Tensor:
    """A float as a 0-d tensor, or a tensor, of ``like``'s dtype and device; keeps its gradient.

    In a compiled graph a coefficient must not become a constant, or each new value would compile a
    new graph. TorchDynamo keeps a float symbolic through an addition but not through
    ``scalar_tensor``, which is three times as fast eagerly. An exporter takes a float through
    float32, but not a tensor.
    """
    if isinstance(value, Tensor):
        return value.to(dtype=like.dtype, device=like.device)
    if not torch.jit.is_scripting():
        if torch.compiler.is_dynamo_compiling():
            return torch.zeros([], dtype=like.dtype, device=like.device) + value
        if torch.compiler.is_exporting():
            return torch.tensor(value, dtype=like.dtype, device=like.device)
        return _rounded(value, like)
    return torch.scalar_tensor(value, dtype=like.dtype, device=like.device)


def _rounded(value: float, like: Tensor) -> Tensor:
    try:
        return torch.scalar_tensor(value, dtype=like.dtype, device=like.device)
    except RuntimeError:  # beyond the dtype: infinite, as in a compiled graph
        return torch.scalar_tensor(value, dtype=torch.float64, device=like.device).to(like.dtype)


def at_least_float(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float32 for half precision, in which a discount of 0.999 is one."""
    if dtype == torch.float16 or dtype == torch.bfloat16:
        return torch.float32
    return dtype


def widened(x: Tensor) -> Tensor:
    """``x`` in the dtype to compute in."""
    return x.to(at_least_float(x.dtype))
