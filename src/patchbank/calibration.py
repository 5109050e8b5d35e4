"""Thresholds from scores of normal images that the bank did not contain. Never from test data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Held-out normal scores, and the thresholds that follow from them.

    scores: (n,) float32, the image scores. peaks: (n,) float32, the largest value of each image's anomaly map. method:
    'leave_one_out' (each training image against the bank without its own vectors) or 'holdout' (images set aside).
    images: the images' names. false_alarm_rate: the share of good images that may be flagged.
    """

    scores: FloatArray
    peaks: FloatArray
    images: tuple[str, ...]
    method: str
    false_alarm_rate: float

    def __post_init__(self) -> None:
        n = len(self.images)
        if n == 0 or self.scores.shape != (n,) or self.peaks.shape != (n,):
            got = f"{self.scores.shape} and {self.peaks.shape}"
            raise ValueError(f"expected one score and one peak for each of {n} > 0 images; got {got}")

    @property
    def threshold(self) -> float:
        """An image is anomalous if its score is larger."""
        return order_statistic(self.scores, self.false_alarm_rate)

    @property
    def pixel_threshold(self) -> float:
        """A pixel belongs to the mask if its value is larger. At most `false_alarm_rate` of normal images have any such
        pixel."""
        return order_statistic(self.peaks, self.false_alarm_rate)

    @property
    def finest_rate(self) -> float:
        """The smallest false-alarm rate that this many images can support: 1 / (n + 1). A smaller one gives the largest
        score."""
        return 1.0 / (len(self.scores) + 1)


def order_statistic(scores: FloatArray, false_alarm_rate: float) -> float:
    """The k-th smallest of n scores, k = ceil((n + 1)(1 - rate)): a further, exchangeable score is larger with
    probability at most `false_alarm_rate` (split conformal prediction; Vovk et al. 2005). Where k > n, the largest
    score: n images cannot support the rate.
    """
    n = len(scores)
    k = min(math.ceil((n + 1) * (1.0 - false_alarm_rate) - 1e-9), n)  # 1e-9: 100 * (1 - 0.01) must not round up to 100
    return float(np.partition(scores, k - 1)[k - 1])
