"""The Numba loops on tensors: layout, compilation, and the plain form where Numba is absent.

A loop is called by its address, on the tensors' addresses: NumPy views of the tensors would
cost more than the work on a small batch.
"""

import ctypes
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Optional

import torch
from torch import Tensor

from compiled_rl.kernels.doubling import plain_gae, plain_recurrence
from compiled_rl.kernels.layout import plan

_REALS = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}
# One letter an argument: an address of reals (r) or of bytes (b), a flag (?), a real scalar (s).
_ARGUMENTS = {"recurrence": "rrr?", "gae": "rrrbbbrr?ss"}
# Machine code lives as long as the object that it was compiled into.
_machine_code: list[object] = []


def linear_recurrence(x: Tensor, decay: Tensor, time_dim: int, reverse: bool) -> Tensor:
    """The operator ``compiled_rl::linear_recurrence`` on CPU."""
    loops = _loops("recurrence", x.dtype)
    if loops is None:
        return plain_recurrence(x, decay, time_dim, reverse)
    y = torch.empty_like(x)
    _run(loops, (x, decay, y), time_dim, reverse)
    return y


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: Tensor,
    lmbda: Tensor,
    mask: Optional[Tensor],
    time_dim: int,
) -> tuple[Tensor, Tensor]:
    """The operator ``compiled_rl::gae`` on CPU."""
    inputs = (reward, value, next_value, terminated, done)
    loops = _loops("gae", reward.dtype)
    if loops is None:
        return plain_gae(*inputs, gamma, lmbda, mask, time_dim)
    advantage, target = torch.empty_like(reward), torch.empty_like(reward)
    masked = mask is not None
    # Without a mask any bytes do in its place: they are not read.
    tensors = (*inputs, mask if mask is not None else done, advantage, target)
    _run(loops, tensors, time_dim, masked, gamma.item(), lmbda.item())
    return advantage, target


def _run(loops: Any, tensors: tuple[Tensor, ...], time_dim: int, *rest: object) -> None:
    """Call the loop that suits the layout, once, or once for each remaining batch index."""
    strides = tuple([x.stride() for x in tensors])
    walk = plan(tensors[0].shape, strides, time_dim)
    across, along = loops
    loop = along if walk.along else across
    pointers = [x.data_ptr() for x in tensors]
    for geometry in walk.geometries:
        loop(geometry, *pointers, *rest)


@cache
def _loops(name: str, dtype: torch.dtype) -> Optional[tuple[Callable, Callable]]:
    """The two loops of a kernel for a dtype, or nothing where the plain form must do."""
    if dtype not in _REALS or not _numba_works():
        return None
    return _compile(f"{name}_across", dtype), _compile(f"{name}_along", dtype)


@cache
def _numba_works() -> bool:
    """Compile a first loop; where that fails, say so once."""
    try:
        _compile("recurrence_across", torch.float32)
    except Exception as error:
        warnings.warn(
            f"compiled_rl: Numba cannot compile here ({error!r}); the slower torch form is used",
            stacklevel=2,
        )
        return False
    return True


@cache
def _compile(name: str, dtype: torch.dtype) -> Callable:
    """One loop as a function of addresses: of the geometry, then by its letters."""
    from numba import types

    from compiled_rl.kernels import loops

    letters = _ARGUMENTS[name.split("_")[0]]
    real = types.float32 if dtype is torch.float32 else types.float64
    reals, flags = types.CPointer(real), types.CPointer(types.uint8)
    typed = {"r": reals, "b": flags, "?": types.boolean, "s": real}
    signature = types.void(types.CPointer(types.int64), *[typed[letter] for letter in letters])
    address = ctypes.c_void_p
    passed = {"r": address, "b": address, "?": ctypes.c_bool, "s": _REALS[dtype]}
    prototype = ctypes.CFUNCTYPE(None, address, *[passed[letter] for letter in letters])
    compiled = _cached(getattr(loops, name), signature)
    _machine_code.append(compiled)
    return prototype(compiled.address)


def _cached(loop: Callable, signature: Any) -> Any:
    """The compiled loop, kept on disk between processes where a directory can be written to."""
    from numba import cfunc

    options: Any = {"error_model": "numpy", "nogil": True, "fastmath": {"contract"}}
    try:
        return cfunc(signature, cache=True, **options)(loop)
    except (RuntimeError, OSError):
        return cfunc(signature, **options)(loop)
