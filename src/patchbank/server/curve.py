"""What a version's held-out good images support: thresholds for many promises, and what people's labels say of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from patchbank import Calibration
from patchbank.util.wording import finite

RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
CONFIDENCES = (0.0, 0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Choice:
    """A promise, and the threshold that keeps it. satisfied: the images are enough for it; else the threshold is their
    largest score, and `supported` is the smallest rate that they support. needed: how many images it needs; None = no
    number is enough. defects_passed, good_flagged: of the labelled parts."""

    max_false_alarms: float
    confidence: float
    threshold: float
    pixel_threshold: float
    satisfied: bool
    supported: float
    needed: int | None
    guarantee: str
    defects_passed: int
    good_flagged: int


def choices(calibration: Calibration, defects: list[float], good: list[float]) -> list[Choice]:
    """All rates with all confidences. defects, good: the scores of parts that people have labelled."""
    found = []
    for confidence in CONFIDENCES:
        for rate in RATES:
            promised = replace(calibration, max_false_alarms=rate, confidence=confidence)
            support, threshold = promised.support, promised.threshold
            found.append(
                Choice(
                    rate,
                    confidence,
                    threshold,
                    promised.pixel_threshold,
                    support.satisfied,
                    support.rate,
                    support.needed,
                    support.guarantee,
                    sum(score <= threshold for score in defects),
                    sum(score > threshold for score in good),
                )
            )
    return found


def scores_of(calibration: Calibration, most: int = 2000) -> list[float]:
    """The scores of the held-out good images that count, ascending; of very many, every so manieth."""
    ordered = sorted(float(score) for score in calibration.counted_scores)
    step = -(-len(ordered) // most)
    return [score for score in ordered[::step] if finite(score) is not None]
