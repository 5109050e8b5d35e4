"""Projections (PCA) of the bank's vectors, and the cells that they lie in.                             (n, D) -> (n, S)

A vector's projection is its coordinates along the bank's leading principal axes, and the length of the rest.
Projections are never farther apart than their vectors (the reverse triangle inequality, on the rests).
"""

from __future__ import annotations

import numpy as np

from patchbank.arrays import FloatArray, IndexArray
from patchbank.util.parallel import spread

_AXES = 79  # more make comparisons dearer, fewer leave more candidates to be measured
_ONE_CELL = 256  # banks up to this size are one cell
_PER_CELL = 100  # bank vectors in a cell, about
_MOST_CELLS = 128
_SAMPLE = 4096  # bank vectors that axes and cells are made from
ROUNDING = np.float32(2.0**-23)  # twice float32's unit: twice the error of each term of a sum
TINY = np.float32(1e-16)  # a distance: squares of smaller ones leave float32's range


class Projections:
    """The projection (PCA) of vectors: onto the bank's leading principal axes, or onto all of space if it has few
    dimensions.

    The axes are mixed, so that all coordinates of projections are about as large: distances stay, and one step suits
    all of them where they are rounded to codes (`native.calls`). rest: what lengths of rests are counted from.
    """

    def __init__(self, vectors: FloatArray) -> None:
        dim = vectors.shape[1]
        self.middle = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.rounding = ROUNDING * (dim + 16)
        self.axes, self.rest = None, np.float32(0)
        if dim > _AXES + 16:
            axes = _principal_axes(vectors - self.middle, _AXES)
            self.axes = np.ascontiguousarray(axes @ _mixing(axes.shape[1]))
            self.rounding *= np.float32(1 + axes.shape[1] ** 0.5)
            self.rest = self.of(vectors)[0][:, -1].mean()

    def of(self, vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(n, D) -> projections (n, S), and bounds of the distances between these and the true ones, (n,)."""
        centred = vectors - self.middle
        squares = squares_of(centred)
        if self.axes is None:
            return centred, self.rounding * np.sqrt(squares)
        projections = np.empty((len(vectors), self.axes.shape[1] + 1), np.float32)
        along = projections[:, :-1]
        np.matmul(centred, self.axes, out=along)
        rest = np.sqrt(np.maximum(squares - squares_of(along), 0))
        projections[:, -1] = rest - self.rest
        errors = self.rounding * squares  # of the rest's square; of the rest, it is that over the rest, or its root
        errors /= np.maximum(np.maximum(rest, np.sqrt(errors)), TINY)
        errors += self.rounding * np.sqrt(squares)
        return projections, errors


def _principal_axes(centred: FloatArray, count: int) -> FloatArray:
    """(D, count) orthonormal axes, about the leading principal ones, by subspace iteration; fewer for a tiny bank."""
    sample = centred[:: -(-len(centred) // _SAMPLE)]
    sample = sample / max(float(np.abs(sample).max()), float(TINY))
    axes = sample[:: max(1, len(sample) // count)][:count].T
    for _ in range(4):
        axes = np.linalg.qr((sample.T @ (sample @ axes)).astype(np.float64))[0].astype(np.float32)
    return axes


def _mixing(n: int) -> FloatArray:
    """(n, n) an orthonormal matrix without small entries in any row: the discrete cosine transform."""
    places = np.arange(n)
    waves = np.sqrt(2 / n) * np.cos(np.pi / n * (places + 0.5) * places[:, None])
    waves[0] /= np.sqrt(2)
    return waves.astype(np.float32)


def in_cells(projections: FloatArray) -> tuple[FloatArray, IndexArray]:
    """(cells, S) pivots and (M,) the cell of each projection; no cell is empty."""
    m = len(projections)
    if m <= _ONE_CELL:
        return projections.mean(axis=0, keepdims=True), np.zeros(m, np.int64)
    count = max(1, min(_MOST_CELLS, m // _PER_CELL))
    sample = projections[:: -(-m // _SAMPLE)]
    pivots = sample[:: max(1, len(sample) // count)][:count]
    for _ in range(4):  # Lloyd's iterations (k-means)
        cell = _nearest_pivot(sample, pivots)
        used, cell = np.unique(cell, return_inverse=True)
        order = np.argsort(cell, kind="stable")
        starts = np.searchsorted(cell[order], np.arange(len(used)))
        sums = np.add.reduceat(sample[order].astype(np.float64), starts, axis=0)
        pivots = (sums / np.bincount(cell)[:, None]).astype(np.float32)
    used, cell = np.unique(_nearest_pivot(projections, pivots), return_inverse=True)
    return pivots[used], cell


def _nearest_pivot(projections: FloatArray, pivots: FloatArray) -> IndexArray:
    """(M,) the nearest pivot, but for rounding."""
    half = squares_of(pivots) / 2

    def block(a: int) -> IndexArray:
        nearest: IndexArray = (projections[a : a + 1024] @ pivots.T - half).argmax(axis=1)
        return nearest

    return np.concatenate(spread(block, range(0, len(projections), 1024)))


def squares_of(rows: FloatArray) -> FloatArray:
    """(n, D) -> (n,) squared norms."""
    result: FloatArray = np.einsum("ij,ij->i", rows, rows)
    return result
