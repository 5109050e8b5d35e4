"""The metrics, exact. Scores: higher = more anomalous; labels: True = defective.

`docs/reference/metrics.md` has the definitions.

All of them follow from the distinct scores in falling order, with the number of normal and of anomalous items at each
(`_Curve`). Where there are too many pixels to keep, neighbouring scores share a step, and the same formulas come with a
bound on their error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from patchbank.arrays import Array, BoolArray, DoubleArray, FloatArray

FPR_LIMIT = 0.3
EXACT_NORMAL = 2**25  # pixels kept as they are: 128 MiB
EXACT_ANOMALOUS = 2**22
_INFINITY = 0x7F800000  # the bits of float32 infinity; those of NaN and of negative numbers are larger
_DROPPED_BITS = 9  # of the mantissa's 23: scores that differ by less than 0.006 % may share a bin


def auroc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """P(a defective item scores over a good one) + P(equal) / 2: the area under the ROC curve. None for one class.

    scores: (n,) float; labels: (n,) bool or 0/1. Raises ValueError for NaN and for unequal lengths.
    """
    return _auroc(_curve_of(*_check(scores, labels)))


def average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Sum over the distinct scores, falling, of (gain in recall) x (precision there). None with one class only.

    scores: (n,) float; labels: (n,) bool or 0/1. Raises ValueError for NaN and for unequal lengths.
    """
    return _average_precision(_curve_of(*_check(scores, labels)))


def best_f1(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float, float] | None:
    """(F1, threshold): the largest F1 of "defective if score >= threshold". None with one class only.

    Of several such thresholds it is the highest. It is chosen on the labels it is measured on: an upper limit to
    compare with, never a threshold for production. Raises ValueError for NaN and for unequal lengths.
    """
    values, truth = _check(scores, labels)
    curve = _curve_of(values, truth)
    if not curve.complete:
        return None
    f1 = 2 * curve.true / (curve.true + curve.false + curve.positive.sum())
    best = int(f1.argmax())
    return float(f1[best]), float(np.unique(values)[::-1][best])


def pixel_auroc(anomaly_maps: Iterable[npt.ArrayLike], masks: Iterable[npt.ArrayLike]) -> float | None:
    """The area under the ROC curve of all pixels together. None where no pixel, or every pixel, is anomalous.

    anomaly_maps: one (H, W) an image, finite, >= 0 (float32 is enough: it is compared as that), higher = more
    anomalous. masks: one (H, W) an image, of that size; what is not 0 is anomalous; all 0 for a good image. Raises
    ValueError for anything else, and for more of one than of the other.
    """
    return pixel_metrics(anomaly_maps, masks).auroc


def pixel_average_precision(anomaly_maps: Iterable[npt.ArrayLike], masks: Iterable[npt.ArrayLike]) -> float | None:
    """The average precision of all pixels together. Arguments, None and ValueError: as for `pixel_auroc`."""
    return pixel_metrics(anomaly_maps, masks).average_precision


def aupro(anomaly_maps: Iterable[npt.ArrayLike], masks: Iterable[npt.ArrayLike]) -> float | None:
    """The mean share of each anomalous region that is found, over the false-positive rates of pixels up to 0.3, as a
    fraction of the largest possible (docs/reference/metrics.md). Arguments, None, ValueError: as for `pixel_auroc`."""
    return pixel_metrics(anomaly_maps, masks).aupro


def pixel_metrics(anomaly_maps: Iterable[npt.ArrayLike], masks: Iterable[npt.ArrayLike]) -> PixelResult:
    """The three metrics of pixels in one pass, with bounds on their errors, which are 0 below 33 million normal pixels.
    Iterators are taken one by one, so that a data set need not fit into the memory. Arguments and ValueError: as for
    `pixel_auroc`."""
    metrics = PixelMetrics()
    for anomaly_map, mask in zip(anomaly_maps, masks, strict=True):
        metrics.update(np.asarray(anomaly_map, np.float32), np.asarray(mask) != 0)
    return metrics.result()


@dataclass(frozen=True)
class PixelResult:
    """Pixel metrics as fractions; None where there are no anomalous or no normal pixels.

    Each `*_error` bounds |reported - exact|, rounding aside; it is 0.0 where every pixel was kept (`exact`).
    """

    auroc: float | None
    average_precision: float | None
    aupro: float | None
    auroc_error: float
    average_precision_error: float
    aupro_error: float
    exact: bool
    n_pixels: int
    n_regions: int


class PixelMetrics:
    """Pixel AUROC, average precision and AUPRO over maps that come one by one, in bounded memory.

    Exact up to `exact_normal` normal and `exact_anomalous` anomalous pixels; beyond, binned, with the error bounded.
    """

    def __init__(self, exact_normal: int = EXACT_NORMAL, exact_anomalous: int = EXACT_ANOMALOUS) -> None:
        self._limits = (exact_normal, exact_anomalous)
        self._counts = (0, 0)  # normal and anomalous pixels so far
        self._n_regions = 0
        self._kept: _Kept | None = _Kept()
        self._bins = _Bins()

    def update(self, anomaly_map: FloatArray, mask: BoolArray) -> None:
        """anomaly_map: (H, W) float32, finite, >= 0; mask: (H, W) bool, True = anomalous. Else ValueError."""
        bits = _bits_of(anomaly_map, mask)
        region, areas = _regions_of(mask)
        normal, anomalous = bits[~mask], bits[mask]
        self._counts = (self._counts[0] + normal.size, self._counts[1] + anomalous.size)
        self._n_regions += areas.size
        sink: _Kept | _Bins = self._bins if self._kept is None else self._kept
        sink.add(normal, anomalous, 1.0 / areas[region])
        if self._kept is not None and any(n > limit for n, limit in zip(self._counts, self._limits, strict=True)):
            self._kept.pour_into(self._bins)
            self._kept = None

    def result(self) -> PixelResult:
        """The metrics of all maps so far; more may follow."""
        exact = self._kept is not None
        curve, shares = self._bins.steps() if self._kept is None else self._kept.steps()
        aupro, aupro_error = _aupro(curve, shares / max(1, self._n_regions))
        return PixelResult(
            auroc=_auroc(curve),
            average_precision=_average_precision(curve),
            aupro=aupro,
            auroc_error=0.0 if exact else _auroc_error(curve),
            average_precision_error=0.0 if exact else _average_precision_error(curve),
            aupro_error=0.0 if exact else aupro_error,
            exact=exact,
            n_pixels=sum(self._counts),
            n_regions=self._n_regions,
        )


class _Kept:
    """Every pixel: its score as bits (uint32), and for anomalous ones 1 / area of their region (float64)."""

    def __init__(self) -> None:
        self._normal: list[Array] = []
        self._anomalous: list[Array] = []
        self._weights: list[Array] = []

    def add(self, normal: Array, anomalous: Array, weights: DoubleArray) -> None:
        self._normal.append(normal)
        self._anomalous.append(anomalous)
        self._weights.append(weights)

    def pour_into(self, bins: _Bins) -> None:
        empty = np.zeros(0)
        for normal in self._normal:
            bins.add(normal, normal[:0], empty)
        for anomalous, weights in zip(self._anomalous, self._weights, strict=True):
            bins.add(anomalous[:0], anomalous, weights)

    def steps(self) -> tuple[_Curve, DoubleArray]:
        """One step for each distinct anomalous score, and one for all the normal scores between two of them.

        Joining those changes nothing: recall and overlap stay level there.
        """
        normal = np.concatenate([np.zeros(0, np.uint32), *self._normal])
        normal.sort()
        self._normal = [normal]  # not held twice
        values, which = np.unique(np.concatenate([np.zeros(0, np.uint32), *self._anomalous]), return_inverse=True)
        weights = np.concatenate([np.zeros(0), *self._weights])
        # Rising: between, value 0, between, value 1, ..., value P - 1, above.
        edges = np.stack([np.searchsorted(normal, values, side) for side in ("left", "right")], axis=1)  # (P, 2)
        negative = np.diff(edges.ravel(), prepend=0, append=normal.size).astype(np.float64)  # (2P + 1,)
        positive, shares = np.zeros_like(negative), np.zeros_like(negative)
        positive[1::2] = np.bincount(which, minlength=values.size)
        shares[1::2] = np.bincount(which, weights, minlength=values.size)
        return _Curve(negative[::-1], positive[::-1]), shares[::-1]


class _Bins:
    """Histograms over the leading bits of float32 scores, for the range of bins seen so far.

    For numbers >= 0 the order of float32 is that of their bits read as an integer, so leading bits are bins in order,
    of the same relative width everywhere: at most 2**22 of them.
    """

    def __init__(self) -> None:
        self._low = 0
        # Rows: normal pixels, anomalous pixels, 1 / area of their regions. Counts are exact in float64 up to 2**53.
        self._table = np.zeros((3, 0))

    def add(self, normal: Array, anomalous: Array, weights: DoubleArray) -> None:
        for row, bits, weight in ((0, normal, None), (1, anomalous, None), (2, anomalous, weights)):
            if bits.size:
                bins = bits >> _DROPPED_BITS
                low = int(bins.min())
                counts = np.bincount(bins - np.uint32(low), weight)
                self._cover(low, low + counts.size)
                self._table[row, low - self._low : low - self._low + counts.size] += counts

    def steps(self) -> tuple[_Curve, DoubleArray]:
        table = self._table[:, ::-1]
        return _Curve(table[0], table[1]), table[2]

    def _cover(self, low: int, high: int) -> None:
        """Widens the table to bins low..high - 1."""
        if not self._table.size:
            self._low = low
        before = max(0, self._low - low)
        after = max(0, high - (self._low + self._table.shape[1]))
        if before or after:
            self._table = np.pad(self._table, ((0, 0), (before, after)))
            self._low -= before


@dataclass(frozen=True, eq=False)
class _Curve:
    """Steps in falling order of score: the numbers of normal and of anomalous items at each, (n,) float64."""

    negative: DoubleArray
    positive: DoubleArray

    @cached_property
    def false(self) -> DoubleArray:
        """False positives at the threshold of each step."""
        return np.cumsum(self.negative)

    @cached_property
    def true(self) -> DoubleArray:
        """True positives at the threshold of each step."""
        return np.cumsum(self.positive)

    @property
    def complete(self) -> bool:
        """True if there are items of both classes."""
        return bool(self.positive.any() and self.negative.any())


def _auroc(curve: _Curve) -> float | None:
    if not curve.complete:
        return None
    area = curve.negative @ (curve.true - curve.positive / 2)  # trapezoids
    return float(area / (curve.true[-1] * curve.false[-1]))


def _auroc_error(curve: _Curve) -> float:
    """A curve that rises through a step's rectangle departs from its diagonal by at most half the rectangle."""
    if not curve.complete:
        return 0.0
    return float(curve.negative @ curve.positive / 2 / (curve.true[-1] * curve.false[-1]))


def _average_precision(curve: _Curve) -> float | None:
    if not curve.complete:
        return None
    some = curve.positive > 0
    precision = curve.true[some] / (curve.true[some] + curve.false[some])
    return float(curve.positive[some] @ precision / curve.true[-1])


def _average_precision_error(curve: _Curve) -> float:
    """Returns by how much the order within each step could move the sum of its p items' precisions.

    T and F: true and false positives before the step, n: its normal items. Best: all p tie ahead of the n, each with
    precision (T + p) / (T + p + F). Worst: the n come first and no two tie, sum over k = 1..p of (T + k) / (T + k + c)
    with c = F + n, which is at least the integral of t / (t + c) from T to T + p.
    """
    value = _average_precision(curve)
    if value is None:
        return 0.0
    some = curve.positive > 0
    p, true, c = curve.positive[some], curve.true[some], curve.false[some]
    before = c - curve.negative[some]
    best = p @ (true / (true + before))
    worst = np.sum(p - c * np.log1p(p / np.maximum(true - p + c, 1.0)))  # T + c = 0 only where c = 0
    return float(max(best / curve.true[-1] - value, value - worst / curve.true[-1], 0.0))


def _aupro(curve: _Curve, overlap: DoubleArray) -> tuple[float | None, float]:
    """(AUPRO, bound on its error if the order within steps is unknown). overlap: (n,) each step's gain in mean overlap.

    The mean share of each region that is found, over the false-positive rate of all normal pixels, by trapezoids up to
    FPR_LIMIT, divided by FPR_LIMIT (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021).
    """
    if not curve.complete:
        return None, 0.0
    fpr = curve.false / curve.false[-1]
    start = np.concatenate([[0.0], fpr[:-1]])
    full = fpr - start
    width = np.minimum(fpr, FPR_LIMIT) - np.minimum(start, FPR_LIMIT)
    part = np.divide(width, full, out=np.zeros_like(full), where=full > 0)  # 1 but for the step that crosses the limit
    base = np.cumsum(overlap) - overlap
    area = width @ (base + overlap * part / 2)
    error = width @ (overlap * (1 - part / 2))  # the curve may reach the step's far corner first
    return float(area / FPR_LIMIT), float(error / FPR_LIMIT)


def _curve_of(values: DoubleArray, truth: BoolArray) -> _Curve:
    distinct, which = np.unique(values, return_inverse=True)
    total = np.bincount(which, minlength=distinct.size).astype(np.float64)
    positive = np.bincount(which[truth], minlength=distinct.size).astype(np.float64)
    return _Curve((total - positive)[::-1], positive[::-1])


def _check(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[DoubleArray, BoolArray]:
    values, truth = np.asarray(scores, np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(f"expected one score and one label an item; got shapes {values.shape} and {truth.shape}")
    if np.isnan(values).any():
        raise ValueError("expected numbers as scores; got NaN")
    if truth.size and not np.isin(truth, (0, 1)).all():
        raise ValueError(f"expected labels True/False or 1/0; got {np.unique(truth)[:5]}")
    return values, truth.astype(np.bool_)


def _bits_of(anomaly_map: Array, mask: Array) -> Array:
    """(H, W) float32 -> (H, W) uint32 whose order is that of the scores."""
    if anomaly_map.dtype != np.float32 or anomaly_map.ndim != 2 or not anomaly_map.size:
        raise ValueError(f"expected an anomaly map (H, W) of float32; got {anomaly_map.shape} of {anomaly_map.dtype}")
    if mask.dtype != np.bool_ or mask.shape != anomaly_map.shape:
        raise ValueError(f"expected a mask {anomaly_map.shape} of bool; got {mask.shape} of {mask.dtype}")
    bits = np.ascontiguousarray(anomaly_map).view(np.uint32)
    if bits.max() >= _INFINITY:
        bits = (anomaly_map + np.float32(0)).view(np.uint32)  # -0.0, which equals 0.0, becomes 0.0
    if bits.max() >= _INFINITY:
        raise ValueError(f"expected finite scores >= 0; got {anomaly_map.min()} to {anomaly_map.max()}")
    return bits


def _regions_of(mask: BoolArray) -> tuple[Array, Array]:
    """(the region of each True pixel in row-major order (p,), the regions' areas (r,)); 8 neighbours connect."""
    if not mask.any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    import cv2

    _, labels = cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=8)
    region = labels[mask] - 1
    return region, np.bincount(region)
