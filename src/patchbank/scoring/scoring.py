"""From nearest-neighbour distances to patch scores and the image's score. Distances are Euclidean, higher = more
anomalous."""

from __future__ import annotations

import numpy as np

from patchbank.arrays import FloatArray, IndexArray
from patchbank.config import Config
from patchbank.features.embedding import Patches
from patchbank.scoring.anomaly_map import smoothed
from patchbank.scoring.expected_distance import ExpectedDistance
from patchbank.search.searcher import Searcher
from patchbank.validation import without_code


def mean_distances(distances: FloatArray) -> FloatArray:
    """(P, k) distances to the k nearest bank vectors -> (P,) their means: what the anomaly map shows."""
    means: FloatArray = distances.mean(axis=1, dtype=np.float32)
    return means


def patch_scores(plain: FloatArray, features: FloatArray, expected: ExpectedDistance | None) -> FloatArray:
    """(P,) mean distances of the patches, (P, D), to the bank -> (P,) scaled by what is expected, if that is known.

    Scores stay distances: a normal patch that is as far from the bank as normal patches are on average keeps its own.
    """
    return expected.scaled(plain, features) if expected else plain


def top_fraction_mean(scores: FloatArray, fraction: float) -> float:
    """Mean of the largest `fraction` of the (P,) patch scores, at least one of them."""
    count = max(1, round(fraction * scores.size))
    return float(np.partition(scores.ravel(), scores.size - count)[scores.size - count :].mean(dtype=np.float64))


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
    distances = np.linalg.norm(vectors[members].astype(np.float64) - patch.astype(np.float64), axis=1)
    own = float(distances[members == nearest][0])
    with np.errstate(over="ignore"):
        weight = 1.0 - 1.0 / float(np.exp(distances - own).sum())
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
