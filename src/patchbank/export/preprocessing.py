"""An image's way to the network, as operators of a graph: region of interest, resize, normalise. What
`imaging/images.py` does with OpenCV, number by number.

The weights are OpenCV's own: it resizes the identity. 8-bit images are rounded while they are resized, and a pixel that
is rounded to the other side changes features. So what is summed in which order is OpenCV's, too.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from patchbank.arrays import BoolArray, FloatArray, IntArray
from patchbank.export.graph import Graph

_ROWS = 32  # of a matrix at a time: those beside each other are 0 in the same places, which are left out
_ONE = 2048  # OpenCV's weights of 8-bit images are whole numbers: this is 1


def blanked(g: Graph, image: str, inside: BoolArray | None, mean: tuple[float, ...]) -> str:
    """(H, W, 3) uint8, as `images.blank`. inside: (H, W) bool, the pixels that count; None = all."""
    if inside is None:
        return image
    return g.node("Where", inside[:, :, None], image, np.asarray(mean, np.float32).astype(np.uint8))


def resized(g: Graph, image: str, size: tuple[int, int], target: tuple[int, int]) -> str:
    """(H, W, 3) uint8 of `size` -> (3, H', W') float32, whole numbers 0..255, as `imaging.resize`."""
    smaller = (min(size[0], target[0]), min(size[1], target[1]))
    if smaller == size:
        small = g.cast(image, np.float32)
    elif size[0] % smaller[0] == size[1] % smaller[1] == 0:
        small = _whole_cells_averaged(g, image, size, smaller)
    else:
        small = _averaged(g, image, size, smaller)
    channels = g.node("Transpose", small, perm=[2, 0, 1])  # (h, w, 3) -> (3, h, w)
    return _enlarged(g, channels, smaller, target) if smaller != target else channels


def normalised(g: Graph, image: str, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """(3, H', W') 0..255 -> (1, 3, H', W') as `images.normalise`."""
    scale = np.array([1.0 / each for each in std]).astype(np.float32)
    shift = np.asarray(mean, np.float32) * scale
    scaled = g.node("Mul", image, scale[:, None, None])
    return g.shaped(g.node("Sub", scaled, shift[:, None, None]), 1, 3, *size)


def area_matrix(n: int, target: int) -> FloatArray:
    """(target, n): area averaging along one axis, with OpenCV's weights."""
    import cv2

    return cv2.resize(np.eye(n, dtype=np.float32), (n, target), interpolation=cv2.INTER_AREA).astype(np.float32)


def linear_matrix(n: int, target: int) -> FloatArray:
    """(target, n): bilinear interpolation along one axis, with OpenCV's weights."""
    import cv2

    return cv2.resize(np.eye(n, dtype=np.float32), (n, target), interpolation=cv2.INTER_LINEAR).astype(np.float32)


def _whole_cells_averaged(g: Graph, image: str, size: tuple[int, int], target: tuple[int, int]) -> str:
    """(H, W, 3) uint8 -> (h, w, 3) float32, where each pixel is the mean of whole ones: OpenCV adds whole numbers."""
    down, across = size[0] // target[0], size[1] // target[1]
    cells = g.shaped(g.cast(image, np.float32), target[0], down, target[1], across, 3)
    total = g.reduced("ReduceSum", cells, [1, 3], keepdims=False)
    if down == across == 2:  # halves are rounded up in this case only
        return g.node("Floor", g.node("Mul", g.node("Add", total, 2.0), 0.25))
    return g.node("Round", g.node("Mul", total, float(np.float32(1) / np.float32(down * across))))


def _averaged(g: Graph, image: str, size: tuple[int, int], target: tuple[int, int]) -> str:
    """(H, W, 3) uint8 -> (h, w, 3) float32. One pixel after the other is multiplied and added, first across, then down,
    as OpenCV does it: many sums are close to a half, and rounding them takes the same bits. A product of matrices,
    which adds in an order of its own, was off by 1 in up to 1 % of the pixels, and by 0.3 % in the anomaly map.

    All products stand in one array before they are added: some runtimes make one operation of a product and a sum,
    which rounds once instead of twice.
    """
    places, shares = _area_taps(size[1], target[1])
    count, width = len(places), 3 * target[1]
    taken = g.cast(g.node("Gather", image, places.reshape(-1), axis=1), np.float32)  # (H, t w, 3)
    products = g.node("Mul", g.shaped(taken, size[0], count, width), shares.repeat(3, axis=1))  # (H, t, w 3)
    tall = g.shaped(_sum_in_order(g, products, count, 1), size[0], width)
    places, shares = _area_taps(size[0], target[0])
    taken = g.shaped(g.node("Gather", tall, places.reshape(-1), axis=0), len(places), target[0], width)
    total = _sum_in_order(g, g.node("Mul", taken, shares[:, :, None]), len(places), 0)  # (t, h, w 3) -> (1, h, w 3)
    return g.node("Round", g.shaped(total, *target, 3))


def _sum_in_order(g: Graph, x: str, count: int, axis: int) -> str:
    """The sum along an axis of `count`, which stays as one of 1: the first and the second, then the third, ..."""
    total, *others = (g.part(x, axis, place, place + 1) for place in range(count))
    for each in others:
        total = g.node("Add", total, each)
    return total


def _area_taps(n: int, target: int) -> tuple[IntArray, FloatArray]:
    """(t, target): the pixels along one axis that each of `target` pixels is the mean of, the first of each, the
    second, ..., and their shares; a share of 0 for those that have no so many."""
    matrix = area_matrix(n, target)
    first = (matrix != 0).argmax(axis=1)
    count = int((matrix != 0).sum(axis=1).max())
    places = first + np.arange(count)[:, None]
    inside = np.minimum(places, n - 1)
    shares = np.where(places < n, matrix[np.arange(target), inside], np.float32(0))
    return inside.astype(np.int32), shares


def left(g: Graph, matrix: FloatArray, x: str) -> str:
    """(m, n) @ (n, N) -> (m, N), without most of the products with 0."""
    parts = [g.node("MatMul", part, g.part(x, 0, start, stop)) for part, start, stop in _bands(matrix)]
    return g.node("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]


def right(g: Graph, x: str, matrix: FloatArray) -> str:
    """(..., n) @ (n, m) -> (..., m), where `matrix` is (m, n), without most of the products with 0."""
    parts = [g.node("MatMul", g.part(x, -1, start, stop), part.T) for part, start, stop in _bands(matrix)]
    return g.node("Concat", *parts, axis=-1) if len(parts) > 1 else parts[0]


def _bands(matrix: FloatArray) -> list[tuple[FloatArray, int, int]]:
    """Some rows of a matrix at a time: their columns that are not 0, and where these start and stop."""
    bands = []
    for first, last in pairwise([*range(0, len(matrix), _ROWS), len(matrix)]):
        rows = matrix[first:last]
        used = np.flatnonzero(rows.any(axis=0))
        start, stop = int(used[0]), int(used[-1]) + 1
        bands.append((rows[:, start:stop], start, stop))
    return bands


def _enlarged(g: Graph, image: str, size: tuple[int, int], target: tuple[int, int]) -> str:
    """(3, h, w) whole numbers 0..255 -> (3, H', W'), bilinearly in OpenCV's whole numbers: the sums of an 8-bit image
    lose bits on their way, and a tenth of the pixels would be another by 1 without them."""
    columns, parts = _taps(size[1], target[1])
    weights = np.zeros((target[1], size[1]), np.float32)
    for column, part in zip(columns, parts, strict=True):
        weights[np.arange(target[1]), column] += part
    wide = g.node("Div", g.cast(right(g, image, weights), np.int32), _whole(16))  # (3, h, W')
    taps, shares = _taps(size[0], target[0])
    both = []
    for rows, share in zip(taps, shares, strict=True):
        product = g.node("Mul", g.node("Gather", wide, rows, axis=1), share[:, None])  # (3, H', W')
        both.append(g.node("Div", product, _whole(65536)))
    total = g.node("Add", g.node("Add", *both), _whole(2))
    return g.cast(g.node("Div", total, _whole(4)), np.float32)


def _whole(value: int) -> IntArray:
    return np.array(value, np.int32)


def _taps(n: int, target: int) -> tuple[IntArray, IntArray]:
    """(2, target): the two places along an axis that each place lies between, and their weights in whole numbers. At
    the border, both are the same."""
    position = ((np.arange(target) + 0.5) * (1 / (target / n)) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int32)
    share = position - first.astype(np.float32)
    rows = np.clip(np.stack([first, first + 1]), 0, n - 1).astype(np.int32)
    weights = np.rint(np.stack([1 - share, share]) * np.float32(_ONE)).astype(np.int32)
    return rows, weights
