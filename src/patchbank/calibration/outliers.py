"""Training images that stand out from the others. `fit` warns by this one rule, thresholds leave images out by it,
`drop_outliers` drops by it, and `audit` ranks by it.                                                       (n,) -> (n,)

A value's *oddness* is its distance from the median, in units of half the interquartile range. Neither notices whether a
few of the images are defective, which mean and standard deviation would. Scores are left-out scores and compared by
their logarithms; for normally distributed ones, 6 units are 4 standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchbank.arrays import DoubleArray

LIMIT = 6.0  # units; chosen on bottle and screw with planted defects (docs/operate/audit.md)
LEAST_IMAGES = 8  # fewer say nothing about what is usual
_FEW = 5  # quartiles of so few images are so uncertain that the limit is doubled
_FINEST_SCORE = 0.01  # a logarithm: scores this close are alike, even if most are identical


@dataclass(frozen=True)
class Suspect:
    """A training image that looks defective. score: its left-out score, Euclidean, higher = more anomalous. oddness: by
    how many units it exceeds the median. limit: what was allowed."""

    name: str
    score: float
    oddness: float
    limit: float


def limit_for(count: int) -> float:
    """The largest oddness of a usual image among so many; infinite for fewer than LEAST_IMAGES."""
    return LIMIT * (1 + _FEW / count) if count >= LEAST_IMAGES else float("inf")


def oddness(values: npt.NDArray[np.floating], finest: float) -> DoubleArray:
    """(n,) signed distances from the median, in units of half the interquartile range, which is at least `finest`."""
    values = np.asarray(values, np.float64)
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    odd: DoubleArray = (values - middle) / max((high - low) / 2, finest)
    return odd


def score_oddness(scores: npt.NDArray[np.floating]) -> DoubleArray:
    """(n,) of scores (Euclidean distances), on their logarithms."""
    return oddness(np.log(np.maximum(np.asarray(scores, np.float64), 1e-6)), _FINEST_SCORE)


def screen(scores: npt.NDArray[np.floating], names: Sequence[str]) -> tuple[Suspect, ...]:
    """The images whose left-out scores (n,) are too high to be those of good ones, the oddest first."""
    limit = limit_for(len(names))
    if not np.isfinite(limit):
        return ()
    odd = score_oddness(scores)
    order = np.argsort(-odd, kind="stable")
    return tuple(Suspect(names[i], float(scores[i]), float(odd[i]), limit) for i in order.tolist() if odd[i] > limit)
