"""From nearest-neighbour distances to patch scores, the image's score and the anomaly map. Distances are Euclidean,
higher = more anomalous."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from patchbank.arrays import BoolArray, FloatArray, IndexArray
from patchbank.config import Config
from patchbank.features.embedding import Patches, interpolated
from patchbank.features.extract import Clock
from patchbank.native.sums import Band, both_ways, products, row_sums
from patchbank.search.searcher import Searcher
from patchbank.util.ieee import exp
from patchbank.util.wording import brief
from patchbank.validation import without_code


@dataclass(frozen=True, eq=False)
class ExpectedDistance:
    """The logarithm of a normal patch's expected distance, relative to the geometric mean of all normal patches'.

    slope: (D,) float32. level: the prediction for features of 0. low, high: what predictions are clipped to. power: of
    the expected distance, by which distances are divided. folds: FOLDS expectations, number f learned without the
    training images whose number leaves f when divided by FOLDS; or none. images: how many training images there were.
    """

    slope: FloatArray
    level: float
    low: float
    high: float
    power: float
    folds: tuple[ExpectedDistance, ...] = ()
    images: int = 0

    __repr__ = brief

    def without(self, image: int) -> ExpectedDistance:
        """The expectation that a training image has had no part in, which scores it as it scores a new image. What was
        learned from few images knows these, and makes little of what is odd about them."""
        return self.folds[image % len(self.folds)] if self.folds and 0 <= image < self.images else self

    def __call__(self, features: FloatArray) -> FloatArray:
        """(n, D) features -> (n,) float32 logarithms; 0: as far from the bank as normal patches are on average."""
        predicted = products(features, self.slope) + np.float32(self.level)
        return np.clip(predicted, np.float32(self.low), np.float32(self.high))

    def scaled(self, distances: FloatArray, features: FloatArray) -> FloatArray:
        """(n,) distances of patches, (n, D), to the bank -> (n,) distances over the expected ones' power."""
        scaled: FloatArray = distances * exp(np.float32(-self.power) * self(features)).astype(np.float32)
        return scaled


def mean_distances(distances: FloatArray) -> FloatArray:
    """(P, k) distances to the k nearest bank vectors -> (P,) their means: what the anomaly map shows."""
    means: FloatArray = distances.mean(axis=1, dtype=np.float32)
    return means


def patch_scores(plain: FloatArray, features: FloatArray, expected: ExpectedDistance | None) -> FloatArray:
    """(P,) mean distances of the patches, (P, D), to the bank -> (P,) scaled by what is expected, if that is known.

    Scores stay distances: a normal patch that is as far from the bank as normal patches are on average keeps its own.
    """
    return expected.scaled(plain, features) if expected else plain


class Judged(NamedTuple):
    """An image's patches against a bank. distances: (n,) their mean distances. nearest: (n, k) their nearest vectors.
    scores: (n,) scaled. score: the image's."""

    distances: FloatArray
    nearest: IndexArray
    scores: FloatArray
    score: float


def top_fraction_mean(scores: FloatArray, fraction: float) -> float:
    """Mean of the largest `fraction` of the (P,) patch scores, at least one of them."""
    count = max(1, round(fraction * scores.size))
    largest = np.partition(scores.ravel(), scores.size - count)[scores.size - count :]  # in any order
    return math.fsum(largest.tolist()) / count


def reweighted(
    score: float, patch: FloatArray, nearest: int, vectors: FloatArray, searcher: Searcher, neighbours: int
) -> float:
    """The paper's Eq. 7: the score of the most anomalous patch, more where its nearest bank vector is itself a rare
    one.

    s = (1 - exp|p - m*| / sum_{m in N_b(m*)} exp|p - m|) s*, where p is the patch (D,), m* its nearest bank vector and
    N_b(m*) the b vectors nearest to m* in the bank, m* among them. Computed as 1 - 1 / sum exp(|p - m| - |p - m*|),
    which cannot overflow upwards of the terms that matter: a term beyond the range of exp means a weight of 1.
    """
    b = min(neighbours, len(vectors))
    _, around = searcher.search(vectors[nearest : nearest + 1], b)
    members = np.union1d(around[0], [nearest])  # m* counts even where exact duplicates of it fill its neighbourhood
    difference = vectors[members].astype(np.float64) - patch.astype(np.float64)
    distances = np.sqrt(row_sums(difference * difference))
    own = float(distances[members == nearest][0])
    weight = 1.0 - 1.0 / math.fsum(exp(distances - own).tolist())
    return weight * score


def image_score(
    scores: FloatArray,
    indices: IndexArray,
    patches: Patches,
    vectors: FloatArray,
    searcher: Searcher,
    config: Config,
) -> float:
    """One image's (P,) patch scores -> its score, as `config.image_score` says.

    indices (P, k) are the patches' nearest bank vectors, vectors (M, D) the bank.
    """
    worst = int(scores.argmax())
    if config.image_score == "max":
        return float(scores[worst])
    if config.image_score == "top_fraction":
        grid = smoothed(patches.on_grid(scores), config.score_smoothing, patches.counted)  # (h, w)
        return top_fraction_mean(grid.ravel()[patches.place], config.top_fraction)
    if config.image_score == "reweighted":
        nearest, b = int(indices[worst, 0]), config.reweight_neighbours
        return reweighted(float(scores[worst]), patches.features[worst], nearest, vectors, searcher, b)
    raise without_code("image_score", config.image_score)


def judged(
    patches: Patches,
    vectors: FloatArray,
    expected: ExpectedDistance | None,
    searcher: Searcher,
    config: Config,
    timings: dict[str, float],
) -> Judged:
    """One image's patches, (n, D), against the bank's vectors, (M, D), which the searcher holds. timings: takes the
    seconds of each stage."""
    with Clock(timings, "search"):
        distances, nearest = searcher.search(patches.features, config.num_neighbours)  # (n, k)
    with Clock(timings, "score"):
        plain = mean_distances(distances)  # (n,)
        scores = patch_scores(plain, patches.features, expected)  # (n,)
        score = image_score(scores, nearest, patches, vectors, searcher, config)
    return Judged(plain, nearest, scores, score)


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
    sizes = zip(scores.shape, input_size, image_size, strict=True)
    rows, columns = (spreading(*size, sigma) for size in sizes)
    return both_ways(rows, columns, scores)  # (h, w) -> (H, W)


@functools.lru_cache(maxsize=16)
def spreading(size: int, target: int, final: int, sigma: float) -> Band:
    """(final, size): along one axis, bilinear interpolation to `target`, Gaussian smoothing there, and bilinear
    interpolation to `final`; each row sums to 1.

    All are linear, and the axes are independent: two products of small matrices take a fraction of the time of passes
    over the pixels. The Gaussian is truncated at 4 sigma and mirrored at the border, as scipy's gaussian_filter.
    """
    matrix = interpolated(np.eye(size), target)
    if sigma > 0:
        radius = int(4 * sigma + 0.5)
        offsets = np.arange(-radius, radius + 1)
        kernel = exp(-0.5 * np.square(offsets / sigma))
        kernel /= math.fsum(kernel.tolist())
        mirrored = np.pad(matrix, ((radius, radius), (0, 0)), mode="symmetric")
        matrix = np.zeros_like(matrix)
        for offset, weight in enumerate(kernel.tolist()):
            matrix += weight * mirrored[offset : offset + target]
    return Band.of(matrix if final == target else interpolated(matrix, final))
