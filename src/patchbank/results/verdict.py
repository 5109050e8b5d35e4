"""The verdict: what an operator, a PLC or a database is told about an image. One rule, for everyone who says it.

The first line that fits decides. Nothing is OK by default.

    no score, or one that is no number                         NG
    the model has no threshold (no calibration)                REVIEW
    score over the threshold                                   NG
    out of distribution (another part, another picture)        REVIEW
    p-value at most `review_rate` (0 = off)                    REVIEW
    else                                                       OK

ERROR is for who has no result at all: no image, a failed inspection, a deadline that has passed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

_ROUNDING = 1e-9  # of shares: 3 of 30 images are 10 %


class Verdict(StrEnum):
    """OK: proven ordinary. REVIEW: a person decides. NG: not good. ERROR: there is no result; treat it as NG."""

    OK = "ok"
    REVIEW = "review"
    NG = "ng"
    ERROR = "error"


class Decision(NamedTuple):
    """A verdict, and why, in words."""

    verdict: Verdict
    reason: str


def decide(
    score: float,
    threshold: float | None,
    p_value: float | None,
    *,
    review_rate: float,
    unlike: Sequence[str] = (),
) -> Decision:
    """The verdict about an image. score: higher = more anomalous. threshold: None without calibration. p_value: the
    share of good images that look at least this odd (0..1). review_rate: the largest p-value that a person should look
    at. unlike: why the image is out of distribution, in words; none if it is in distribution or that is not checked."""
    if not math.isfinite(score):
        return Decision(Verdict.NG, f"the score is no number ({score})")
    if threshold is None or p_value is None:
        return Decision(Verdict.REVIEW, "the model has no threshold: it was fitted without calibration")
    strange = f"not the part or the picture that the model knows: {'; '.join(unlike)}" if unlike else ""
    if not score <= threshold:
        reason = f"score {score:.4g} is over the threshold {threshold:.4g}"
        return Decision(Verdict.NG, f"{reason}; {strange}" if strange else reason)
    if strange:
        return Decision(Verdict.REVIEW, strange)
    if needs_review(p_value, review_rate):
        limit = f"{100 * review_rate:g} %"
        return Decision(Verdict.REVIEW, f"only {_share(p_value)} of good images look this odd (review from {limit})")
    return Decision(Verdict.OK, f"{_share(p_value)} of good images look this odd")


def needs_review(p_value: float, review_rate: float) -> bool:
    """Whether an image of this p-value is for a person to look at, if nothing else decides."""
    return not p_value > (review_rate and review_rate + _ROUNDING)


def _share(p_value: float) -> str:
    """A share in per cent, to two digits, and never in powers of ten: '1.6 %', '82 %', '100 %'."""
    share = 100 * p_value
    return f"{share:.0f} %" if share >= 9.95 else f"{share:.2g} %"
