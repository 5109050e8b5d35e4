"""What the rest of patchbank knows about a network: names, shapes, input statistics and one method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from patchbank.arrays import FloatArray

SIDE_MULTIPLE = 32  # sides that patchbank chooses are multiples of this: the deepest stride of convolutional networks
LARGEST_SIDE_MULTIPLE = 256  # what a network may ask for; more would be coarser than images are
LARGEST_STATISTIC, SMALLEST_STD = 1e9, 1e-6  # of mean and std: what float32 divides without trouble


@dataclass(frozen=True)
class Layer:
    """A named intermediate layer: channels and stride (input pixels between neighbouring positions)."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True)
class BackboneInfo:
    """All that a model needs to know about its network, and all that the model file's manifest says of it.

    `mean` and `std` normalise RGB values on the 0..255 scale: input = (rgb - mean) / std.
    `layers` are the outputs, in the order in which `Backbone.features` returns them (shallowest first).
    """

    name: str
    layers: tuple[Layer, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    embedding: str  # what `embedding = "auto"` means: "mean" for small backbones, "reference" for the paper's
    patch_size: int = 3  # what `patch_size = 0` means: 1 where a position is a patch by itself, as in a ViT
    side_multiple: int = 1  # sides of the input are multiples of it: a ViT sees nothing of what is left over

    @property
    def side_step(self) -> int:
        """Sides that patchbank chooses are multiples of this: SIDE_MULTIPLE, or `side_multiple` if that does not divide
        it."""
        return self.side_multiple if SIDE_MULTIPLE % self.side_multiple else SIDE_MULTIPLE


class Backbone(Protocol):
    """A frozen network that turns an image into intermediate feature maps."""

    @property
    def info(self) -> BackboneInfo: ...

    def features(self, images: FloatArray) -> tuple[FloatArray, ...]:
        """images: (B, 3, H, W) float32, normalised. Returns one (B, C_l, H_l, W_l) float32 array a layer of `info`.

        Two threads may call it at once.
        """
        ...

    def to_onnx(self) -> bytes:
        """The graph as an ONNX file's bytes (same backbone, same bytes): input (B, 3, H, W), one output a layer."""
        ...
