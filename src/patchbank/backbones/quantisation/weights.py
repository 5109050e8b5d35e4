"""Weights in 8 bits, and biases that make up for what rounding shifts on average."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from patchbank.arrays import CodeArray, DoubleArray, FloatArray, IntArray
from patchbank.backbones.quantisation.scales import Stored, factors_of_inputs
from patchbank.backbones.quantisation.units import Unit

LARGEST_WEIGHT = 127
# AVX2 and SSE4.1 without VNNI add two products of an unsigned and a signed byte in 16 bits and cut what is larger:
# 255 (|a| + |b|) must stay below 2^15 for the weights of neighbouring inputs, or processors would disagree.
LARGEST_PAIR = 128
_LARGEST_BIAS = 2.0**30  # of 32 bits


@dataclass(frozen=True, eq=False)
class Weights:
    """A convolution in whole numbers. weight: as in Unit, int8. scale: (C_out,) float32. bias: (C_out,) int32, in steps
    of `scale` times the input's scale."""

    weight: CodeArray
    scale: FloatArray
    bias: IntArray


def weights_of(unit: Unit, taken: Stored, made: Stored, mean: DoubleArray) -> Weights:
    """A convolution in whole numbers. taken, made: how its input and its output are stored. mean: (C_in,), its input's
    channels on average."""
    each = (slice(None), None, None, None)
    factor = factors_of_inputs(unit, taken.factor)[:, :, None, None]
    weight = unit.weight.astype(np.float64) * made.factor[each] / factor
    bias = unit.bias.astype(np.float64) * made.factor
    steps = np.maximum(_steps(unit, weight), np.abs(bias) / (float(taken.scale) * _LARGEST_BIAS))
    scale: FloatArray = steps.astype(np.float32)
    whole = np.rint(weight / scale[each])
    lost = (weight - whole * scale[each]).sum(axis=(2, 3))  # (C_out, C_in / groups)
    bias += (lost * factors_of_inputs(unit, mean * taken.factor)).sum(axis=1)
    step = (scale * taken.scale).astype(np.float64)
    return Weights(whole.astype(np.int8), scale, np.rint(bias / step).astype(np.int32))


def _steps(unit: Unit, weight: DoubleArray) -> DoubleArray:
    """(C_out,) the finest steps in which the weights fit into a byte and, where it matters, pairs of them into
    LARGEST_PAIR: a depthwise convolution is computed in 32 bits everywhere."""
    size = np.abs(weight)
    step = size.max(axis=(1, 2, 3)) / LARGEST_WEIGHT
    if not unit.depthwise:
        row = size.transpose(0, 2, 3, 1).reshape(len(size), -1)  # as the runtime lays it out: places, then channels
        pair = (row[:, 1:] + row[:, :-1]).max(axis=1, initial=0)
        step = np.maximum(step, pair / (LARGEST_PAIR - 1))  # rounding adds up to half a step to each of a pair
    return np.maximum(step, 1e-12)
