"""One image's way to its patches, the same for fit and predict: region of interest, resize, network, embedding."""

from __future__ import annotations

import time

import numpy as np

from patchbank.backbones import Backbone
from patchbank.config import Config
from patchbank.errors import ImageError
from patchbank.features.embedding import Patches, embed
from patchbank.features.tiling import layer_maps
from patchbank.imaging.images import Array, blank, input_size, resize
from patchbank.imaging.roi import Roi
from patchbank.imaging.statistics import look_at
from patchbank.util.parallel import beside


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
    looking = beside(lambda: look_at(image, original, roi.inside(size) if roi else None))
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


class Clock:
    """Adds the seconds that its block takes to `timings[stage]`."""

    def __init__(self, timings: dict[str, float], stage: str) -> None:
        self._timings, self._stage = timings, stage

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._timings[self._stage] = self._timings.get(self._stage, 0.0) + time.perf_counter() - self._start
