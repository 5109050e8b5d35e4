"""Large images through the network in overlapping tiles: memory is bounded by the tile, the result is that of one pass.

A convolutional network's feature depends on the pixels within half its receptive field. Tiles are read with that
margin on every side, start at multiples of the deepest stride (so that strided layers stay in phase), and only what
lies inside the margin is kept: with the default overlap, the default network's maps are those of the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from patchbank.arrays import Array, FloatArray
from patchbank.backbones.base import Backbone
from patchbank.errors import BackboneError
from patchbank.imaging.images import SIDE_MULTIPLE, normalise


@dataclass(frozen=True)
class Span:
    """A tile along one axis, in pixels: [start, stop) is kept of what is computed from [read_start, read_stop)."""

    start: int
    stop: int
    read_start: int
    read_stop: int


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Cuts an axis into spans of at most `tile` pixels read, of which `overlap` on every inner side are not kept.

    tile and overlap are multiples of SIDE_MULTIPLE; so are all starts, and stops but for the axis' end.
    """
    if length <= tile:
        return [Span(0, length, 0, length)]
    count = -(-length // (tile - 2 * overlap))
    step = -(-length // (count * SIDE_MULTIPLE)) * SIDE_MULTIPLE  # even parts
    return [
        Span(a, min(a + step, length), max(0, a - overlap), min(a + step + overlap, length))
        for a in range(0, length, step)
    ]


def layer_maps(image: Array, backbone: Backbone, tile: int, overlap: int) -> tuple[FloatArray, ...]:
    """(H, W, 3 G) RGB, 0..255 -> one (1, G C_l, H_l, W_l) float32 map a layer: the groups' channels in a row.

    Raises BackboneError for an image larger than a tile if the network's strides do not divide SIDE_MULTIPLE.
    """
    info = backbone.info
    rows, columns = spans(image.shape[0], tile, overlap), spans(image.shape[1], tile, overlap)

    def run(y: Span, x: Span) -> tuple[FloatArray, ...]:
        batch = normalise(image[y.read_start : y.read_stop, x.read_start : x.read_stop], info.mean, info.std)
        layers = backbone.features(batch)  # (G, C_l, ., .) for each layer
        return tuple(m.reshape(1, -1, *m.shape[2:]) for m in layers)  # (G, C_l, ., .) -> (1, G C_l, ., .)

    if len(rows) == len(columns) == 1:
        return run(rows[0], columns[0])
    strides = [layer.stride for layer in info.layers]
    if any(SIDE_MULTIPLE % stride for stride in strides):
        raise BackboneError(
            f"backbone {info.name} has layers of stride {strides}, which cannot be tiled; "
            f"expected divisors of {SIDE_MULTIPLE}: raise tile_size above the images' size"
        )
    whole: list[FloatArray] = []
    for y in rows:
        for x in columns:
            parts = run(y, x)
            if not whole:
                sizes = [[-(-side // stride) for side in image.shape[:2]] for stride in strides]
                whole = [np.empty((1, p.shape[1], *size), np.float32) for p, size in zip(parts, sizes, strict=True)]
            read = [s.read_stop - s.read_start for s in (y, x)]
            for target, part, stride in zip(whole, parts, strides, strict=True):
                if list(part.shape[2:]) != [-(-side // stride) for side in read]:
                    raise BackboneError(
                        f"backbone {info.name}: expected maps of stride {stride} of a tile of {read[0]}x{read[1]} "
                        f"pixels; got {part.shape[2]}x{part.shape[3]}: raise tile_size above the images' size"
                    )
                to_y, to_x = (slice(s.start // stride, -(-s.stop // stride)) for s in (y, x))
                at_y, at_x = (y.start - y.read_start) // stride, (x.start - x.read_start) // stride
                target[:, :, to_y, to_x] = part[
                    :, :, at_y : at_y + to_y.stop - to_y.start, at_x : at_x + to_x.stop - to_x.start
                ]
    return tuple(whole)
