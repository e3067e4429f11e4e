# mypy: allow-untyped-defs
"""An exponential that LLVM vectorises: Numba's own is a call of the C library for each element.

    exp(x) = 2^k exp(r),   k = round(x / ln 2),   r = x - k ln 2

Adding ``1.5 * 2^m`` to a real of ``m`` binary digits rounds it to an integer, and leaves that
integer in the low bits of the sum. ``ln 2`` is subtracted in two parts, the first of which has so
few digits that its product with ``k`` is exact (Cody and Waite 1980).
"""

import numpy as np
from numba import types
from numba.extending import overload

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.121944400546905827679e-4

# A constant of a float64 would make float64 of every product with it.
_f = np.float32


def exp(x):
    """``exp(x)``, never infinite; zero where that would be below every normal number."""
    raise NotImplementedError("compiled only")


@overload(exp, jit_options={"forceinline": True, "error_model": "numpy", "fastmath": {"contract"}})
def _exp_of_dtype(x):
    return _exp_single if x == types.float32 else _exp_double


def _exp_single(x):
    bounded = _f(88) if x > _f(88) else x
    shifted = bounded * _f(_LOG2_E) + _f(1.5 * 2**23)
    k = shifted - _f(1.5 * 2**23)
    r = bounded - k * _f(_LN2_HIGH) - k * _f(_LN2_LOW)
    # The minimax polynomial of Cephes' expf (Moshier 1989).
    p = _f(1.9875691500e-4) * r + _f(1.3981999507e-3)
    p = p * r + _f(8.3334519073e-3)
    p = p * r + _f(4.1665795894e-2)
    p = p * r + _f(1.6666665459e-1)
    p = p * r + _f(5.0000001201e-1)
    power = np.int32((_f(shifted).view(np.int32) << 23) + (127 << 23)).view(np.float32)
    return _f(0) if x < _f(-87) else (p * (r * r) + r + _f(1)) * power


def _exp_double(x):
    bounded = 709.0 if x > 709.0 else x
    shifted = bounded * _LOG2_E + 1.5 * 2**52
    k = shifted - 1.5 * 2**52
    r = bounded - k * _LN2_HIGH - k * _LN2_LOW
    # Taylor's series: beyond r^13 it is below the last digit.
    p = r / 6227020800 + 1 / 479001600
    p = p * r + 1 / 39916800
    p = p * r + 1 / 3628800
    p = p * r + 1 / 362880
    p = p * r + 1 / 40320
    p = p * r + 1 / 5040
    p = p * r + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 1 / 2
    power = np.int64((np.float64(shifted).view(np.int64) << 52) + (1023 << 52)).view(np.float64)
    return 0.0 if x < -708.0 else (p * (r * r) + r + 1.0) * power
