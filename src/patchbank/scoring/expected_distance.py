"""The expected distance: how far normal patches similar to a patch are from the bank. It scales a patch's distance.

Not all normal patches are equally close to the bank: those of a rough, varied surface are farther from it than those of
a smooth one, whatever the coreset. The plain distance therefore finds rough normal patches odder than small defects on
smooth ones. Here the logarithm of left-out normal patches' distances is regressed on their features (linear, ridge),
and a patch's distance is divided by a power of what that predicts (`distance_scaling`). The prediction depends on the
patch alone: a bank that grows can only lower a score, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from patchbank.arrays import Array, BoolArray, DoubleArray, FloatArray, IntArray
from patchbank.scoring.scores import ExpectedDistance
from patchbank.search.searcher import Searcher, search_excluding
from patchbank.util.parallel import one_blas_thread

RIDGE = 0.1  # penalty, as a share of the features' variances
SAMPLE = 20_000  # training patches that it is learned from
FLOOR = 0.05  # of the mean distance: shorter distances count as this one, their logarithms say little
ODD = 0.01  # share of the distances that count as this quantile: a few defects teach nothing
TAIL = 0.01  # predictions are kept between this quantile of the normal patches' and its mirror: no extrapolation
FOLDS = 10  # groups of training images, each of which an expectation is learned without
RANGE = 0.25  # and to this far from 0, whatever the patches: a factor of 1.28 (few images, or defects among them)


@dataclass(frozen=True, eq=False)
class Sample:
    """Some training patches. features: (n, D) float32. image: (n,) int32, the number of the image that each is of."""

    features: FloatArray
    image: IntArray


class Reservoir:
    """A uniform random sample of at most `size` of the patches that are added, in bounded memory.

    Every patch draws a number, seeded by its image's; those with the smallest numbers stay (bottom-k sampling).
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._limit, self._held = np.inf, 0
        self._arrays: tuple[FloatArray, IntArray, DoubleArray] | None = None  # features, image, key

    def add(self, image: int, features: FloatArray) -> None:
        """Takes an image's patches, (n, D)."""
        key = np.random.default_rng([self.seed, 2, image]).random(len(features))
        taken = np.flatnonzero(key < self._limit)
        if len(taken) > self.size:
            taken = np.sort(taken[np.argpartition(key[taken], self.size)[: self.size]])
        if len(taken):
            self._keep(features[taken], np.full(len(taken), image, np.int32), key[taken])

    def sample(self) -> Sample:
        """The sample so far; there must have been patches."""
        features, image, _ = self._thinned()
        return Sample(features, image)

    def state(self) -> dict[str, Array]:
        """All that `restore` needs, as plain arrays."""
        if self._arrays is None:
            return {}
        return dict(zip(("sample_features", "sample_image", "sample_key"), self._thinned(), strict=True))

    def restore(self, state: Mapping[str, Array]) -> None:
        """Goes on from a state."""
        self._keep(state["sample_features"], state["sample_image"], state["sample_key"])

    def _keep(self, features: FloatArray, image: IntArray, key: DoubleArray) -> None:
        """Takes at most `size` patches. Room for twice as many is got once: small arrays that come and go would leave
        holes in the memory, of which a fit of many images makes too many."""
        if self._arrays is None:
            room, dim = 2 * self.size, features.shape[1]
            self._arrays = np.empty((room, dim), np.float32), np.empty(room, np.int32), np.empty(room, np.float64)
        if self._held + len(key) > 2 * self.size:
            self._thinned()
        rows = slice(self._held, self._held + len(key))
        own_features, own_image, own_key = self._arrays
        own_features[rows], own_image[rows], own_key[rows] = features, image, key
        self._held = rows.stop

    def _thinned(self) -> tuple[FloatArray, IntArray, DoubleArray]:
        """Returns the held patches, at most `size` of them."""
        assert self._arrays is not None
        features, image, key = self._arrays
        if self._held > self.size:
            kept = np.sort(np.argpartition(key[: self._held], self.size)[: self.size])
            self._limit, self._held = float(key[kept].max()), self.size
            features[: self.size], image[: self.size], key[: self.size] = features[kept], image[kept], key[kept]
        return features[: self._held], image[: self._held], key[: self._held]


def expected_distance(
    vectors: FloatArray,
    groups: npt.NDArray[np.integer],
    searcher: Searcher,
    sample: Sample,
    power: float,
    *,
    in_folds: bool = True,
) -> ExpectedDistance | None:
    """Learns how far normal patches are from a bank, from a sample of them, each without its own image's vectors.

    vectors: (M, D) float32, those of the searcher. groups: (M,) the training image of each. power: as in
    `ExpectedDistance`. in_folds: also without each fold of the images, to score these as new ones. Returns None if
    there is nothing to learn: no patch that the vectors of other images could be held against, or none that is apart
    from them.
    """
    with one_blas_thread():
        distances, counted = _left_out(vectors, groups, searcher, sample)
        features, image = sample.features[counted], sample.image[counted]
        whole = _regressed(distances, features, power)
        if whole is None or not in_folds:
            return whole
        others = [image % FOLDS != fold for fold in range(FOLDS)]
        folds = [_regressed(distances[some], features[some], power) for some in others]
    kept = tuple(fold for fold in folds if fold is not None)
    return replace(whole, folds=kept, images=int(image.max()) + 1) if len(kept) == FOLDS else whole


def _regressed(distances: FloatArray, features: FloatArray, power: float) -> ExpectedDistance | None:
    """The ridge regression of (n,) distances' logarithms on (n, D) features; None for no distances, or only 0."""
    if len(distances) == 0:
        return None
    distances = np.minimum(distances, np.quantile(distances, 1 - ODD))
    mean = float(distances.mean(dtype=np.float64))
    if mean == 0.0:
        return None
    logarithms = np.log(np.maximum(distances.astype(np.float64) / mean, FLOOR))  # (n,)
    centred = features.astype(np.float64)  # (n, D)
    centre = centred.mean(axis=0)
    centred -= centre
    gram = centred.T @ centred / len(centred)  # (D, D)
    variances = gram.diagonal().copy()
    gram[np.diag_indices_from(gram)] += RIDGE * variances + 1e-9 * variances.max() + np.finfo(np.float64).tiny
    slope = np.linalg.solve(gram, centred.T @ (logarithms - logarithms.mean()) / len(centred))
    predicted = centred @ slope  # 0 at the centre
    low, high = np.clip(np.quantile(predicted, [TAIL, 1 - TAIL]), -RANGE, RANGE)
    return ExpectedDistance(slope.astype(np.float32), float(-centre @ slope), float(low), float(high), power)


def _left_out(
    vectors: FloatArray, groups: npt.NDArray[np.integer], searcher: Searcher, sample: Sample
) -> tuple[FloatArray, BoolArray]:
    """The sample's distances to the nearest vector of another image, and of which patches there are any."""
    found, index = searcher.search(sample.features, 1)
    distances, nearest = found[:, 0], index[:, 0]
    counted = np.ones(len(distances), np.bool_)
    images = groups.astype(np.int64)  # (M,)
    own = images[nearest] == sample.image
    for image in np.unique(sample.image[own]).tolist():
        again = np.flatnonzero(own & (sample.image == image))
        if (images == image).all():
            counted[again] = False
            continue
        found, _ = search_excluding(searcher, vectors, images, sample.features[again], image, 1)
        distances[again] = found[:, 0]
    return distances[counted], counted
