"""A network for tests: no weights, no training, milliseconds, and yet features that follow the image."""

from __future__ import annotations

import numpy as np

from patchbank.arrays import FloatArray
from patchbank.backbones.base import BackboneInfo, Layer
from patchbank.backbones.zoo import IMAGENET_MEAN, IMAGENET_STD
from patchbank.errors import BackboneError


class FakeBackbone:
    """A Backbone without a network: each layer is a random projection of the averaged colours of its pixels.

    A position of layer l sees the four quarters of its square: quarter means (12 numbers) -> channels, through a matrix
    drawn from `seed` and the layer's place. Deterministic, linear and local: a changed pixel changes one position of
    each map. `to_onnx` is the same computation as a graph (a convolution a layer), so a saved model restores into a
    real session.
    """

    def __init__(
        self,
        layers: tuple[Layer, ...] = (Layer("stride8", 12, 8), Layer("stride16", 20, 16)),
        seed: int = 0,
        embedding: str = "mean",
    ) -> None:
        for layer in layers:
            if layer.stride < 2 or layer.stride % 2 or layer.channels < 1:
                raise BackboneError(f"FakeBackbone needs even strides and at least one channel, got {layer}")
        self._info = BackboneInfo("fake", layers, IMAGENET_MEAN, IMAGENET_STD, "Apache-2.0", embedding)
        self._kernels = [self._kernel(layer, np.random.default_rng([seed, i])) for i, layer in enumerate(layers)]

    @property
    def info(self) -> BackboneInfo:
        """Name, layers, input statistics, licence."""
        return self._info

    def features(self, images: FloatArray) -> tuple[FloatArray, ...]:
        """images: (B, 3, H, W) float32. Returns one (B, C_l, H // stride_l, W // stride_l) float32 array a layer."""
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.float32 or 0 in images.shape:
            raise BackboneError(
                f"expected a non-empty float32 array of shape (B, 3, H, W), got {images.dtype} of shape {images.shape}"
            )
        return tuple(
            self._project(images, layer.stride, kernel)
            for layer, kernel in zip(self._info.layers, self._kernels, strict=True)
        )

    def to_onnx(self) -> bytes:
        """The same computation as an ONNX file's bytes."""
        from onnx import TensorProto, helper, numpy_helper

        nodes, outputs, kernels = [], [], []
        for layer, kernel in zip(self._info.layers, self._kernels, strict=True):
            s = layer.stride
            weight = kernel.repeat(s // 2, 2).repeat(s // 2, 3) / (s // 2) ** 2  # (C, 3, 2, 2) -> (C, 3, s, s)
            kernels.append(numpy_helper.from_array(weight.astype(np.float32), f"{layer.name}.weight"))
            inputs = ["image", f"{layer.name}.weight"]
            nodes.append(helper.make_node("Conv", inputs, [layer.name], kernel_shape=[s, s], strides=[s, s]))
            shape: list[str | int | None] = ["batch", layer.channels, f"{layer.name}.height", f"{layer.name}.width"]
            outputs.append(helper.make_tensor_value_info(layer.name, TensorProto.FLOAT, shape))
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])
        graph = helper.make_graph(nodes, "fake", [image], outputs, kernels)
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
        serialized: bytes = model.SerializeToString(deterministic=True)
        return serialized

    @staticmethod
    def _kernel(layer: Layer, rng: np.random.Generator) -> FloatArray:
        return rng.standard_normal((layer.channels, 3, 2, 2), dtype=np.float32)

    @staticmethod
    def _project(images: FloatArray, stride: int, kernel: FloatArray) -> FloatArray:
        batch, half = len(images), stride // 2
        rows, columns = images.shape[2] // stride, images.shape[3] // stride
        if rows == 0 or columns == 0:
            raise BackboneError(f"expected images of at least {stride}x{stride} pixels, got shape {images.shape}")
        whole = images[:, :, : rows * stride, : columns * stride]
        quarters = whole.reshape(batch, 3, rows, 2, half, columns, 2, half).mean(axis=(4, 7))  # (B, 3, R, 2, K, 2)
        flat = quarters.transpose(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, 12)  # (B, R K, 3 x 2 x 2)
        projected = flat @ kernel.reshape(-1, 12).T  # (B, R K, C)
        return np.ascontiguousarray(projected.transpose(0, 2, 1)).reshape(batch, -1, rows, columns)  # (B, C, R, K)
