"""The exponential and the logarithm, of float64, as the same bits on every processor.

Those of NumPy and of the C library differ in the last bit from one processor to another: they have versions for several
sets of instructions. Here are only additions, multiplications and divisions, each rounded by itself, as IEEE 754
defines it; they are right but for the last bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from patchbank.arrays import DoubleArray

# ln 2 in two parts: multiples of the first by whole numbers up to 2^11 are exact.
_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")
_LARGEST = 709.0  # above, the exponential comes close to float64's range
_SMALLEST = -745.2  # below, it is 0
_EXP = tuple(1 / math.factorial(n) for n in range(14))  # Taylor's coefficients: enough for |x| <= ln 2 / 2
_LOG = tuple(2 / (2 * n + 1) for n in range(11))  # of 2 artanh(s) in s^2: enough for |s| <= 0.172


def exp(x: Any) -> DoubleArray:
    """The exponential of numbers or an array, up to 709; above, it is infinite."""
    x = np.asarray(x, np.float64)
    within = np.clip(x, _SMALLEST, _LARGEST)
    whole = np.nan_to_num(np.rint(within / (_LN2_HIGH + _LN2_LOW)))
    rest = (within - whole * _LN2_HIGH) - whole * _LN2_LOW
    total = np.full(x.shape, _EXP[-1])
    for coefficient in _EXP[-2::-1]:
        total = total * rest + coefficient
    with np.errstate(under="ignore"):
        return np.where(x > _LARGEST, np.inf, np.ldexp(total, whole.astype(np.int32)))


def log(x: Any) -> DoubleArray:
    """The natural logarithm of numbers over 0, or an array of them."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))  # 0.5 <= mantissa < 1
    small = mantissa < math.sqrt(0.5)
    mantissa, exponent = np.where(small, 2 * mantissa, mantissa), exponent - small
    share = (mantissa - 1) / (mantissa + 1)
    square, total = share * share, np.full(mantissa.shape, _LOG[-1])
    for coefficient in _LOG[-2::-1]:
        total = total * square + coefficient
    return exponent * _LN2_HIGH + (exponent * _LN2_LOW + total * share)


def log1p(x: Any) -> DoubleArray:
    """The logarithm of 1 + x, exact for small x too; x > -1, not 0 (Kahan's formula)."""
    x = np.asarray(x, np.float64)
    above = 1 + x
    return np.where(above == 1, x, x * log(above) / np.where(above == 1, 1, above - 1))
