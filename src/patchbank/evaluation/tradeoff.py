"""Both sides of a threshold: the false alarms that it promises, and the defects that pass under it.

The false alarms come from the calibration. The defects are labelled ones, where somebody has some, and planted ones
(`planting.py`), which are stand-ins: they compare thresholds, and do not forecast how many real defects pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from patchbank.arrays import Array, FloatArray
from patchbank.calibration.held_out import score_one
from patchbank.calibration.thresholds import Calibration, percent, percent_up, rank, upper_bound
from patchbank.errors import ConfigError, ImageError
from patchbank.evaluation.planting import KINDS, plant
from patchbank.features.extract import patches_of
from patchbank.fitted.model import FittedModel
from patchbank.imaging.images import read_image
from patchbank.imaging.sources import ImageSource
from patchbank.results.verdict import Verdict, decide
from patchbank.util.progress import Progress, silent

RATES = (0.01, 0.02, 0.05, 0.1)  # of the short table
MOST_PIXELS = 1 << 23  # of an image that a defect is planted on: it takes about a second, and 0.5 GB
SURE = 0.95  # of what is said about labelled defects


@dataclass(frozen=True)
class Missed:
    """So many of n defects are not over a threshold."""

    missed: int
    n: int

    @property
    def share(self) -> float:
        """The share of the defects that passed."""
        return self.missed / self.n

    @property
    def at_most(self) -> float:
        """The share of all such defects that passes at most, with a confidence of SURE (Clopper and Pearson 1934)."""
        return upper_bound(self.n, self.missed, SURE)

    def __str__(self) -> str:
        return f"{self.missed} of {self.n}"


@dataclass(frozen=True)
class Choice:
    """One false-alarm rate. calibration: the held-out scores with it. planted, labelled: of the defects, None where
    there are none."""

    calibration: Calibration
    planted: Missed | None
    labelled: Missed | None

    @property
    def false_alarms(self) -> float:
        """The share of good images over the threshold, on average over all draws of the held-out ones (0..1)."""
        n = int(self.calibration.counted.sum())
        k = rank(n, self.calibration.max_false_alarms, self.calibration.confidence) or n
        return (n - k + 1) / (n + 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        held, support, bounds = self.calibration, self.calibration.support, self.calibration.bounds
        return {
            "max_false_alarms": held.max_false_alarms,
            "confidence": held.confidence,
            "supported": support.satisfied,
            "images_needed": support.needed,
            "threshold": held.threshold,
            "pixel_threshold": held.pixel_threshold,
            "over": int((held.scores > held.threshold).sum()),
            "at_most_if_bad": bounds.if_bad,
            "at_most_if_good": bounds.if_good,
            "planted_missed": self.planted.missed if self.planted else None,
            "defects_missed": self.labelled.missed if self.labelled else None,
            "defects_missed_at_most": self.labelled.at_most if self.labelled else None,
        }


def choices(
    calibration: Calibration,
    rates: Sequence[float] = RATES,
    *,
    planted: FloatArray | None = None,
    labelled: FloatArray | None = None,
) -> list[Choice]:
    """The calibration with each of the rates, ascending. planted, labelled: (m,) image scores of defects."""
    return [
        Choice(held, _missed(planted, held.threshold), _missed(labelled, held.threshold))
        for held in (replace(calibration, max_false_alarms=rate) for rate in sorted(set(rates)))
    ]


def _missed(scores: FloatArray | None, threshold: float) -> Missed | None:
    """Of (m,) scores of defects; None without any."""
    if scores is None or not len(scores):
        return None
    return Missed(int(np.count_nonzero(scores.astype(np.float64) <= threshold)), len(scores))


def passing(calibration: Calibration, scores: FloatArray) -> int:
    """Returns how many of these (m,) image scores come out OK: neither over the threshold nor to be reviewed."""
    decisions = (
        decide(score, calibration.threshold, calibration.p_value(score), review_rate=calibration.review_rate)
        for score in scores.tolist()
    )
    return sum(each.verdict == Verdict.OK for each in decisions)


def with_few_misses(options: Sequence[Choice], most: float) -> Choice:
    """The choice with the fewest false alarms under which the labelled defects leave room for at most the share `most`
    of misses. Raises ConfigError where there is none."""
    able = [each for each in options if each.calibration.support.satisfied and each.labelled]
    for each in able:  # ascending by false alarms
        if each.labelled and each.labelled.at_most <= most:
            return each
    if not able or (last := able[-1].labelled) is None:
        raise ConfigError("max_misses: expected labelled defects, and images that support one of the table's rates")
    raise ConfigError(
        f"max_misses: expected a threshold under which at most {percent(most)} of such defects pass, with "
        f"{percent(SURE)} confidence; at {percent(able[-1].calibration.max_false_alarms)} false alarms {last} pass, "
        f"which leaves room for {percent_up(last.at_most)}; accept more, or give more labelled defects"
    )


def cheapest(options: Sequence[Choice], miss: float, false_alarm: float, defect_rate: float) -> Choice:
    """The choice that costs least an image, on average. miss, false_alarm: what each costs; defect_rate: the share of
    defective parts (0..1). Of equal ones, that with the fewest false alarms. Raises ConfigError without a choice."""
    able = [each for each in options if each.calibration.support.satisfied and each.labelled]
    if not able:
        raise ConfigError("cost_miss: expected labelled defects, and images that support one of the table's rates")
    return min(able, key=lambda each: cost(each, miss, false_alarm, defect_rate))


def cost(each: Choice, miss: float, false_alarm: float, defect_rate: float) -> float:
    """Returns what an image costs on average, in the unit of the two costs."""
    misses = each.labelled.share if each.labelled else 0.0
    return defect_rate * misses * miss + (1 - defect_rate) * each.false_alarms * false_alarm


def planted_scores(
    model: FittedModel, images: Mapping[str, ImageSource], count: int, progress: Progress = silent
) -> FloatArray:
    """(m,) float32: image scores of `count` training images, each with a planted defect, against the bank without the
    image's own vectors, so that it knows neither the defect nor the part. Suspects are no part to plant on. Images on
    which none can be planted are left out, so m may be less than `count`.

    images: training images by name. Raises ImageError for one that cannot be read, or has more than MOST_PIXELS.
    """
    suspects = {each.name for each in model.suspects}
    numbers = {name: n for n, name in enumerate(model.bank.images) if name in images and name not in suspects}
    rng = np.random.default_rng([model.config.seed, 5])
    names = [sorted(numbers)[n] for n in np.sort(rng.permutation(len(numbers))[:count])]
    scores = []
    donor: Array | None = None  # foreign pieces are cut from the image before; for the first one, from the last
    for place, name in enumerate(names):
        progress("plant", place, len(names))
        image = _read(model, images, name)
        donor = donor if donor is not None else _read(model, images, names[-1])
        where = model.roi.inside((image.shape[0], image.shape[1])) if model.roi else None
        with suppress(ImageError):  # a flat image offers some kinds nothing
            defective = plant(image, KINDS[place % len(KINDS)], rng, donors=[donor], where=where).image
            patches = patches_of(defective, model.backbone, model.config, model.roi)
            scores.append(score_one(numbers[name], patches, model.bank, model.searcher, model.config).score)
        donor = image
    progress("plant", len(names), len(names))
    return np.array(scores, np.float32)


def _read(model: FittedModel, images: Mapping[str, ImageSource], name: str) -> Array:
    image = read_image(images[name], model.config.image_format)
    if image.shape[0] * image.shape[1] > MOST_PIXELS:
        raise ImageError(
            f"{name}: has {image.shape[1]}x{image.shape[0]} pixels; expected at most {MOST_PIXELS:,} to plant defects "
            "on"
        )
    return image
