"""How large a network's activations are: measured while it runs on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchbank.arrays import DoubleArray, FloatArray
from patchbank.backbones.base import BackboneInfo
from patchbank.backbones.quantisation.units import Network
from patchbank.backbones.session import OnnxBackbone, make_session
from patchbank.config import Runtime
from patchbank.errors import BackboneError

_KINDS = {"low": "ReduceMin", "high": "ReduceMax", "mean": "ReduceMean"}
_AXES_ARE_INPUTS = 18  # the opset since which reductions take their axes as an input


@dataclass(frozen=True, eq=False)
class Range:
    """A value's channels (C,): the smallest and the largest number, and the mean."""

    low: DoubleArray
    high: DoubleArray
    mean: DoubleArray


class Meter:
    """A Backbone that measures: `features` gives what the network gives, and notes the ranges of every activation that
    a quantisation needs. Of one image: `measured` has them in the order in which its parts (tiles, groups of channels)
    came. `for_image` makes another one that shares the session."""

    def __init__(self, backbone: OnnxBackbone, network: Network) -> None:
        self._info = backbone.info
        self._to_onnx = backbone.to_onnx
        self._names, self._input = network.measured, network.input
        self._outputs = [layer.name for layer in backbone.info.layers]
        threads = backbone.runtime.threads
        self._session = make_session(_with_reductions(network), Runtime(threads=threads, trusted=True))
        self.measured: list[list[FloatArray]] = []

    def for_image(self) -> Meter:
        """A meter of the same network that has measured nothing."""
        new = object.__new__(Meter)
        new.__dict__.update(self.__dict__, measured=[])
        return new

    @property
    def info(self) -> BackboneInfo:
        """Name, layers, input statistics, licence."""
        return self._info

    def to_onnx(self) -> bytes:
        """The network that is measured."""
        return self._to_onnx()

    def features(self, images: FloatArray) -> tuple[FloatArray, ...]:
        """images: (B, 3, H, W) float32, normalised. Returns one (B, C_l, H_l, W_l) float32 array a layer."""
        names = [*self._outputs, *(f"{name}.{kind}" for name in self._names for kind in _KINDS)]
        parts = []
        for image in np.ascontiguousarray(images)[:, None]:  # (B, 3, H, W) -> B x (1, 3, H, W)
            try:
                values = self._session.run(names, {self._input: image})
            except Exception as error:  # ONNX Runtime's errors have no common base class
                raise BackboneError(f"backbone {self._info.name} failed while its activations were measured") from error
            parts.append(values[: len(self._outputs)])
            self.measured.append(values[len(self._outputs) :])
        return tuple(np.concatenate(layer) for layer in zip(*parts, strict=True))


def ranges_of(network: Network, measured: Sequence[Sequence[FloatArray]]) -> Mapping[str, Range]:
    """The ranges over all that meters measured, by name. Raises BackboneError for values that are not finite, or no
    maps (C, H, W)."""
    found = {}
    for place, name in enumerate(network.measured):
        low, high, mean = (np.array([part[3 * place + n] for part in measured], np.float64) for n in range(len(_KINDS)))
        if low.ndim != 2 or not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise BackboneError(
                f"precision = 'int8': expected finite numbers in maps (B, C, H, W), got others in {name!r}; use "
                "precision = 'float32'"
            )
        found[name] = Range(low.min(axis=0), high.max(axis=0), mean.mean(axis=0))  # (n, C) -> (C,)
    return found


def _with_reductions(network: Network) -> bytes:
    """The network with further outputs: of each measured value the smallest, largest and mean number a channel."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    opset = max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    axes: dict[str, Any] = {"axes": [0, 2, 3]}
    inputs: list[str] = []
    if opset >= _AXES_ARE_INPUTS:
        axes, inputs = {}, ["patchbank.axes"]
        model.graph.initializer.append(helper.make_tensor(inputs[0], TensorProto.INT64, [3], [0, 2, 3]))
    for name in network.measured:
        for kind, operator in _KINDS.items():
            taken = inputs if operator == "ReduceMean" or opset >= _AXES_ARE_INPUTS else []
            node = helper.make_node(operator, [name, *taken], [f"{name}.{kind}"], keepdims=0, **axes)
            model.graph.node.append(node)
            model.graph.output.append(helper.make_tensor_value_info(f"{name}.{kind}", TensorProto.FLOAT, None))
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized
