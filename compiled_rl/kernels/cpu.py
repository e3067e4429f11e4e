"""The Numba loops on tensors: layout, compilation, and the plain form where Numba is absent.

A loop is called by its address, on the tensors' addresses: NumPy views of the tensors would
cost more than the work on a small batch.
"""

import ctypes
import hashlib
import struct
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor

from compiled_rl.extras import what_is_missing
from compiled_rl.kernels import threads
from compiled_rl.kernels.doubling import plain_recurrence
from compiled_rl.kernels.layout import plan
from compiled_rl.kernels.table import Kernel

_SLOWER = "compiled_rl: the slower torch form is used on CPU"
# Machine code lives as long as the object that it was compiled into.
_machine_code: list[object] = []


def linear_recurrence(x: Tensor, decay: Tensor, time_dim: int, reverse: bool) -> Tensor:
    """The operator ``compiled_rl::linear_recurrence`` on CPU."""
    if not works(x.dtype):
        return plain_recurrence(x, decay, time_dim, reverse)
    y = torch.empty_like(x)
    _run("recurrence", (), (x, decay, y), (), reverse, time_dim)
    return y


def fused(
    kernel: Kernel,
    tensors: tuple[Tensor, ...],
    scalars: Sequence[float | Tensor],
    mask: Optional[Tensor],
    time_dim: int,
) -> tuple[Tensor, ...]:
    """A fused estimator on CPU, its arguments checked."""
    outputs = tuple([torch.empty_like(tensors[0]) for _ in range(kernel.outputs)])
    flags, reals = kernel.sorted(tensors)
    # Without a mask any bytes do in its place: they are not read.
    flags += (flags[0] if mask is None else mask,)
    _run(kernel.name, flags, reals + outputs, scalars, mask is not None, time_dim)
    return outputs


def _run(
    name: str,
    flags: tuple[Tensor, ...],
    reals: tuple[Tensor, ...],
    scalars: Sequence[float | Tensor],
    switch: bool,
    time_dim: int,
) -> None:
    """Call the loop that suits the layout."""
    y = reals[-1]
    strides = tuple([x.stride() for x in flags + reals])
    walk = plan(y.shape, strides, time_dim, threads.useful(y.numel()))
    loop = _loop(name, "along" if walk.along else "across", y.dtype)
    flag_addresses = struct.pack(f"{len(flags)}q", *[x.data_ptr() for x in flags])
    real_addresses = struct.pack(f"{len(reals)}q", *[x.data_ptr() for x in reals])
    numbers = struct.pack(f"{len(scalars)}d", *[float(x) for x in scalars])
    arguments = (flag_addresses, real_addresses, numbers, switch)
    threads.run(loop, walk.shares, arguments, (flags, reals))


@cache
def works(dtype: torch.dtype) -> bool:
    """Whether there are loops for a dtype here."""
    return dtype in (torch.float32, torch.float64) and _numba_works()


@cache
def _numba_works() -> bool:
    """Compile a first loop; where that fails, say so once."""
    try:
        _loop("recurrence", "across", torch.float32)
    except ModuleNotFoundError as error:
        warnings.warn(what_is_missing(_SLOWER, error), stacklevel=2)
        return False
    except Exception as error:
        warnings.warn(f"{_SLOWER}: Numba cannot compile here ({error!r})", stacklevel=2)
        return False
    return True


@cache
def _loop(name: str, walk: str, dtype: torch.dtype) -> Callable:
    """One loop as a function of addresses: see ``formulas``."""
    from numba import types

    from compiled_rl.kernels import formulas

    real = types.float32 if dtype is torch.float32 else types.float64
    pointer = types.CPointer
    tensors = (pointer(pointer(types.uint8)), pointer(pointer(real)))
    rest = (pointer(types.float64), types.boolean)
    signature = types.void(pointer(types.int64), *tensors, *rest)
    compiled = _cached(getattr(formulas, f"{name}_{walk}"), signature)
    _machine_code.append(compiled)
    address = ctypes.c_void_p
    prototype = ctypes.CFUNCTYPE(None, address, address, address, address, ctypes.c_bool)
    return prototype(compiled.address)


def _cached(loop: Callable, signature: Any) -> Any:
    """The compiled loop, kept on disk between processes where a directory can be written to."""
    from numba import cfunc

    options: Any = {"error_model": "numpy", "nogil": True, "fastmath": {"contract"}}
    try:
        # Numba's cache looks at the file of a function only, not at those that it calls into.
        loop.__qualname__ = f"{loop.__name__}_{_digest()}"
        return cfunc(signature, cache=True, **options)(loop)
    except (RuntimeError, OSError):
        return cfunc(signature, **options)(loop)


@cache
def _digest() -> str:
    here = Path(__file__).parent
    sources = [
        (here / name).read_bytes()
        for name in ("exponential.py", "formulas.py", "layout.py", "loops.py")
    ]
    return hashlib.sha256(b"".join(sources)).hexdigest()[:8]
