"""From a result to what the machine is told. The first line that fits decides, and nothing is OK by default.

no score, or one that is no number                NG
another scene, where `out_of_scene` is ng         NG
the model has no threshold                        REVIEW
score over the threshold                          NG
another scene, where `out_of_scene` is review     REVIEW
p-value at most `review_rate`                     REVIEW
else                                              OK
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from patchbank import Result, Verdict
from patchbank.line.plc.protocol import Reason


@dataclass(frozen=True)
class Rules:
    """What a station makes of results. review_rate: None = the model's. review: 'ng' or 'ok', the output of
    REVIEW because of the p-value; without a threshold, or of another scene, a part is always rejected.
    out_of_scene: 'ng' or 'review', the verdict about another scene."""

    review_rate: float | None = None
    review: str = "ng"
    out_of_scene: str = "ng"


@dataclass(frozen=True)
class Decided:
    """The verdict about a part, what the machine is told ('ok' or 'ng'), and why."""

    verdict: Verdict
    output: str
    reason: Reason
    text: str


def error(reason: Reason, text: str) -> Decided:
    """There is no result: a reject."""
    return Decided(Verdict.ERROR, "ng", reason, text)


def decide(result: Result, rules: Rules) -> Decided:
    """The verdict about a part that was inspected."""
    told = result if rules.review_rate is None else replace(result, review_rate=rules.review_rate)
    strange = "; ".join(result.distribution_reasons)
    if math.isfinite(result.score) and strange and rules.out_of_scene == "ng":
        text = f"not the part or the picture that the model knows: {strange}"
        return Decided(Verdict.NG, "ng", Reason.out_of_scene, text)
    verdict, text = told.decision
    if verdict is Verdict.OK:
        return Decided(verdict, "ok", Reason.ordinary, text)
    if verdict is Verdict.REVIEW:
        why = _reason_of_review(result, strange)
        return Decided(verdict, rules.review if why is Reason.review_rate else "ng", why, text)
    reason = Reason.over_threshold if math.isfinite(result.score) else Reason.no_number
    return Decided(verdict, "ng", reason, text)


def _reason_of_review(result: Result, strange: str) -> Reason:
    if result.threshold is None or result.p_value is None:
        return Reason.no_calibration
    return Reason.out_of_scene if strange else Reason.review_rate
