"""How activations are written in 8 bits: a factor for each channel, and a scale and zero point for each value.

stored = round(x * factor / scale) + zero point. The factor of a channel is part of the convolutions before and behind
(Nagel et al. 2019, "cross-layer equalisation"), so that small channels of a value are not lost beside large ones. No
operator computes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from patchbank.arrays import DoubleArray
from patchbank.backbones.base import BackboneInfo
from patchbank.backbones.quantisation.ranges import Range
from patchbank.backbones.quantisation.units import Network, Unit

LEVELS = 255  # steps of an unsigned byte
_MANTISSA = 12  # bits of a scale: what differs in the last bits of a measurement makes the same scale
_RATIO = 63  # a summand's scale is a whole multiple of its sum's, over this odd number
_LARGEST_FACTOR = 8.0
_HEADROOM = 1.2  # times what good images reach is stored: others, and defects, reach more
# How far the channels of a value are brought to one range: 0 = not at all, 1 = in full. In full would give good images'
# features the smallest error, and cut defects: they raise channels that are quiet in good images, up to 20 times
# (docs/adr/0016). Values that depthwise convolutions read, which have a scale for each channel; values of residual
# streams, and outputs; values that are read with one scale for all channels.
_BESIDE_DEPTHWISE, _RESIDUAL, _BESIDE_WEIGHTS = 0.4, 0.5, 0.2


@dataclass(frozen=True, eq=False)
class Stored:
    """How a value is stored. factor: (C,), what its channels are multiplied by. scale: one step. zero: what stands for
    0."""

    factor: DoubleArray
    scale: np.float32
    zero: int


def stored_values(network: Network, ranges: Mapping[str, Range], info: BackboneInfo) -> dict[str, Stored]:
    """How each of the network's measured values is stored."""
    limits = {name: _limits(network, name, ranges[name], info) for name in network.measured}
    factors = _factors(network, limits)
    found: dict[str, Stored] = {}
    for name, (low, high) in limits.items():
        bottom, top = float((low * factors[name]).min()), float((high * factors[name]).max())
        step = max((top - bottom) / LEVELS, 1e-12)
        zero = round(-bottom / step)
        # even, because halves round to even: it does not matter then whether a processor adds it before or after
        found[name] = Stored(factors[name], _short(step), zero if name == network.input else 2 * round(zero / 2))
    return _agreed(network, found)


def _limits(network: Network, name: str, measured: Range, info: BackboneInfo) -> tuple[DoubleArray, DoubleArray]:
    """(C,) smallest and (C,) largest number that can be stored."""
    if name == network.input:  # known, whatever the images are
        mean, std = np.array(info.mean), np.array(info.std)
        return np.minimum(-mean / std, 0), np.maximum((255 - mean) / std, 0)
    unit = next((unit for unit in network.units if unit.output == name), None)
    low, high = _HEADROOM * np.minimum(measured.low, 0), _HEADROOM * np.maximum(measured.high, 0)
    if unit is None or unit.ceiling is None:
        return low, high
    return np.zeros_like(low), np.minimum(high, unit.ceiling)


def _factors(network: Network, limits: Mapping[str, tuple[DoubleArray, DoubleArray]]) -> dict[str, DoubleArray]:
    factors: dict[str, DoubleArray] = {}
    made = {unit.output for unit in network.units}
    outputs = {output.name for output in network.model.graph.output}
    for group in _tied(network, ("Add", "MaxPool")):
        reach = np.max([np.maximum(-limits[name][0], limits[name][1]) for name in group], axis=0)  # (C,)
        power = _power(network, group, outputs) if set(group) <= made else 0.0
        reach = np.maximum(reach, reach.max() / _LARGEST_FACTOR)
        factor = (reach.max() / reach) ** power if reach.max() > 0 else np.ones_like(reach)
        factors |= dict.fromkeys(group, factor)
    return factors


def _power(network: Network, group: Iterable[str], outputs: set[str]) -> float:
    """How far the channels of some values, which share their factors, are brought to one range."""
    names = set(group)
    readers = [unit for unit in network.units if names & set(unit.inputs) and unit.node.op_type == "Conv"]
    if len(names) > 1 or names & outputs:
        return _RESIDUAL
    return _BESIDE_DEPTHWISE if readers and all(unit.depthwise for unit in readers) else _BESIDE_WEIGHTS


def _tied(network: Network, operators: tuple[str, ...]) -> list[list[str]]:
    """The values, in groups that such operators tie together: their inputs and outputs."""
    root = {name: name for name in network.measured}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for unit in network.units:
        if unit.node.op_type in operators:
            for name in unit.inputs:
                root[find(name)] = find(unit.output)
    groups: dict[str, list[str]] = {}
    for name in network.measured:
        groups.setdefault(find(name), []).append(name)
    return list(groups.values())


def _agreed(network: Network, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """The values with scales on which operators agree. Pooled ones keep their input's. Sums that hang together have one
    scale, and each summand a whole multiple of an odd part of it: then no sum comes closer to a half than 1/126 of a
    step. How a processor computes it (products fused into sums or not) and rounds halves cannot matter."""
    found = dict(stored)
    same = _tied(network, ("MaxPool",))
    for names in same:
        widest = max((found[name] for name in names), key=lambda each: float(each.scale))
        found |= {name: replace(widest, factor=found[name].factor) for name in names}
    pooled = {name: names for names in same for name in names}
    sums = {unit.output for unit in network.units if unit.node.op_type == "Add"}
    for group in _tied(network, ("Add", "MaxPool")):
        names = [name for name in group if name in sums]
        if not names:
            continue
        scale = max(found[name].scale for name in names)
        for name in group:
            steps = 1.0 if name in sums else math.ceil(float(found[name].scale) / float(scale) * _RATIO - 1e-6) / _RATIO
            for each in pooled[name]:
                found[each] = replace(found[each], scale=np.float32(float(scale) * steps))
    return found


def _short(value: float) -> np.float32:
    """The smallest number of _MANTISSA bits that is no smaller."""
    mantissa, exponent = math.frexp(value)
    return np.float32(math.ldexp(math.ceil(mantissa * 2**_MANTISSA - 1e-6) / 2**_MANTISSA, exponent))


def factors_of_inputs(unit: Unit, factor: DoubleArray) -> DoubleArray:
    """(C_out, C_in / groups): the factor of the input channel that each of a convolution's weights multiplies."""
    outputs, inputs = unit.weight.shape[:2]
    first = np.arange(outputs) // (outputs // unit.groups) * inputs  # (C_out,) the first channel of its group
    return factor[first[:, None] + np.arange(inputs)]
