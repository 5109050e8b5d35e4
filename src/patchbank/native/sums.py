"""Sums whose order is fixed: the same bits on every processor, with any number of threads, in C and in NumPy.

Addition of floats depends on its order, and a library of matrix products chooses the order by the processor's
instructions. Each product and each sum here is rounded by itself, as IEEE 754 defines it, in an order that is written
down:

- `weighted` adds rows one after the other;
- `squared_distances`, `pair_distances` and `products` add a row's terms pairwise, as `row_sums` has it.

The compiled part does it (`native/sums.c`), or NumPy, where that was not built.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchbank import native
from patchbank.arrays import Array, FloatArray, IntArray
from patchbank.native import Library, check_array, refused
from patchbank.util.parallel import scratch, spread
from patchbank.util.wording import brief

Rows = npt.NDArray[np.integer]  # numbers of rows

BLOCK = 128  # terms that are not halved, as in sums.c
_PAIRS = 1024  # pairs that NumPy works on together: bounds the memory, and fits the cache


_RESIZED, _ROWS = 128, 16  # rows of an image that a thread resizes together, and NumPy at once
_TERMS = 1 << 16  # that NumPy weighs together


@dataclass(frozen=True, eq=False)
class Band:
    """A matrix, (rows, columns), whose rows are zero but for `taps` columns side by side.

    first: (rows,) int32, where these begin. weights: (rows, taps) float32.
    """

    first: IntArray
    weights: FloatArray
    columns: int

    __repr__ = brief

    @classmethod
    def of(cls, matrix: Array) -> Band:
        """From a dense matrix; its numbers are rounded to float32."""
        columns = matrix.shape[1]
        first = (matrix != 0).argmax(axis=1)
        last = np.where(matrix.any(axis=1), columns - 1 - (matrix[:, ::-1] != 0).argmax(axis=1), first)
        taps = int((last - first).max()) + 1
        first = np.minimum(first, columns - taps)
        weights = np.take_along_axis(matrix, first[:, None] + np.arange(taps), axis=1)
        band = cls(first.astype(np.int32), np.ascontiguousarray(weights, np.float32), columns)
        band.first.flags.writeable = band.weights.flags.writeable = False  # they are shared
        return band

    def __len__(self) -> int:
        return len(self.first)

    def dense(self) -> FloatArray:
        """(rows, columns) float32."""
        matrix = np.zeros((len(self), self.columns), np.float32)
        np.put_along_axis(matrix, self.first[:, None] + np.arange(self.weights.shape[1]), self.weights, axis=1)
        return matrix

    def rows(self, start: int, stop: int) -> tuple[Band, slice]:
        """Some of the rows, and which of the columns they need: they are counted from the first of these."""
        first, taps = self.first[start:stop], self.weights.shape[1]
        low, high = int(first.min()), int(first.max()) + taps
        return Band(first - np.int32(low), self.weights[start:stop], high - low), slice(low, high)


def weighted(band: Band, values: FloatArray, out: FloatArray | None = None, offset: int = 0) -> FloatArray:
    """(n, columns, width) -> (n, rows, width): a band's product with each of n matrices.

    out: takes it, as (n, rows, offset + width or more), `width` numbers of the last axis from `offset` on.
    """
    count, _, width = values.shape
    if out is None:
        out = np.empty((count, len(band), width), np.float32)
    if values.shape[1] != band.columns or out.shape[:2] != (count, len(band)) or offset + width > out.shape[2]:
        raise ValueError(
            f"expected ({count}, {band.columns}, {width}) and room for it; got {values.shape}, {out.shape}"
        )
    library = _library()
    if library is None:
        _weigh(band, values, out[:, :, offset : offset + width])
        return out
    check_array("values", values, np.float32)
    check_array("out", out, np.float32, written=True)
    sizes = (count, band.columns, width, out.shape[2], offset)
    if library.weigh(values.ctypes.data, *_arguments(band), out.ctypes.data, *sizes, native.level()):
        raise refused("weighted sums")
    return out


def _weigh(band: Band, values: FloatArray, out: FloatArray) -> None:
    """In NumPy: some rows at a time, which stay in the cache while their terms are added."""
    step = max(1, _TERMS // (len(values) * values.shape[2]))
    for start in range(0, len(band), step):
        first, weights = band.first[start : start + step], band.weights[start : start + step, :, None]
        total = out[:, start : start + step]
        term = scratch("weighed", total.shape)
        for tap in range(weights.shape[1]):
            values.take(first + tap, axis=1, out=term, mode="clip")
            np.multiply(term, weights[:, tap], out=term if tap else total)
            if tap:
                total += term


def both_ways(rows: Band, columns: Band, plane: FloatArray) -> FloatArray:
    """(h, w) -> (H, W): rows . plane . columns'. What shrinks is shrunk first."""
    if len(rows) > rows.columns:
        return weighted(rows, _along(columns, plane)[None])[0]
    return _along(columns, weighted(rows, plane[None])[0])


def _along(columns: Band, plane: FloatArray) -> FloatArray:
    """(h, w) -> (h, W)."""
    turned = weighted(columns, np.ascontiguousarray(plane.T)[None])[0]  # (W, w) . (w, h)
    return np.ascontiguousarray(turned.T)


def resized(image: Array, rows: Band, columns: Band, bias: float = 0.0, scale: float = 1.0) -> Array:
    """(H, W, C) uint8 or float32 -> (h, w, C) of the same type: (rows . (image . columns') + bias) scale.

    So for each channel, of which there are 1 or a multiple of 3. Bytes are rounded, halves to the even number; the
    bands must lead to 0..255.
    """
    image = np.ascontiguousarray(image)
    height, width, channels = image.shape
    fits = (height, width) == (rows.columns, columns.columns) and (channels == 1 or channels % 3 == 0)
    if image.dtype not in (np.uint8, np.float32) or not fits:
        wanted = (rows.columns, columns.columns, "1 or a multiple of 3")
        raise ValueError(f"expected an array {wanted} of uint8 or float32; got {image.dtype} {image.shape}")
    out = np.empty((len(rows), len(columns), channels), image.dtype)
    library = _library()

    def part(start: int) -> None:
        band, used = rows.rows(start, start + _RESIZED)
        some, target = image[used], out[start : start + _RESIZED]
        if library is None:
            _resize(some, band, columns, bias, scale, target)
            return
        numbers = [argument for each in (band, columns) for argument in _arguments(each)]
        sizes = (int(image.dtype == np.uint8), *some.shape)
        failed = library.resize(some.ctypes.data, *sizes, *numbers, bias, scale, target.ctypes.data, native.level())
        if failed == library.codes["NO_MEMORY"]:
            raise MemoryError("resizing needs a few kilobytes, which the system did not give")
        if failed:
            raise refused(f"resizing {image.shape}")

    spread(part, range(0, len(rows), _RESIZED))
    return out


def _arguments(band: Band) -> tuple[int, int, int, int]:
    check_array("first", band.first, np.int32)
    check_array("weights", band.weights, np.float32)
    return band.first.ctypes.data, band.weights.ctypes.data, band.weights.shape[1], len(band)


def _resize(image: Array, rows: Band, columns: Band, bias: float, scale: float, out: Array) -> None:
    """In NumPy: some rows at a time."""
    for start in range(0, len(rows), _ROWS):
        band, used = rows.rows(start, start + _ROWS)
        some = image[used].astype(np.float32)
        wide = np.empty((len(some), len(columns), image.shape[2]), np.float32)
        _weigh(columns, some, wide)
        sums = np.empty((1, len(band), wide[0].size), np.float32)
        _weigh(band, wide.reshape(1, len(wide), -1), sums)
        sums = (sums + np.float32(bias)) * np.float32(scale)
        values = sums.reshape(len(band), len(columns), image.shape[2])
        out[start : start + _ROWS] = np.rint(values) if image.dtype == np.uint8 else values


def squared_distances(a: FloatArray, b: FloatArray) -> FloatArray:
    """(n, D), (n, D) or (D,) -> (n,) squared Euclidean distances by direct differences: same rows, same bits."""
    return _paired(a, b if b.ndim == 2 else b[None], None, None, product=False)


def pair_distances(a: FloatArray, b: FloatArray, i: Rows | None, j: Rows) -> FloatArray:
    """(P,) squared Euclidean distances of the pairs (a[i], b[j]), by direct differences. i = None: all of a in turn."""
    return _paired(a, b, i, j, product=False)


def products(rows: FloatArray, others: FloatArray) -> FloatArray:
    """(n, D), (m, D) -> (n, m) the products of all rows with all others; (n,) for one other, (D,)."""
    if others.ndim == 1:
        return _paired(rows, others[None], None, None, product=True)
    i, j = np.repeat(np.arange(len(rows)), len(others)), np.tile(np.arange(len(others)), len(rows))
    return _paired(rows, others, i, j, product=True).reshape(len(rows), len(others))


def _paired(a: FloatArray, b: FloatArray, i: Rows | None, j: Rows | None, product: bool) -> FloatArray:
    """Of rows i of a and j of b, or all in turn, or the only one of b: their product, or their squared distance."""
    count = len(a) if j is None else len(j)
    out = np.empty(count, np.float32)
    library = _library()
    if library is None:
        for start in range(0, count, _PAIRS):
            some = slice(start, min(start + _PAIRS, count))
            out[some] = _pair(a, b, i, j, some, product)
        return out
    a, b = (np.ascontiguousarray(rows, np.float32) for rows in (a, b))
    numbers = [None if some is None else np.ascontiguousarray(some, np.int64) for some in (i, j)]
    addresses = (a.ctypes.data, b.ctypes.data, *(some.ctypes.data if some is not None else None for some in numbers))
    dim, other = a.shape[1], b.shape[1]
    if dim != other or library.pairs(*addresses, out.ctypes.data, count, dim, len(a), len(b), product, native.level()):
        raise refused(f"pairs of {a.shape} and {b.shape}")
    return out


def _pair(a: FloatArray, b: FloatArray, i: Rows | None, j: Rows | None, some: slice, product: bool) -> FloatArray:
    """One block of pairs, in NumPy: a few passes over memory that stays in the cache."""
    other = b[some] if j is None and len(b) > 1 else b if j is None else _taken(b, j[some], "second of pairs")
    own = a[some] if i is None else _taken(a, i[some], "first of pairs")
    terms = scratch("terms of pairs", own.shape)
    if product:
        np.multiply(own, other, out=terms)
    else:
        np.subtract(own, other, out=terms)
        np.multiply(terms, terms, out=terms)
    sums: FloatArray = row_sums(terms)
    return sums


def row_sums(terms: npt.NDArray[np.floating]) -> Array:
    """(n, D) contiguous -> (n,) each row's sum. float32 or float64.

    The order is that of NumPy's own pairwise summation, which is quick; where a NumPy has another one, the same is done
    step by step.
    """
    return (terms.sum(axis=1) if _numpy_is_pairwise() else pairwise(terms)) + terms.dtype.type(0)  # never -0


def pairwise(terms: npt.NDArray[np.floating]) -> Array:
    """The same, step by step: eight sums of every eighth term are added in pairs, then what is left, one by one. Rows
    longer than BLOCK are halved, at a multiple of eight."""
    count = terms.shape[1]
    if count > BLOCK:
        half = count // 16 * 8
        return pairwise(terms[:, :half]) + pairwise(terms[:, half:])
    whole = count - count % 8
    sums = np.zeros((len(terms), 8), terms.dtype)
    for start in range(0, whole, 8):
        sums += terms[:, start : start + 8]
    while sums.shape[1] > 1:
        sums = sums[:, ::2] + sums[:, 1::2]
    total: Array = sums[:, 0]
    for column in range(whole, count):
        total = total + terms[:, column]
    return total


@functools.lru_cache(maxsize=1)
def _numpy_is_pairwise() -> bool:
    terms = np.random.default_rng(0).random((4, 3 * BLOCK + 5), np.float32)
    lengths = (5, 8, 13, BLOCK - 3, BLOCK, BLOCK + 1, terms.shape[1])
    some = [np.ascontiguousarray(terms[:, :length]) for length in lengths]
    return all(np.array_equal(each.sum(axis=1), pairwise(each)) for each in some)


def _taken(rows: FloatArray, numbers: npt.NDArray[np.integer], name: str) -> FloatArray:
    """rows[numbers], (n, D), in this thread's scratch memory of that name."""
    out: FloatArray = scratch(name, (len(numbers), rows.shape[1]))
    return rows.take(numbers, axis=0, out=out, mode="clip")  # "raise", the default, would copy once more


def _library() -> Library | None:
    return native.library() if native.available() else None
