"""EfficientNet-Lite: MBConv blocks with ReLU6 and no squeeze-and-excitation, padded as TensorFlow does."""

from __future__ import annotations

from patchbank.backbones.base import Layer
from patchbank.backbones.graph import GraphBuilder, Weights
from patchbank.backbones.zoo import MBStage

STEM_CHANNELS = 32
BATCH_NORM_EPS = 1e-3  # TensorFlow's default, not PyTorch's


def build(name: str, stages: tuple[MBStage, ...], layers: tuple[Layer, ...], weights: Weights) -> bytes:
    """The ONNX file of the network up to the deepest of `layers` ("blocks.0" .. "blocks.6": the stages' outputs).

    `weights` has the names of the published checkpoints (`_conv_stem`, `_blocks.N._depthwise_conv`, ...), in which the
    blocks are numbered through all stages.
    """
    graph = GraphBuilder(weights, BATCH_NORM_EPS)
    low, high = graph.constant("zero", 0.0), graph.constant("six", 6.0)

    def relu6(x: str) -> str:
        return graph.node("Clip", [x, low, high], f"{x}.relu6")

    def block(x: str, output: str, index: int, c_in: int, stage: MBStage, stride: int) -> str:
        prefix, inner, y = f"_blocks.{index}", c_in * stage.expand, x
        if stage.expand > 1:
            shape = (inner, c_in, 1, 1)
            y = relu6(graph.conv(y, f"{prefix}.expand", f"{prefix}._expand_conv", f"{prefix}._bn0", shape))
        shape = (inner, 1, stage.kernel, stage.kernel)
        weight, norm = f"{prefix}._depthwise_conv", f"{prefix}._bn1"
        y = relu6(graph.conv(y, f"{prefix}.depthwise", weight, norm, shape, stride=stride, groups=inner, same=True))
        residual = stride == 1 and c_in == stage.channels
        projected = f"{prefix}.project" if residual else output
        shape = (stage.channels, inner, 1, 1)
        y = graph.conv(y, projected, f"{prefix}._project_conv", f"{prefix}._bn2", shape)
        return graph.node("Add", [y, x], output) if residual else y

    x = relu6(graph.conv("image", "stem", "_conv_stem", "_bn0", (STEM_CHANNELS, 3, 3, 3), stride=2, same=True))
    channels, index = STEM_CHANNELS, 0
    for i, stage in enumerate(stages):
        for j in range(stage.blocks):
            output = f"blocks.{i}" if j == stage.blocks - 1 else f"_blocks.{index}.output"
            x = block(x, output, index, channels, stage, stage.stride if j == 0 else 1)
            channels, index = stage.channels, index + 1
        if x == layers[-1].name:
            break
    return graph.build(name, "image", layers)
