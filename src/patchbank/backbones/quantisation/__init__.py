"""8-bit networks: a float32 network, and how large its activations are on some images -> the same network in whole
numbers, which is faster and gives the same numbers on every processor (docs/adr/0016-eight-bit-networks.md)."""

from __future__ import annotations

from collections.abc import Sequence

from patchbank.arrays import FloatArray
from patchbank.backbones.base import BackboneInfo
from patchbank.backbones.quantisation.ranges import Meter, Range, ranges_of
from patchbank.backbones.quantisation.units import Network, network_of

__all__ = ["Meter", "Network", "Range", "network_of", "quantised", "ranges_of"]


def quantised(network: Network, measured: Sequence[Sequence[FloatArray]], info: BackboneInfo) -> bytes:
    """The network's ONNX file in 8 bits (same measurements, same bytes). measured: what meters noted of the images.
    Raises BackboneError."""
    from patchbank.backbones.quantisation.graph import write
    from patchbank.backbones.quantisation.scales import stored_values
    from patchbank.backbones.quantisation.weights import weights_of

    ranges = ranges_of(network, measured)
    stored = stored_values(network, ranges, info)
    weights = {
        unit.output: weights_of(unit, stored[unit.inputs[0]], stored[unit.output], ranges[unit.inputs[0]].mean)
        for unit in network.units
        if unit.node.op_type == "Conv"
    }
    return write(network, stored, weights)
