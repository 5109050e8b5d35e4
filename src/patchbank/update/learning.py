"""Which vectors a bank takes from new images, and which take the place of those that leave it.    (N, D) -> (m, D)

Both continue greedy k-center from the bank (Gonzalez 1985; PatchCore's Algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from patchbank.arrays import BoolArray, FloatArray, IndexArray
from patchbank.bank import coreset
from patchbank.bank.memory_bank import ArchivedVectors, MemoryBank
from patchbank.calibration.thresholds import Calibration
from patchbank.config import Config
from patchbank.errors import ConfigError, DatasetError
from patchbank.features.embedding import CalibrationPatches, Patches
from patchbank.scoring.scores import ExpectedDistance, patch_scores
from patchbank.search.exact import ExactSearcher
from patchbank.util.progress import Progress, silent


@dataclass(frozen=True, eq=False)
class NewImage:
    """An image to be learned. number: its place in the bank's `images`. picture: its thumbnail, or no bytes."""

    number: int
    name: str
    patches: Patches
    picture: bytes


@dataclass(frozen=True, eq=False)
class Learned:
    """Holds what the bank takes from new images. covered: for each image, how many of its patches lie within the radius
    of the bank before. reach: no patch of theirs is farther from the bank after."""

    rows: ArchivedVectors
    covered: tuple[int, ...]
    reach: float


def learning_radius(bank: MemoryBank, calibration: Calibration | None) -> float:
    """Returns how close the bank must come to a new image's patches: its covering radius, or a typical good image's
    score or map's peak, whichever is least. No patch, and so neither the score nor the map, is odder than that then.
    Raises ConfigError where none of these is known."""
    typical = [float(np.median(values)) for values in (calibration.scores, calibration.peaks)] if calibration else []
    known = [radius for radius in (bank.covering_radius, *typical) if not math.isnan(radius)]
    if not known:
        raise ConfigError("this model has neither a covering radius nor normal scores to learn by; fit it again")
    return min(known)


def learn(
    new: Sequence[NewImage],
    centres: FloatArray,
    radius: float,
    expected: ExpectedDistance | None = None,
    progress: Progress = silent,
) -> Learned:
    """Returns what the bank, whose vectors are `centres`, (M, D), must take so that no patch of the new images scores
    more than `radius`: greedy k-center continues from the bank, among the patches that it does not cover."""
    searcher, covered, reach, rows = ExactSearcher(centres), [], 0.0, [_nothing(centres)]
    close = radius  # what distance is close enough for all patches that are not covered, however their own is scaled
    for each in new:
        features = each.patches.features
        distances = searcher.search(features, 1)[0][:, 0]  # (n,)
        scaled = patch_scores(distances, features, expected)
        far = np.maximum(scaled, distances) > radius  # the image's score depends on the one, the map on the other
        close = min(close, float((radius * np.minimum(distances[far] / scaled[far], 1)).min(initial=math.inf)))
        rows.append(_rows(each.number, each.patches, far))
        covered.append(int(np.count_nonzero(~far)))
        reach = max(reach, float(distances[~far].max(initial=0)))
    uncovered = ArchivedVectors.joined(rows)
    if len(uncovered) == 0:
        return Learned(uncovered, tuple(covered), reach)
    picked = coreset.cover(uncovered.vectors, centres, close, progress)
    return Learned(uncovered.take(picked.indices), tuple(covered), max(reach, picked.covering_radius))


def staying(bank: MemoryBank, gone: Collection[int]) -> IndexArray:
    """Returns which of the bank's vectors are of other images than those that are gone. Raises DatasetError if none
    is."""
    kept = np.flatnonzero(~np.isin(bank.image, list(gone)))
    if len(kept) == 0:
        raise DatasetError("the bank would be empty; keep some of its images, or fit again")
    return kept


@dataclass(frozen=True, eq=False)
class Filled:
    """Says which candidates take the place of vectors that have left. picks: (m,) int64, their numbers. reach: no
    candidate, and no patch that `farthest` left out, is farther from the bank after."""

    picks: IndexArray
    reach: float


def farthest(
    images: Sequence[CalibrationPatches], centres: FloatArray, count: int, progress: Progress = silent
) -> tuple[ArchivedVectors, float]:
    """The `count` patches of these images that are farthest from the bank, whose vectors are `centres`, (M, D), and the
    largest distance of those that are left out. One image after the other, in bounded memory."""
    searcher = ExactSearcher(centres)
    pool, distances, left_out = _nothing(centres), np.empty(0, np.float32), 0.0
    rows, measured, waiting = [pool], [distances], 0
    for number, held in enumerate(images):
        progress("fill", number, len(images))
        found = searcher.search(held.patches.features, 1)[0][:, 0]  # (n,)
        rows.append(_rows(held.image, held.patches, found > 0))
        measured.append(found[found > 0])
        waiting += len(measured[-1])
        if waiting > count or number == len(images) - 1:
            pool, distances, least = _largest(ArchivedVectors.joined(rows), np.concatenate(measured), count)
            left_out = max(left_out, least)
            rows, measured, waiting = [pool], [distances], 0
    progress("fill", len(images), len(images))
    return pool, left_out


def fill(candidates: ArchivedVectors, centres: FloatArray, count: int, config: Config, left_out: float = 0.0) -> Filled:
    """Returns which of the candidates take the place of `count` vectors that have left the bank, of which `centres`,
    (M, D), are left: the sampler that made the bank continues from these. All of them, if they are not enough."""
    count = min(count, len(candidates))
    if count == 0:
        return Filled(np.empty(0, np.int64), math.inf if len(candidates) else left_out)
    picked = coreset.continued(candidates.vectors, count, centres, config)
    return Filled(picked.indices, max(picked.covering_radius, left_out))


def _rows(number: int, patches: Patches, which: BoolArray) -> ArchivedVectors:
    """Some of an image's patches, with their provenance."""
    row, column = np.divmod(patches.place[which], np.int32(patches.grid[1]))
    return ArchivedVectors(patches.features[which], np.full(len(row), number, np.int32), row, column)


def _nothing(vectors: FloatArray) -> ArchivedVectors:
    none = np.empty(0, np.int32)
    return ArchivedVectors(vectors[:0], none, none, none)


def _largest(rows: ArchivedVectors, distances: FloatArray, count: int) -> tuple[ArchivedVectors, FloatArray, float]:
    """The rows with the largest distances, and the largest of the others'."""
    if len(rows) <= count:
        return rows, distances, 0.0
    order = np.argpartition(distances, len(rows) - count)
    chosen = np.sort(order[len(rows) - count :])
    return rows.take(chosen), distances[chosen], float(distances[order[: len(rows) - count]].max())
