"""Images' way to their patches, the same for fit and predict: region of interest, resize, network, embedding."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from patchbank.arrays import Array, BoolArray, FloatArray
from patchbank.backbones import Backbone, BackboneInfo
from patchbank.config import Config
from patchbank.errors import BackboneError, ImageError, PatchbankError
from patchbank.features.embedding import ImageStatistics, Patches, embed
from patchbank.imaging.images import (
    Skipped,
    blank,
    input_size,
    normalise,
    read_image,
    reason_of,
    thumbnail,
)
from patchbank.imaging.resize import resize, resize_plane
from patchbank.imaging.roi import Roi
from patchbank.imaging.sources import ImageSource, held, is_open_file, is_path, name_of, own, unnamed
from patchbank.native.sums import row_sums
from patchbank.util.parallel import beside, in_order

Keep: TypeAlias = Callable[[Array], Any]


class Described(NamedTuple):
    """An image, its patches or why it has none, its thumbnail, and what `keep` of `described` returned for it."""

    source: ImageSource
    patches: Patches | ImageError
    thumbnail: bytes
    kept: Any = None


def patches_of(
    image: Array, backbone: Backbone, config: Config, roi: Roi | None, timings: dict[str, float] | None = None
) -> Patches:
    """(H, W, 3 G) RGB -> the features of its patches that count. timings: takes the seconds of each stage."""
    original, timings = (image.shape[0], image.shape[1]), {} if timings is None else timings
    with Clock(timings, "resize"):
        image = resized(image, backbone, config, roi)
    return patches_of_resized(image, original, backbone, config, roi, timings)


def resized(image: Array, backbone: Backbone, config: Config, roi: Roi | None) -> Array:
    """(H, W, 3 G) RGB -> (H', W', 3 G): what the network gets, before it is normalised."""
    if roi:
        image = blank(image, roi.inside((image.shape[0], image.shape[1])), backbone.info.mean)
    size = input_size(config.image_size, image.shape, config.tile_size, backbone.info.side_step)
    return resize(image, size)


def patches_of_resized(
    image: Array,
    original: tuple[int, int],
    backbone: Backbone,
    config: Config,
    roi: Roi | None,
    timings: dict[str, float],
) -> Patches:
    """(H', W', 3 G), as `resized` returned it for an image of `original` (height, width) -> the rest of
    `patches_of`."""
    size = (image.shape[0], image.shape[1])
    looking = beside(lambda: image_statistics(image, original, roi.inside(size) if roi else None))
    with Clock(timings, "backbone"):
        layers = layer_maps(image, backbone, config.tile_size, config.tile_overlap)  # (1, G C_l, H_l, W_l) for each
    with Clock(timings, "scene"):
        look = looking()
    with Clock(timings, "embed"):
        features = embed(layers, config)[0]  # (1, h, w, D) -> (h, w, D)
    grid = (features.shape[0], features.shape[1])
    place = np.flatnonzero(roi.inside(grid)) if roi else np.arange(grid[0] * grid[1])
    flat = features.reshape(-1, features.shape[2])  # (h, w, D) -> (P, D)
    if len(place) == 0:
        raise ImageError("no patch lies in the region of interest; use a larger region or a larger image_size")
    return Patches(flat[place] if roi else flat, place.astype(np.int32), grid, size, look)


def described(
    sources: Iterable[ImageSource], embed: Callable[[Array], Patches], config: Config, keep: Keep | None = None
) -> Iterator[Described]:
    """Reads and embeds images, two at a time, in order: a little after they were taken from `sources` (see `taken`).
    keep: makes of an image, (H, W, 3 G), what else of it is wanted."""

    def describe(source: ImageSource) -> Described:
        try:
            image = read_image(source, config.image_format)
            patches, small = embed(image), thumbnail(image, config.thumbnail_size)
            return Described(source, patches, small, keep(image) if keep else None)
        except ImageError as error:
            return Described(source, error, b"")
        except (PatchbankError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  (what one odd image raises must not end a fit of hours)
            unforeseen = ImageError(reason_of(error, os.fspath(source) if is_path(source) else ""))
            unforeseen.__cause__ = error
            return Described(source, unforeseen, b"")

    return in_order(describe, sources)


def usable(images: Sequence[ImageSource], skipped: Sequence[Skipped]) -> list[ImageSource]:
    """The images that a fit could use, in the order of its bank's `images`."""
    unreadable = {each.name for each in skipped}
    return [image for number, image in enumerate(images) if name_of(image, number) not in unreadable]


def taken(images: Iterable[ImageSource]) -> Iterable[ImageSource]:
    """The images, to be read after the next ones were taken. A camera may write each into the buffer of the one before:
    what an iterator hands out is copied at once. A list or tuple is what it is, but for open files: their bytes."""
    if not isinstance(images, (list, tuple)):
        return map(own, images)
    return list(map(held, images)) if any(map(is_open_file, map(unnamed, images))) else images


class Clock:
    """Adds the seconds that its block takes to `timings[stage]`."""

    def __init__(self, timings: dict[str, float], stage: str) -> None:
        self._timings, self._stage = timings, stage

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._timings[self._stage] = self._timings.get(self._stage, 0.0) + time.perf_counter() - self._start


@dataclass(frozen=True)
class Span:
    """A tile along one axis, in pixels: [start, stop) is kept of what is computed from [read_start, read_stop)."""

    start: int
    stop: int
    read_start: int
    read_stop: int


def spans(length: int, tile: int, overlap: int, step: int) -> list[Span]:
    """Cuts an axis into spans of at most `tile` pixels read, of which `overlap` on every inner side are not kept.

    tile and overlap are multiples of `step`; so are all starts, and stops but for the axis' end.
    """
    if length <= tile:
        return [Span(0, length, 0, length)]
    count = -(-length // (tile - 2 * overlap))
    width = -(-length // (count * step)) * step  # even parts
    return [
        Span(a, min(a + width, length), max(0, a - overlap), min(a + width + overlap, length))
        for a in range(0, length, width)
    ]


def tiles_in_phase(tile: int, overlap: int, info: BackboneInfo) -> tuple[int, int]:
    """Tile and overlap as multiples of the network's `side_step`: no larger a tile, no smaller an overlap.

    2048 and 192 stay what they are for strides that divide 32; for a ViT of 14 x 14 patches they become 2044 and 196.
    Raises BackboneError where no tile is left.
    """
    step = info.side_step
    rounded = tile // step * step, -(-overlap // step) * step
    if rounded[0] <= 2 * rounded[1]:
        raise BackboneError(
            f"backbone {info.name} takes tiles whose sides are multiples of {step}: tile_size {tile} and tile_overlap "
            f"{overlap} become {rounded[0]} and {rounded[1]}; expected a tile_size of more than {2 * rounded[1] + step}"
        )
    return rounded


def layer_maps(image: Array, backbone: Backbone, tile: int, overlap: int) -> tuple[FloatArray, ...]:
    """(H, W, 3 G) RGB, 0..255 -> one (1, G C_l, H_l, W_l) float32 map a layer: the groups' channels in a row.

    Raises BackboneError for an image larger than a tile if the network's strides do not divide its `side_step`.
    """
    info = backbone.info
    if max(image.shape[:2]) > tile:
        tile, overlap = tiles_in_phase(tile, overlap, info)
    rows, columns = (spans(side, tile, overlap, info.side_step) for side in image.shape[:2])

    def run(y: Span, x: Span) -> tuple[FloatArray, ...]:
        batch = normalise(image[y.read_start : y.read_stop, x.read_start : x.read_stop], info.mean, info.std)
        layers = backbone.features(batch)  # (G, C_l, ., .) for each layer
        return tuple(m.reshape(1, -1, *m.shape[2:]) for m in layers)  # (G, C_l, ., .) -> (1, G C_l, ., .)

    if len(rows) == len(columns) == 1:
        return run(rows[0], columns[0])
    strides = [layer.stride for layer in info.layers]
    if any(info.side_step % stride for stride in strides):
        raise BackboneError(
            f"backbone {info.name} has layers of stride {strides}, which cannot be tiled; "
            f"expected divisors of {info.side_step}: raise tile_size above the images' size"
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


_COARSER = 4  # sharpness compares the image's gradients with those of its reduction by this factor
_SIDE = 96  # the median of brightness is taken on a reduction to about this size, which is as good and quicker


def image_statistics(image: Array, size: tuple[int, int], inside: BoolArray | None = None) -> ImageStatistics:
    """image: (H, W, C) in 0..255, as the network gets it; `size`: (height, width) before it was resized. inside: (H, W)
    bool, the pixels that count; None = all."""
    height, width, channels = image.shape
    total = _sum_of_channels(image)
    small_size, coarse_size = statistics_sizes(height, width)
    small, small_inside = _reduced(total, inside, small_size)
    coarse, coarse_inside = (small, small_inside) if small_size == coarse_size else _reduced(total, inside, coarse_size)
    brightness = float(np.median(small if small_inside is None else small[small_inside])) / channels
    fine, rough = _gradient(total, inside) / channels, _gradient(coarse, coarse_inside) / channels
    return ImageStatistics(brightness, (fine + 0.01) / (rough + 0.04), *size)  # defined where both are 0


def statistics_sizes(height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of the reductions of an image of this size that its brightness and its sharpness are taken
    from."""
    small = (min(_SIDE, height), min(_SIDE, width))
    return small, (max(height // _COARSER, 2), max(width // _COARSER, 2))


def _sum_of_channels(image: Array) -> FloatArray:
    """(H, W, C) -> (H, W) float32. What is added are whole numbers, or multiples of 1/16: the order does not matter."""
    import cv2

    values = image.astype(np.float32)
    if image.dtype != np.uint8:
        values = np.rint(values * np.float32(16)) / np.float32(16)
    total: FloatArray = cv2.transform(values, np.ones((1, image.shape[2]), np.float32))  # type: ignore[assignment]
    return total


def _reduced(plane: FloatArray, inside: BoolArray | None, size: tuple[int, int]) -> tuple[FloatArray, BoolArray | None]:
    return resize_plane(plane, size), reduced_inside(inside, size)


def reduced_inside(inside: BoolArray | None, size: tuple[int, int]) -> BoolArray | None:
    """Which pixels of a reduction to (height, width) count; None = all, which is so too where nothing else would."""
    if inside is None:
        return None
    kept: BoolArray = resize_plane(inside.astype(np.float32), size) > 0.999
    return kept if kept.any() else None


def _gradient(plane: FloatArray, inside: BoolArray | None) -> float:
    """Mean absolute difference of neighbours that both count, down and across."""
    means = []
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differences = np.abs(plane[a] - plane[b])
        count = differences.size
        if inside is not None:
            both = inside[a] & inside[b]
            differences, count = differences * both, int(both.sum())
        means.append(math.fsum(row_sums(differences).tolist()) / max(count, 1))
    return sum(means) / 2
