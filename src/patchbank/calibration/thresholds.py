"""Thresholds with a guarantee, from scores of normal images that the bank did not contain. Never from test data.

Two promises can be made of a threshold at the k-th smallest of n normal scores, if further normal images are like those
n (exchangeable), whatever the scores' distribution:

- *on average* (`confidence` = 0): a further normal image is over it with probability at most `max_false_alarms`, where
  the chance includes the draw of the n images (split conformal prediction; Vovk et al. 2005);
- *with confidence* c: with probability c over the draw of the n images, at most the share `max_false_alarms` of all
  further normal images is over it (a one-sided tolerance bound; Wilks 1941).

Either promise needs enough images. Where there are too few, the threshold is the largest score, and `Support` says what
that is worth.

Images that look defective (`outliers.screen`) may be no normal images. Unless they are wanted, they are left out of all
this, and `Bounds` says what the threshold is worth if they are good after all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from patchbank.arrays import BoolArray, DoubleArray, FloatArray
from patchbank.calibration.outliers import SuspectedOutlier, screen
from patchbank.config import Config
from patchbank.util.ieee import exp, log, log1p
from patchbank.util.wording import brief, counted

MOST_NAMED = 3  # images that set the threshold


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


@dataclass(frozen=True)
class Bounds:
    """The largest share of good images over the threshold that the held-out scores leave room for (0..1), with the
    confidence of the calibration (Clopper and Pearson 1934), or on average for a confidence of 0. suspects: how many
    images were left out because they look defective. if_bad: the share if they are; if_good: if they are good after
    all, so that each of them is a good image over the threshold. Without suspects, both are one."""

    suspects: int
    if_bad: float
    if_good: float

    def __str__(self) -> str:
        if not self.suspects:
            return f"at most {percent_up(self.if_bad)}"
        them, they = ("suspect is", "it is") if self.suspects == 1 else (f"{self.suspects:,} suspects are", "they are")
        return f"at most {percent_up(self.if_bad)} if the {them} bad, {percent_up(self.if_good)} if {they} good"

    @property
    def sentence(self) -> str:
        """Returns what it means for the threshold that some images look defective."""
        them = "image that looks defective does" if self.suspects == 1 else "images that look defective do"
        return f"{self.suspects:,} {them} not set the threshold; false alarms: {self}"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Held-out normal scores, and the thresholds that follow from them.

    scores: (n,) float32, the image scores. peaks: (n,) float32, the largest value of each image's anomaly map. images:
    the images' names. method: 'leave_one_out' (each training image against the bank without its own vectors),
    'cross_fit' (against a bank without its fold) or 'holdout' (images set aside). max_false_alarms: the share of good
    images that may be flagged. confidence: how sure that must be; 0 = on average. review_rate: an image whose p-value
    is at most this is to be reviewed; 0 = none. with_suspects: whether images that look defective count like the
    others.
    """

    scores: FloatArray
    peaks: FloatArray
    images: tuple[str, ...]
    method: str
    max_false_alarms: float
    confidence: float = 0.0
    review_rate: float = 0.1
    with_suspects: bool = True

    __repr__ = brief

    def __post_init__(self) -> None:
        n = len(self.images)
        if n == 0 or self.scores.shape != (n,) or self.peaks.shape != (n,):
            got = f"{self.scores.shape} and {self.peaks.shape}"
            raise ValueError(f"expected one score and one peak for each of {n} > 0 images; got {got}")
        if not (np.isfinite(self.scores).all() and np.isfinite(self.peaks).all()):
            raise ValueError("expected finite calibration scores and peaks; got NaN or infinity")
        shares = (self.max_false_alarms, self.confidence, self.review_rate)
        if not (all(0 <= share <= 1 for share in shares) and self.confidence < 1):
            raise ValueError(f"expected shares between 0 and 1; got {shares}")

    @cached_property
    def suspects(self) -> tuple[SuspectedOutlier, ...]:
        """Images that look defective, the oddest first, whether they count or not."""
        return screen(self.scores, self.images)

    @cached_property
    def counted(self) -> BoolArray:
        """(n,) bool: the images that thresholds and p-values rest on; at least three quarters of them."""
        if self.with_suspects or not self.suspects:
            return np.ones(len(self.images), np.bool_)
        return self.scores < np.float32(min(each.score for each in self.suspects))  # the highest scores, by the rule

    @cached_property
    def counted_scores(self) -> FloatArray:
        """(m,) float32: the scores of the images that count."""
        return self.scores[self.counted]

    @cached_property
    def threshold(self) -> float:
        """An image is anomalous if its score is larger."""
        return threshold_of(self.counted_scores, self.max_false_alarms, self.confidence)

    @cached_property
    def pixel_threshold(self) -> float:
        """A pixel belongs to the mask if its value is larger. At most the share `max_false_alarms` of normal images has
        any such pixel."""
        return threshold_of(self.peaks[self.counted], self.max_false_alarms, self.confidence)

    @cached_property
    def review_above(self) -> float | None:
        """The largest score whose p-value is over `review_rate`: a larger one is to be reviewed. None where no p-value
        is that small, or review is off."""
        scores = self.counted_scores
        k = rank(len(scores), self.review_rate) if self.review_rate else None
        return None if k is None else float(np.partition(scores, k - 1)[k - 1])

    @property
    def support(self) -> Support:
        """Says whether there are enough images for the guarantee, and which rate they support."""
        return support(int(self.counted.sum()), self.max_false_alarms, self.confidence)

    @cached_property
    def bounds(self) -> Bounds:
        """Returns what the threshold is worth: the share of good images that may be over it at most, whatever the
        suspects are."""
        n = int(self.counted.sum())
        over = n - (rank(n, self.max_false_alarms, self.confidence) or n)  # by rank: ties only help
        left_out = len(self.images) - n
        bad, good = ((n, over), (n + left_out, over + left_out))
        return Bounds(left_out, upper_bound(*bad, self.confidence), upper_bound(*good, self.confidence))

    @property
    def setters(self) -> tuple[str, ...]:
        """The images that set the threshold: those that count and score as high or higher, the highest first, at most
        MOST_NAMED."""
        scores = np.where(self.counted, self.scores, -np.inf)
        order = np.argsort(-scores, kind="stable").tolist()
        return tuple(self.images[i] for i in order if scores[i] >= self.threshold)[:MOST_NAMED]

    def p_value(self, score: float) -> float:
        """The share of normal images, this one counted, that look at least this odd (0..1; a conformal p-value):
        (1 + number of calibration scores >= score) / (n + 1). A normal image's is at most p with probability at most p.
        """
        scores = self.counted_scores.astype(
            np.float64
        )  # as the verdict compares; NumPy 1 would round the score to float32
        return (1 + int(np.count_nonzero(scores >= score))) / (len(scores) + 1)


def promising(calibration: Calibration, config: Config) -> Calibration:
    """The same held-out scores, with what the options promise of them."""
    return replace(
        calibration,
        max_false_alarms=config.max_false_alarms,
        confidence=config.confidence,
        review_rate=config.review_rate,
        with_suspects=config.calibrate_on_suspects,
    )


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


def upper_bound(n: int, over: int, confidence: float) -> float:
    """The largest share (0..1) that `over` of n draws, or fewer, leave room for: the upper limit of Clopper and Pearson
    (1934), one-sided. 0 draws say nothing: 1. confidence = 0: the share on average, (over + 1) / (n + 1)."""
    if confidence == 0:
        return (over + 1) / (n + 1)
    if over >= n:
        return 1.0
    low, high = over / n, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(n, middle)[over] > 1 - confidence else (low, middle)
    return high


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
    factorials = np.concatenate([[0.0], np.cumsum(log(m[1:]))])  # logarithms
    logs = factorials[n] - factorials - factorials[::-1] + m * log(p) + (n - m) * log1p(-p)
    return np.cumsum(exp(logs))
