"""From patch scores to the anomaly map, the mask and its regions, in the original image's pixels."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchbank.arrays import BoolArray, FloatArray, IntArray
from patchbank.features.embedding import bilinear_matrix
from patchbank.util.parallel import one_blas_thread
from patchbank.util.wording import brief, finite


@dataclass(frozen=True, eq=False)
class Region:
    """A connected set of pixels (8 neighbours) over the threshold. Pixel coordinates of the original image, x to the
    right, y down.

    box: (x, y, width, height); contour: (N, 2) int32 outer boundary, (x, y); area: pixels; peak: (x, y) of the largest
    score; peak_score: that score, in units of the anomaly map.
    """

    box: tuple[int, int, int, int]
    contour: IntArray
    area: int
    peak: tuple[int, int]
    peak_score: float

    __repr__ = brief

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "box": list(self.box),
            "area": self.area,
            "peak": list(self.peak),
            "peak_score": finite(self.peak_score),
            "contour": self.contour.tolist(),
        }


def anomaly_map(
    scores: FloatArray,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    sigma: float,
    counted: BoolArray | None = None,
) -> FloatArray:
    """(h, w) patch scores -> (H, W) float32 anomaly map of the original image.

    Bilinear to the backbone's input size, Gaussian smoothing there (`sigma` in its pixels, so that a setting means the
    same for every image), bilinear to the image's size. Never larger than the largest patch score. counted: (h, w),
    patches that do not count have no weight in the interpolation (normalised convolution).
    """
    if counted is None:
        heat = _smoothed(scores, input_size, image_size, sigma)
        return np.minimum(heat, scores.max(), out=heat)  # rounding
    weight = _smoothed(counted.astype(np.float32), input_size, image_size, sigma)
    total = _smoothed(np.where(counted, scores, np.float32(0)), input_size, image_size, sigma)
    heat = np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-3)
    return np.minimum(heat, scores.max())  # rounding


def smoothed(scores: FloatArray, sigma: float, counted: BoolArray | None = None) -> FloatArray:
    """(h, w) patch scores -> the same, smoothed by a Gaussian of `sigma` patches. counted: as in `anomaly_map`."""
    size = (scores.shape[0], scores.shape[1])
    return anomaly_map(scores, size, size, sigma, counted) if sigma else scores


def _smoothed(scores: FloatArray, input_size: tuple[int, int], image_size: tuple[int, int], sigma: float) -> FloatArray:
    rows, columns = (_spreading_matrix(*sizes, sigma) for sizes in zip(scores.shape, input_size, strict=True))
    with one_blas_thread():
        heat: FloatArray = np.matmul(rows @ scores, columns.T)  # (H', h) @ (h, w) @ (w, W') -> (H', W')
    if image_size == input_size:
        return heat
    import cv2

    return cv2.resize(heat, image_size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)


@functools.lru_cache(maxsize=16)
def _spreading_matrix(size: int, target: int, sigma: float) -> FloatArray:
    """(target, size): bilinear interpolation along one axis, then Gaussian smoothing; each row sums to 1.

    Both are linear, and the axes are independent: two products of small matrices take a quarter of the time of two
    passes over the pixels. The Gaussian is truncated at 4 sigma and mirrored at the border, as scipy's gaussian_filter.
    """
    matrix = bilinear_matrix(size, target).astype(np.float64)
    if sigma > 0:
        radius = int(4 * sigma + 0.5)
        kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        kernel /= kernel.sum()
        mirrored = np.pad(matrix, ((radius, radius), (0, 0)), mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(mirrored, len(kernel), axis=0)  # (target, size, kernel)
        matrix = windows @ kernel
    result = matrix.astype(np.float32)
    result.flags.writeable = False
    return result


def mask_of(anomalies: FloatArray, threshold: float) -> BoolArray:
    """(H, W) anomaly map -> (H, W) bool: the pixels over the threshold, or of no known value (NaN)."""
    return ~(anomalies <= np.float32(threshold))


def regions_of(anomalies: FloatArray, mask: BoolArray) -> tuple[Region, ...]:
    """The mask's regions, highest peak first."""
    import cv2

    found = np.ascontiguousarray(mask).view(np.uint8)
    left, top, width, height = cv2.boundingRect(found)
    if width == 0:  # OpenCV crashes on empty arrays
        return ()
    found = found[top : top + height, left : left + width]  # mostly a small part of the image
    count, labels, stats, _ = cv2.connectedComponentsWithStats(found, connectivity=8)
    regions = []
    for label in range(1, count):  # 0 is the background
        x, y, width, height, area = (int(v) for v in stats[label])
        inside = labels[y : y + height, x : x + width] == label
        x, y = x + left, y + top
        values = np.where(inside, anomalies[y : y + height, x : x + width], -np.inf)
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        outlines, _ = cv2.findContours(
            inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y)
        )
        contour = max(outlines, key=len).reshape(-1, 2)  # (N, 1, 2) -> (N, 2); 8-connected: there is only one outline
        peak = (x + int(column), y + int(row))
        regions.append(Region((x, y, width, height), contour.astype(np.int32), area, peak, float(values[row, column])))
    return tuple(sorted(regions, key=lambda region: (-region.peak_score, region.box)))
