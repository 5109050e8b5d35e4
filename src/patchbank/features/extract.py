"""Images' way to their patches, the same for fit and predict: region of interest, resize, network, embedding."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from patchbank.arrays import Array
from patchbank.backbones import Backbone
from patchbank.config import Config
from patchbank.errors import ImageError, PatchbankError
from patchbank.features.embedding import Patches, embed
from patchbank.features.tiling import layer_maps
from patchbank.imaging.images import Skipped, blank, input_size, read_image, reason_of, resize, thumbnail
from patchbank.imaging.roi import Roi
from patchbank.imaging.sources import ImageSource, held, is_open_file, is_path, name_of, own, unnamed
from patchbank.imaging.statistics import image_statistics
from patchbank.util.parallel import beside, in_order

# An image, its patches or why it has none, its thumbnail.
Described: TypeAlias = tuple[ImageSource, Patches | ImageError, bytes]


def patches_of(
    image: Array, backbone: Backbone, config: Config, roi: Roi | None, timings: dict[str, float] | None = None
) -> Patches:
    """(H, W, 3 G) RGB -> the features of its patches that count. timings: takes the seconds of each stage."""
    original, timings = (image.shape[0], image.shape[1]), {} if timings is None else timings
    with Clock(timings, "resize"):
        if roi:
            image = blank(image, roi.inside(original), backbone.info.mean)
        image = resize(image, input_size(config.image_size, image.shape, config.tile_size))  # (H', W', 3 G)
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


def described(sources: Iterable[ImageSource], embed: Callable[[Array], Patches], config: Config) -> Iterator[Described]:
    """Reads and embeds images, two at a time, in order: a little after they were taken from `sources` (see `taken`)."""

    def describe(source: ImageSource) -> Described:
        try:
            image = read_image(source, config.image_format)
            return source, embed(image), thumbnail(image, config.thumbnail_size)
        except ImageError as error:
            return source, error, b""
        except (PatchbankError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  (what one odd image raises must not end a fit of hours)
            unforeseen = ImageError(reason_of(error, os.fspath(source) if is_path(source) else ""))
            unforeseen.__cause__ = error
            return source, unforeseen, b""

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
