"""The mask of an anomaly map and its regions, in the original image's pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from patchbank.arrays import BoolArray, FloatArray, IntArray
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
