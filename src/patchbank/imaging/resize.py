"""Images and masks at another size: averages over areas along an axis that shrinks, bilinear along one that grows.

The pixels are those of OpenCV's INTER_AREA and INTER_LINEAR on a processor that fuses no products and sums: weighted
sums of rows and columns, which `native.sums` adds in OpenCV's order, whatever the processor, in half of OpenCV's time.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from patchbank import native
from patchbank.arrays import Array, BoolArray, FloatArray
from patchbank.imaging.grey import grey_of, repeated
from patchbank.native.sums import Band, both_ways, resized


def resize(image: Array, size: tuple[int, int]) -> Array:
    """(H, W, 3 G) uint8 or float32 -> (height, width, 3 G), same dtype."""
    grey = grey_of(image)
    if grey is not None:
        return repeated(resize(grey[:, :, None], size)[:, :, 0])
    smaller = (min(size[0], image.shape[0]), min(size[1], image.shape[1]))
    if image.shape[:2] != smaller:
        image = _shrunk(image, smaller)
    return image if smaller == size else _grown(image, size)


def resize_plane(plane: FloatArray, size: tuple[int, int]) -> FloatArray:
    """(H, W) float32 -> (height, width)."""
    return both_ways(scaling(plane.shape[0], size[0]), scaling(plane.shape[1], size[1]), plane)


def scale_mask(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """(H, W) bool -> (height, width): True where at least half of a pixel's area is."""
    smaller = (min(size[0], mask.shape[0]), min(size[1], mask.shape[1]))
    inside = resize_plane(mask.astype(np.float32), smaller) >= 0.5
    rows, columns = (np.arange(side) * few // side for side, few in zip(size, smaller, strict=True))  # the nearest
    return inside[rows[:, None], columns]


@functools.lru_cache(maxsize=64)
def scaling(length: int, size: int) -> Band:
    """(size, length): along one axis."""
    return _area_averages(length, size) if size <= length else _bilinear(length, size)


def _shrunk(image: Array, size: tuple[int, int]) -> Array:
    whole = not any(side % few for side, few in zip(image.shape, size, strict=False))  # pixels are means of whole ones
    in_bytes = image.dtype == np.uint8
    if (in_bytes or not whole) and not native.available() and _opencv_fuses_nothing():
        return _by_opencv(image, size)
    if not whole:
        return resized(image, scaling(image.shape[0], size[0]), scaling(image.shape[1], size[1]))
    down, across = image.shape[0] // size[0], image.shape[1] // size[1]
    bias = 0.5 if in_bytes and down == across == 2 else 0.0  # OpenCV rounds halves up in this case only
    bands = (_sums(image.shape[0], size[0]), _sums(image.shape[1], size[1]))
    return resized(image, *bands, bias, float(1 / np.float32(down * across)))


def _grown(image: Array, size: tuple[int, int]) -> Array:
    if image.dtype == np.float32:
        return resized(image, scaling(image.shape[0], size[0]), scaling(image.shape[1], size[1]))
    import cv2

    groups = [image[:, :, c : c + 3] for c in range(0, image.shape[2], 3)]  # OpenCV takes four channels at most
    grown = [cv2.resize(each, size[::-1], interpolation=cv2.INTER_LINEAR) for each in groups]  # in whole numbers
    return np.concatenate([each.reshape(*size, -1) for each in grown], axis=2)


def _by_opencv(image: Array, size: tuple[int, int]) -> Array:
    import cv2

    groups = [image[:, :, c : c + 3] for c in range(0, image.shape[2], 3)]
    small: list[Any] = [cv2.resize(each, size[::-1], interpolation=cv2.INTER_AREA) for each in groups]
    return np.concatenate([each.reshape(*size, -1) for each in small], axis=2)


@functools.lru_cache(maxsize=1)
def _opencv_fuses_nothing() -> bool:
    """Says whether this OpenCV on this processor gives the same bits: then it is quicker than NumPy."""
    image = np.random.default_rng(0).random((61, 53, 3), np.float32)
    bands = scaling(61, 33), scaling(53, 31)
    return np.array_equal(_by_opencv(image, (33, 31)), resized(image, *bands))


def _sums(length: int, size: int) -> Band:
    """Sums of length / size neighbours."""
    count = length // size
    return Band((np.arange(size) * count).astype(np.int32), np.ones((size, count), np.float32), length)


def _area_averages(length: int, size: int) -> Band:
    """Averages over length / size neighbours; those that lie in two areas count in shares, but for those under a
    thousandth (OpenCV's rule)."""
    step = 1 / (size / length)
    low = np.arange(size) * step
    high, area = low + step, np.minimum(step, length - low)
    last = np.minimum(np.floor(high), length - 1)
    first = np.minimum(np.ceil(low), last)
    before, after = first - low > 1e-3, high - last > 1e-3
    start = (first - before).astype(np.int32)
    taps = int((last + after - start).max())
    start = np.minimum(start, length - taps)
    places = start[:, None] + np.arange(taps)
    first, last, area = first[:, None], last[:, None], area[:, None]
    shares = ((places >= first) & (places < last)) / area
    shares = np.where((places == first - 1) & before[:, None], (first - low[:, None]) / area, shares)
    end = np.minimum(np.minimum(high[:, None] - last, 1), area) / area
    shares = np.where((places == last) & after[:, None], end, shares)
    return Band(start, np.ascontiguousarray(shares, np.float32), length)


def _bilinear(length: int, size: int) -> Band:
    """Between the nearest two; half-pixel centres, no corner alignment."""
    position = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    first = np.minimum(np.floor(position).astype(np.int32), max(length - 2, 0))
    share = (position - first).astype(np.float32)
    weights = np.stack([1 - share, share], axis=1)[:, : min(length, 2)]
    return Band(first, np.ascontiguousarray(weights), length)
