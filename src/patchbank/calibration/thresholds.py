"""Thresholds with a guarantee, from scores of normal images that the bank did not contain. Never from test data.

Two promises can be made of a threshold at the k-th smallest of n normal scores, if further normal images are like those
n (exchangeable), whatever the scores' distribution:

- *on average* (`confidence` = 0): a further normal image is over it with probability at most `max_false_alarms`, where
  the chance includes the draw of the n images (split conformal prediction; Vovk et al. 2005);
- *with confidence* c: with probability c over the draw of the n images, at most the share `max_false_alarms` of all
  further normal images is over it (a one-sided tolerance bound; Wilks 1941).

Either promise needs enough images. Where there are too few, the threshold is the largest score, and `Support` says what
that is worth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from patchbank.arrays import DoubleArray, FloatArray
from patchbank.util.wording import brief, counted


@dataclass(frozen=True)
class Support:
    """The rates that n normal images support. satisfied: whether the wanted rate is one of them. rate: the smallest
    share of false alarms that they support (0..1). needed: how many images the wanted rate needs; None = no number is
    enough."""

    n: int
    satisfied: bool
    rate: float
    needed: int | None
    max_false_alarms: float
    confidence: float

    def __str__(self) -> str:
        at = f" at {percent(self.confidence)}" if self.confidence else " on average"
        wanted = percent(self.max_false_alarms)
        these = counted(self.n, "good image supports", "good images support")
        if self.satisfied:
            return f"{these} {wanted}{at}"
        needs = f"{wanted} needs {self.needed:,}" if self.needed else f"{wanted} cannot be promised by any number"
        return f"{these} {percent_up(self.rate)}{at}; {needs}"

    @property
    def guarantee(self) -> str:
        """The guarantee of the threshold in words: the wanted rate, or the smallest supported one."""
        rate = percent(self.max_false_alarms) if self.satisfied else percent_up(self.rate)
        return f"at most {rate} false alarms " + (
            f"with {percent(self.confidence)} confidence" if self.confidence else "on average"
        )

    @property
    def kept(self) -> bool:
        """The former name of `satisfied`."""
        return self.satisfied

    @property
    def promise(self) -> str:
        """The former name of `guarantee`."""
        return self.guarantee


@dataclass(frozen=True, eq=False)
class Calibration:
    """Held-out normal scores, and the thresholds that follow from them.

    scores: (n,) float32, the image scores. peaks: (n,) float32, the largest value of each image's anomaly map. images:
    the images' names. method: 'leave_one_out' (each training image against the bank without its own vectors),
    'cross_fit' (against a bank without its fold) or 'holdout' (images set aside). max_false_alarms: the share of good
    images that may be flagged. confidence: how sure that must be; 0 = on average.
    """

    scores: FloatArray
    peaks: FloatArray
    images: tuple[str, ...]
    method: str
    max_false_alarms: float
    confidence: float = 0.0

    __repr__ = brief

    def __post_init__(self) -> None:
        n = len(self.images)
        if n == 0 or self.scores.shape != (n,) or self.peaks.shape != (n,):
            got = f"{self.scores.shape} and {self.peaks.shape}"
            raise ValueError(f"expected one score and one peak for each of {n} > 0 images; got {got}")
        if not (np.isfinite(self.scores).all() and np.isfinite(self.peaks).all()):
            raise ValueError("expected finite calibration scores and peaks; got NaN or infinity")
        if not (0 <= self.max_false_alarms <= 1 and 0 <= self.confidence < 1):
            raise ValueError(f"expected shares between 0 and 1; got {self.max_false_alarms} and {self.confidence}")

    @property
    def threshold(self) -> float:
        """An image is anomalous if its score is larger."""
        return threshold_of(self.scores, self.max_false_alarms, self.confidence)

    @property
    def pixel_threshold(self) -> float:
        """A pixel belongs to the mask if its value is larger. At most the share `max_false_alarms` of normal images has
        any such pixel."""
        return threshold_of(self.peaks, self.max_false_alarms, self.confidence)

    @property
    def support(self) -> Support:
        """Says whether there are enough images for the guarantee, and which rate they support."""
        return support(len(self.scores), self.max_false_alarms, self.confidence)

    def p_value(self, score: float) -> float:
        """The share of normal images, this one counted, that look at least this odd (0..1; a conformal p-value):
        (1 + number of calibration scores >= score) / (n + 1). A normal image's is at most p with probability at most p.
        """
        scores = self.scores.astype(np.float64)  # as the verdict compares; NumPy 1 would round the score to float32
        return (1 + int(np.count_nonzero(scores >= score))) / (len(scores) + 1)


def threshold_of(scores: FloatArray, max_false_alarms: float, confidence: float = 0.0) -> float:
    """The smallest of (n,) normal scores that keeps the promise; the largest score where none does."""
    n = len(scores)
    k = rank(n, max_false_alarms, confidence) or n
    return float(np.partition(scores, k - 1)[k - 1])


def rank(n: int, max_false_alarms: float, confidence: float = 0.0) -> int | None:
    """k, where the k-th smallest of n normal scores is the lowest threshold that keeps the promise; None where even the
    largest does not.

    On average: k = ceil((n + 1)(1 - rate)). With confidence c: the smallest k for which n - k or fewer of n draws
    exceed the true (1 - rate)-quantile with probability at most 1 - c, P(Binomial(n, rate) <= n - k) <= 1 - c. Ties
    between scores make either promise only safer.
    """
    if confidence == 0:
        k = math.ceil((n + 1) * (1.0 - max_false_alarms) - 1e-9)  # 1e-9: 100 * (1 - 0.01) must not round up to 100
        return max(k, 1) if k <= n else None
    if max_false_alarms >= 1:
        return 1
    over = np.flatnonzero(binomial_cdf(n, max_false_alarms) <= (1 - confidence) * (1 + 1e-9))
    return n - int(over[-1]) if len(over) else None  # the cdf rises: all m up to the last one may exceed the threshold


def support(n: int, max_false_alarms: float, confidence: float) -> Support:
    """Returns the rate that n normal images support, beside the wanted one."""
    if confidence == 0:
        rate = 1 / (n + 1)
        wanted = 1 / max_false_alarms - 1 - 1e-9 if max_false_alarms > 0 else math.inf
    else:  # (1 - rate)^n <= 1 - c: the largest of n exceeds the quantile
        rate = 1 - (1 - confidence) ** (1 / n)
        wanted = math.log(1 - confidence) / math.log1p(-max_false_alarms) if max_false_alarms > 0 else math.inf
    needed = math.ceil(wanted) if math.isfinite(wanted) else None  # infinite: of a rate of 0, or almost
    satisfied = rank(n, max_false_alarms, confidence) is not None
    return Support(n, satisfied, rate, needed, max_false_alarms, confidence)


def percent(share: float) -> str:
    """0.025 -> '2.5 %'."""
    return f"{100 * share:g} %"


def percent_up(share: float) -> str:
    """A share over 0 in per cent, rounded up to two digits: less would claim too much. 0.02466 -> '2.5 %'."""
    digits = 1 - math.floor(math.log10(100 * share))
    return f"{math.ceil(100 * share * 10.0**digits - 1e-9) / 10.0**digits:g} %"


def binomial_cdf(n: int, p: float) -> DoubleArray:
    """(n + 1,) P(Binomial(n, p) <= m) for m = 0..n, by logarithms: nothing underflows that matters."""
    if p <= 0:
        return np.ones(n + 1)
    m = np.arange(n + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(m[1:]))])  # logarithms
    logs = factorials[n] - factorials - factorials[::-1] + m * math.log(p) + (n - m) * math.log1p(-p)
    return np.cumsum(np.exp(logs))
