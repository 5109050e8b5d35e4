"""From a patch grid to an anomaly map and its picture: what a service draws of an inspection of which it has kept the
grid alone. A grid of 48 x 48 float16 takes 4.6 kB; a picture of it takes 60 to 770."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from patchbank.arrays import BoolArray, ByteArray, FloatArray
from patchbank.errors import ConfigError, ImageError
from patchbank.imaging.decoding import check_pixels
from patchbank.imaging.images import read_image, shown
from patchbank.imaging.overlay import check_colours, heatmap, overlay
from patchbank.imaging.roi import Roi
from patchbank.imaging.sources import ImageSource
from patchbank.scoring import scores
from patchbank.scoring.regions import mask_of, regions_of

MAX_PATCHES = 1 << 22
MAX_SIGMA = 100.0  # pixels: the most that a model may have


def anomaly_map(
    grid: npt.ArrayLike,
    *,
    image_size: tuple[int, int],
    input_size: tuple[int, int],
    smoothing_sigma: float,
    counted: BoolArray | None = None,
    roi: Roi | None = None,
) -> FloatArray:
    """A result's patch grid, (h, w) numbers -> its anomaly map, (H, W) float32 at the original image's size.

    grid: `Result.distances`, of any float type: of float32 the map is `Result.anomaly_map`, to the bit; of float16 it
    is off by at most 0.05 % of the largest distance. image_size: (H, W). input_size: (H', W') of the resized image.
    smoothing_sigma: in pixels of that. counted: (h, w) bool, the patches in the region of interest; None = all. roi:
    that region (`PatchCore.roi`), outside of which the map is 0. Raises ConfigError for values that no result has,
    ImageError for an image that is too large.
    """
    values = np.asarray(grid)
    if values.ndim != 2 or values.dtype.kind != "f" or not 1 <= values.size <= MAX_PATCHES:
        raise ConfigError(f"grid: expected floats of shape (h, w); got {values.dtype} of shape {values.shape}")
    if not (np.isfinite(values).all() and values.min() >= 0):
        raise ConfigError("grid: expected finite distances of at least 0")
    if counted is not None and (counted.shape != values.shape or counted.dtype != np.bool_ or not counted.any()):
        raise ConfigError(f"counted: expected booleans of shape {values.shape}, one of them true; got {counted.shape}")
    if not (math.isfinite(smoothing_sigma) and 0 <= smoothing_sigma <= MAX_SIGMA):
        raise ConfigError(f"smoothing_sigma: expected 0 to {MAX_SIGMA:g} pixels; got {smoothing_sigma!r}")
    sizes = [_size("image_size", image_size), _size("input_size", input_size)]
    return map_of(values.astype(np.float32, copy=False), sizes[0], sizes[1], smoothing_sigma, counted, roi)


def map_of(
    distances: FloatArray,
    image_size: tuple[int, int],
    input_size: tuple[int, int],
    sigma: float,
    counted: BoolArray | None,
    roi: Roi | None,
) -> FloatArray:
    """What `anomaly_map` returns, of values that are known to be a result's."""
    heat = scores.anomaly_map(distances, input_size, image_size, sigma, counted)
    return np.where(roi.inside(image_size), heat, np.float32(0)) if roi else heat


def heat_picture(
    grid: npt.ArrayLike,
    *,
    image_size: tuple[int, int],
    input_size: tuple[int, int],
    smoothing_sigma: float,
    threshold: float | None,
    image: ImageSource | None = None,
    counted: BoolArray | None = None,
    roi: Roi | None = None,
    colours: str = "orange",
) -> ByteArray:
    """A result's patch grid -> the picture of its anomaly map, (H, W, 3) uint8 RGB.

    threshold: `Result.pixel_threshold`, which the colours are multiples of; None scales by the map's own maximum, and
    then two pictures do not compare. image: the inspected image, of any kind that is read as colour or grey: the
    picture is `Result.overlay`, with the regions outlined; None: the heat alone, as opaque colours. colours: 'orange'
    or 'blue'. The other arguments, and what is raised, are as for `anomaly_map`; ImageError also for an image of
    another size.
    """
    check_colours(colours)
    if threshold is not None and not math.isfinite(threshold):
        raise ConfigError(f"threshold: expected a finite number or None; got {threshold!r}")
    heat = anomaly_map(
        grid,
        image_size=image_size,
        input_size=input_size,
        smoothing_sigma=smoothing_sigma,
        counted=counted,
        roi=roi,
    )
    if image is None:
        return heatmap(heat, threshold, colours=colours)
    picture = shown(read_image(image))
    if picture.shape[:2] != heat.shape:
        raise ImageError(f"expected the inspected image, {heat.shape} (height, width); got {picture.shape[:2]}")
    found = () if threshold is None else regions_of(heat, mask_of(heat, threshold))
    return overlay(picture, heat, threshold, found, colours=colours)


def _size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise ConfigError(f"{name}: expected (height, width) in pixels; got {size!r}")
    check_pixels(width, height)
    return height, width
