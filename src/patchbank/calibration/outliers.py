"""Training images that stand out from the others. `fit` warns by this one rule, thresholds leave images out by it,
`drop_outliers` drops by it, and `audit` ranks by it.                                                       (n,) -> (n,)

A value's *oddness* is its distance from the median, in units of half the interquartile range. Neither notices whether a
few of the images are defective, which mean and standard deviation would. Scores are left-out scores and compared by
their logarithms. What people read is the *robust z-score*: the same in standard deviations, as far as the values are
normally distributed; 6 units are 4 of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchbank.arrays import DoubleArray
from patchbank.util.ieee import log

LIMIT = 6.0  # units; chosen on bottle and screw with planted defects (docs/operate/audit.md)
LEAST_IMAGES = 8  # fewer say nothing about what is usual
IN_SIGMAS = 0.67449  # half the interquartile range of a normal distribution, in standard deviations
_FEW = 5  # quartiles of so few images are so uncertain that the limit is doubled
_FINEST_SCORE = 0.01  # a logarithm: scores this close are alike, even if most are identical


@dataclass(frozen=True)
class SuspectedOutlier:
    """A training image that looks defective. score: its left-out score, Euclidean, higher = more anomalous. oddness: by
    how many units it exceeds the median. limit: what was allowed."""

    name: str
    score: float
    oddness: float
    limit: float

    @property
    def robust_z(self) -> float:
        """The oddness as a robust z-score: in standard deviations."""
        return IN_SIGMAS * self.oddness

    @property
    def robust_z_limit(self) -> float:
        """The largest usual robust z-score."""
        return IN_SIGMAS * self.limit


def limit_for(count: int) -> float:
    """The largest oddness of a usual image among so many; infinite for fewer than LEAST_IMAGES."""
    return LIMIT * (1 + _FEW / count) if count >= LEAST_IMAGES else float("inf")


def oddness(values: npt.NDArray[np.floating], finest: float) -> DoubleArray:
    """(n,) signed distances from the median, in units of half the interquartile range, which is at least `finest`."""
    values = np.asarray(values, np.float64)
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    odd: DoubleArray = (values - middle) / max((high - low) / 2, finest)
    return odd


def oddness_of_scores(scores: npt.NDArray[np.floating]) -> DoubleArray:
    """(n,) of scores (Euclidean distances), on their logarithms."""
    return oddness(log(np.maximum(np.asarray(scores, np.float64), 1e-6)), _FINEST_SCORE)


def screen(scores: npt.NDArray[np.floating], names: Sequence[str]) -> tuple[SuspectedOutlier, ...]:
    """The images whose left-out scores (n,) are too high to be those of good ones, the oddest first."""
    limit = limit_for(len(names))
    if not np.isfinite(limit):
        return ()
    odd = oddness_of_scores(scores)
    order = np.argsort(-odd, kind="stable")
    return tuple(
        SuspectedOutlier(names[i], float(scores[i]), float(odd[i]), limit) for i in order.tolist() if odd[i] > limit
    )
