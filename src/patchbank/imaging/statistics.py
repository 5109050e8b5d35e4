"""What an image looks like as a whole, before any network has seen it: brightness, sharpness, size."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from patchbank.arrays import Array, BoolArray

_COARSER = 4  # sharpness compares the image's gradients with those of its reduction by this factor
_SIDE = 96  # the median of brightness is taken on a reduction to about this size, which is as good and quicker


class ImageStatistics(NamedTuple):
    """brightness: median grey level, 0..255. sharpness: mean gradient over that of the image reduced four times (1/4
    for a smooth ramp or an empty image, 4 for white noise). height, width: pixels of the original image."""

    brightness: float
    sharpness: float
    height: int
    width: int


def image_statistics(image: Array, size: tuple[int, int], inside: BoolArray | None = None) -> ImageStatistics:
    """image: (H, W, C) in 0..255, as the network gets it; `size`: (height, width) before it was resized. inside: (H, W)
    bool, the pixels that count; None = all."""
    import cv2

    height, width, channels = image.shape
    grey = cv2.transform(
        image.astype(np.float32), np.full((1, channels), 1 / channels, np.float32)
    )  # (H, W, C) -> (H, W)
    small, small_inside = _reduced(grey, inside, (min(_SIDE, height), min(_SIDE, width)))
    sides = (max(height // _COARSER, 2), max(width // _COARSER, 2))
    coarse, coarse_inside = (small, small_inside) if small.shape == sides else _reduced(grey, inside, sides)
    counted = small if small_inside is None else small[small_inside]
    sharpness = (_gradient(grey, inside) + 0.01) / (_gradient(coarse, coarse_inside) + 0.04)  # defined where both are 0
    return ImageStatistics(float(np.median(counted)), float(sharpness), *size)


def _reduced(grey: Any, inside: Any, size: tuple[int, int]) -> tuple[Any, Any]:
    """Area averages at another size, and which of its pixels count: if nothing else does, all of them."""
    import cv2

    small = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA)
    if inside is None:
        return small, None
    kept = cv2.resize(inside.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) > 0.999
    return small, kept if kept.any() else None


def _gradient(grey: Any, inside: Any) -> float:
    """Mean absolute difference of neighbours that both count, down and across."""
    import cv2

    means = []
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        both = None if inside is None else (inside[a] & inside[b]).astype(np.uint8)
        count = grey[a].size if both is None else int(both.sum())
        means.append(cv2.norm(grey[a], grey[b], cv2.NORM_L1, both) / max(count, 1))
    return sum(means) / 2
