"""Scores of normal images that the bank does not know: the one pass from which thresholds and all statistics of normal
distances come.

Leave-one-image-out: each training image meets the bank without the vectors that came from it. Images that were set
aside have none there, so the same rule serves them. Cross-fitting makes a bank for each fold, without its images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from patchbank.arrays import FloatArray, IndexArray
from patchbank.bank import coreset
from patchbank.bank.memory_bank import MemoryBank
from patchbank.calibration.image_check import ImageCheck, ImageCheckLearner
from patchbank.calibration.thresholds import Calibration
from patchbank.config import Config
from patchbank.errors import DatasetError
from patchbank.features.embedding import CalibrationPatches, Patches
from patchbank.scoring import scores as maps
from patchbank.scoring import scores as scoring
from patchbank.scoring.expected_distance import SAMPLE, Sample, expected_distance
from patchbank.scoring.normal_distances import NormalDistances
from patchbank.scoring.scores import ExpectedDistance
from patchbank.search.searcher import Neighbours, Searcher, build_searcher, search_excluding
from patchbank.util.parallel import one_blas_thread
from patchbank.util.progress import Progress, silent
from patchbank.validation import without_code


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One normal image against the bank without its own vectors. Distances are Euclidean, higher = more anomalous.

    image: its number in `bank.images`. patches: what was scored. distances: (n,) float32, the patch scores. nearest:
    (n,) int64, each patch's nearest vector of another image. score: the image score. peak: the largest value of its
    anomaly map.
    """

    image: int
    patches: Patches
    distances: FloatArray
    nearest: IndexArray
    score: float
    peak: float


@one_blas_thread()
def calibrate(
    images: Sequence[CalibrationPatches], bank: MemoryBank, searcher: Searcher, config: Config, progress: Progress
) -> tuple[Calibration | None, NormalDistances | None, ImageCheck | None]:
    """Returns all that a fit learns from normal images that the bank does not know: the images set aside, or each image
    against the others' vectors. Raises DatasetError if there are none."""
    if config.calibration == "none":
        return None, None, None
    if not images:
        raise DatasetError("calibration = 'holdout' set no image aside; give the images as a list, or more of them")
    return summarised(images, bank, searcher, config, progress)


def summarised(
    images: Sequence[CalibrationPatches], bank: MemoryBank, searcher: Searcher, config: Config, progress: Progress
) -> tuple[Calibration, NormalDistances, ImageCheck | None]:
    """Returns all that follows from held-out images (at least one): the thresholds, the distribution of normal
    distances, and how the images look as a whole."""
    score = _scored_by(config.calibration)
    scene = ImageCheckLearner(len(images), config)
    scores, peaks, names, distances = [], [], [], []
    for held in score(images, bank, searcher, config, progress):
        scores.append(held.score)
        peaks.append(held.peak)
        names.append(bank.images[held.image])
        distances.append((held.patches.on_grid(held.distances), held.patches.counted))
        scene.add(held.patches, held.distances)
    calibration = Calibration(
        np.array(scores, np.float32),
        np.array(peaks, np.float32),
        tuple(names),
        config.calibration,
        config.max_false_alarms,
        config.confidence,
        config.review_rate,
        config.calibrate_on_suspects,
    )
    return calibration, NormalDistances.of(distances), scene.finish()


def _scored_by(calibration: str) -> Callable[..., Iterator[HeldOut]]:
    if calibration in ("leave_one_out", "holdout"):  # of what was set aside, the bank has no vectors
        return score_held_out
    if calibration == "cross_fit":
        return score_cross_fitted
    raise without_code("calibration", calibration)


def score_one(image: int, patches: Patches, bank: MemoryBank, searcher: Searcher, config: Config) -> HeldOut:
    """One image by the bank without the vectors of image number `image`."""
    (held,) = score_held_out([CalibrationPatches(image, patches)], bank, searcher, config)
    return held


def score_cross_fitted(
    images: Sequence[CalibrationPatches],
    bank: MemoryBank,
    searcher: Searcher,
    config: Config,
    progress: Progress = silent,
) -> Iterator[HeldOut]:
    """Scores each image with a bank made without its fold, in the order of `images`; `nearest` is -1, since these banks
    are not kept. `images` are all training images; `searcher` holds the vectors of the bank that is calibrated.

    Each fold's bank is thinned anew: nothing of an image has shaped it (cross-conformal prediction; Vovk 2015). But
    each coreset has gaps of its own, where all images score alike, and those of the folds' banks say nothing about
    the calibrated bank's: a patch's score is the larger of its distances to both. Memory: a copy of the patches.
    """
    folds = min(config.folds, len(images))
    fold = np.arange(len(images)) % folds
    fold = fold[np.random.default_rng(config.seed).permutation(len(images))]
    scored: list[HeldOut | None] = [None] * len(images)
    for number in range(folds):
        progress("cross-fit", number, folds)
        others = [held for held, f in zip(images, fold, strict=True) if f != number]
        features = np.concatenate([held.patches.features for held in others])  # (N', D)
        image = np.repeat([held.image for held in others], [len(held.patches.place) for held in others])  # (N',)
        chosen = coreset.sample(features, config).indices
        vectors, own_image = features[chosen], image[chosen]
        sample = _sample(features, image, config)
        del others, features, image
        others_searcher = build_searcher(vectors, config)
        expected = None
        if power := config.distance_scaling:
            expected = expected_distance(vectors, own_image, others_searcher, sample, power, in_folds=False)
        for n in np.flatnonzero(fold == number).tolist():
            held = images[n]
            found = others_searcher.search(held.patches.features, config.num_neighbours)  # (n, k)
            final = searcher.search(held.patches.features, config.num_neighbours)[0]  # (n, k)
            plain = scoring.mean_distances(final)
            least = plain, scoring.patch_scores(plain, held.patches.features, bank.expected)
            result = _held_out(held, found, vectors, expected, others_searcher, config, least)
            scored[n] = replace(result, nearest=np.full_like(result.nearest, -1))
    progress("cross-fit", folds, folds)
    return (held for held in scored if held is not None)


def score_held_out(
    images: Sequence[CalibrationPatches],
    bank: MemoryBank,
    searcher: Searcher,
    config: Config,
    progress: Progress = silent,
) -> Iterator[HeldOut]:
    """Scores the images one by one, in order; `searcher` holds the bank's vectors. Reports ("calibrate", done, all)."""
    groups = bank.image.astype(np.int64)
    for number, held in enumerate(images):
        progress("calibrate", number, len(images))
        found = search_excluding(
            searcher, bank.vectors, groups, held.patches.features, held.image, config.num_neighbours
        )  # (n, k)
        yield _held_out(held, found, bank.vectors, _expected(bank, held.image, config), searcher, config)
    progress("calibrate", len(images), len(images))


def _expected(bank: MemoryBank, image: int, config: Config) -> ExpectedDistance | None:
    """The expectation for an image that is held out. What was set aside has taught none: it is that of new images."""
    if bank.expected is None or config.calibration == "holdout":
        return bank.expected
    return bank.expected.without(image)


def _sample(features: FloatArray, image: IndexArray, config: Config) -> Sample:
    """Some of the patches, (N, D), of these images, (N,)."""
    rng = np.random.default_rng([config.seed, 3])
    some = np.sort(rng.choice(len(features), min(SAMPLE, len(features)), replace=False))
    return Sample(features[some], image[some].astype(np.int32))


def _held_out(
    held: CalibrationPatches,
    found: Neighbours,
    vectors: FloatArray,
    expected: ExpectedDistance | None,
    searcher: Searcher,
    config: Config,
    least: tuple[FloatArray, FloatArray] | None = None,
) -> HeldOut:
    """found: the patches' neighbours in `vectors`, which `searcher` holds. expected: how far from these normal patches
    are. least: (n,) what the plain distances and the scores are at least."""
    patches, (distances, nearest) = held.patches, found
    plain = scoring.mean_distances(distances)  # (n, k) -> (n,)
    scores = scoring.patch_scores(plain, patches.features, expected)
    if least is not None:
        plain, scores = np.maximum(plain, least[0]), np.maximum(scores, least[1])
    score = scoring.image_score(scores, nearest, patches, vectors, searcher, config)
    size = patches.input_size
    heat = maps.anomaly_map(patches.on_grid(plain), size, size, config.smoothing_sigma, patches.counted)
    return HeldOut(held.image, patches, scores, nearest[:, 0], score, float(heat.max()))
