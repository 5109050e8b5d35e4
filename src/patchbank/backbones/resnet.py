"""ResNet and Wide-ResNet as torchvision has them (the stride sits in a bottleneck's 3x3 convolution)."""

from __future__ import annotations

from patchbank.backbones.base import Layer
from patchbank.backbones.graph import GraphBuilder, Weights
from patchbank.backbones.zoo import ResStage

STEM_CHANNELS = 64
BATCH_NORM_EPS = 1e-5


def build(name: str, stages: tuple[ResStage, ...], layers: tuple[Layer, ...], weights: Weights) -> bytes:
    """The ONNX file of the network up to the deepest of `layers` ("layer1" .. "layer4": the stages' outputs).

    `weights` has torchvision's names. A stage that is as wide inside as at its end has basic blocks (two 3x3
    convolutions), otherwise bottlenecks (1x1, 3x3, 1x1).
    """
    graph = GraphBuilder(weights, BATCH_NORM_EPS)

    def relu(x: str, output: str = "") -> str:
        return graph.node("Relu", [x], output or f"{x}.relu")

    def block(x: str, output: str, prefix: str, c_in: int, stage: ResStage, stride: int) -> str:
        width, c_out = stage.width, stage.channels
        if width == c_out:
            steps = [((width, c_in, 3, 3), stride), ((c_out, width, 3, 3), 1)]
        else:
            steps = [((width, c_in, 1, 1), 1), ((width, width, 3, 3), stride), ((c_out, width, 1, 1), 1)]
        y = x
        for i, (shape, step) in enumerate(steps, 1):
            y = graph.conv(y, f"{prefix}.out{i}", f"{prefix}.conv{i}", f"{prefix}.bn{i}", shape, stride=step)
            y = relu(y) if i < len(steps) else y
        shortcut = x
        if stride != 1 or c_in != c_out:
            down, shape = f"{prefix}.downsample", (c_out, c_in, 1, 1)
            shortcut = graph.conv(x, f"{down}.out", f"{down}.0", f"{down}.1", shape, stride=stride)
        return relu(graph.node("Add", [y, shortcut], f"{prefix}.sum"), output)

    x = relu(graph.conv("image", "stem", "conv1", "bn1", (STEM_CHANNELS, 3, 7, 7), stride=2))
    x = graph.node("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = STEM_CHANNELS
    for i, stage in enumerate(stages, 1):
        for j in range(stage.blocks):
            output = f"layer{i}" if j == stage.blocks - 1 else f"layer{i}.{j}"
            x = block(x, output, f"layer{i}.{j}", channels, stage, stage.stride if j == 0 else 1)
            channels = stage.channels
        if x == layers[-1].name:
            break
    return graph.build(name, "image", layers)
