"""Scores of normal images that the bank does not know: the one pass from which thresholds and all statistics of normal
distances come.

Leave-one-image-out: each training image meets the bank without the vectors that came from it. Images that were set
aside have none there, so the same rule serves them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchbank import maps, scoring
from patchbank.bank import MemoryBank
from patchbank.config import Config
from patchbank.patches import Patches
from patchbank.progress import Progress, silent
from patchbank.search import Searcher, search_excluding
from patchbank.streaming import CalibrationPatches

FloatArray = npt.NDArray[np.float32]


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
    nearest: npt.NDArray[np.int64]
    score: float
    peak: float


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
        patches = held.patches
        distances, nearest = search_excluding(
            searcher, bank.vectors, groups, patches.features, held.image, config.num_neighbours
        )  # (n, k)
        scores = scoring.patch_scores(distances)  # (n,)
        score = scoring.image_score(scores, nearest, patches.features, bank.vectors, searcher, config)
        size = patches.input_size
        heat = maps.anomaly_map(patches.on_grid(scores), size, size, config.smoothing_sigma, patches.counted)
        yield HeldOut(held.image, patches, scores, nearest[:, 0], score, float(heat.max()))
    progress("calibrate", len(images), len(images))
