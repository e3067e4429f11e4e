"""Elements at an index that may be out of range."""

from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_fake, register_vmap

_library = Library("compiled_rl", "FRAGMENT")


def at(function: str, x: Tensor, index: Tensor) -> Tensor:
    """Of each row of ``x``, ``[*B, N]``, the element of ``index``, int64 ``[*B]``.

    Raises:
        ValueError: an index is not in [0, N - 1]. On a GPU, and in an exported file, torch or the
            file's runtime says so.
    """
    index = index.unsqueeze(-1)
    if torch.compiler.is_exporting() or index.is_cuda:
        return x.gather(-1, index).squeeze(-1)
    if torch.compiler.is_compiling():
        # A kernel that met a wrong one would end the process.
        return x.gather(-1, _check_index(index, x.shape[-1], function)).squeeze(-1)
    try:
        return x.gather(-1, index).squeeze(-1)
    except (IndexError, RuntimeError):
        _check(index, x.shape[-1], function)
        raise


def _check(index: Tensor, count: int, function: str) -> None:
    while torch._C._functorch.is_functorch_wrapped_tensor(index):
        index = torch._C._functorch.get_unwrapped(index)
    if index.device.type != "cpu" or not index.numel():
        return
    low, high = (int(x) for x in index.aminmax())
    if low < 0 or high >= count:
        raise ValueError(f"{function}: `action` must be in [0, {count - 1}], got {low} to {high}")


def _checked(index: Tensor, count: int, function: str) -> Tensor:
    """A copy, on which depends whatever needs the check."""
    _check(index, count, function)
    return index.clone()


def _fake(index: Tensor, count: int, function: str) -> Tensor:
    return torch.empty_like(index)


def _vmap(
    info: Any, in_dims: tuple, index: Tensor, count: int, function: str
) -> tuple[Tensor, Any]:
    return _check_index(index, count, function), in_dims[0]


_name = _library.define(
    "check_index(Tensor index, SymInt count, str function) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.impl(_name, _checked, "CompositeExplicitAutograd")
register_fake(f"compiled_rl::{_name}", _fake, lib=_library)
_check_index = getattr(torch.ops.compiled_rl, _name).default
register_vmap(_check_index, _vmap, lib=_library)
