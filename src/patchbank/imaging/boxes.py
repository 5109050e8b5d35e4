"""Places in images: in patches of a grid, in shares of an image, in its pixels.

A grid of h x w patches is laid over the whole image: patch (row, column) is the rectangle (column / w, row / h, 1 / w,
1 / h) in shares, whatever the image's size. The anomaly map is interpolated in the same way.
"""

from __future__ import annotations

import math

from patchbank.arrays import ByteArray

Box = tuple[float, float, float, float]  # (x, y, width, height): in shares (0..1) of an image's width and height


def neighbourhood(place: tuple[int, int], grid: tuple[int, int], extent: float) -> Box:
    """The part of the image that a patch is averaged from, in patches of the grid; cut at the image's border."""
    (row, column), (h, w) = place, grid
    left, top = max(0.0, column + 0.5 - extent / 2), max(0.0, row + 0.5 - extent / 2)
    return left, top, min(w, column + 0.5 + extent / 2) - left, min(h, row + 0.5 + extent / 2) - top


def square_inside(left: float, top: float, side: float, grid: tuple[int, int]) -> Box:
    """A square, moved into the grid, and cut where the grid is smaller."""
    height, width = min(side, grid[0]), min(side, grid[1])
    return min(max(left, 0.0), grid[1] - width), min(max(top, 0.0), grid[0] - height), width, height


def in_shares(box: Box, grid: tuple[int, int]) -> Box:
    """From patches of the grid to shares of the image."""
    return box[0] / grid[1], box[1] / grid[0], box[2] / grid[1], box[3] / grid[0]


def cut(image: ByteArray, box: Box, side: int) -> ByteArray:
    """The part of an image, (H, W, 3) uint8, that a box covers, at most `side` pixels along its longer side."""
    x0, y0, x1, y1 = pixels_of(image.shape, box)
    return fitted(image[y0:y1, x0:x1], side)


def pixels_of(shape: tuple[int, ...], box: Box) -> tuple[int, int, int, int]:
    """The smallest rectangle of whole pixels, (left, top, right, bottom), that holds a box; never empty."""
    height, width = shape[:2]
    x0, y0 = min(int(box[0] * width + 1e-6), width - 1), min(int(box[1] * height + 1e-6), height - 1)
    x1, y1 = math.ceil((box[0] + box[2]) * width - 1e-6), math.ceil((box[1] + box[3]) * height - 1e-6)
    return x0, y0, min(max(x1, x0 + 1), width), min(max(y1, y0 + 1), height)


def fitted(image: ByteArray, side: int) -> ByteArray:
    """A copy of an image, (H, W, 3) uint8, shrunk until its longer side is at most `side` pixels."""
    from patchbank.imaging.resize import resize

    shrink = min(1.0, side / max(image.shape[:2]))
    size = (max(1, round(image.shape[0] * shrink)), max(1, round(image.shape[1] * shrink)))
    small: ByteArray = resize(image, size)
    return small if shrink < 1 else small.copy()
