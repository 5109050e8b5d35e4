"""From a result to what a stream says of it: its verdict, and the output, which is what the part's way depends on.

The deployment says it (`policy_json`): `out_of_scene` = ng makes NG of what is out of distribution; `review` = ok lets
parts pass whose verdict is REVIEW. Nothing passes by default, and nothing that has no threshold passes at all."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from patchbank import Result
from patchbank.store.streams import Deployment

Output = Literal["ok", "ng"]
REVIEW: tuple[Output, ...] = ("ng", "ok")
OUT_OF_SCENE = ("review", "ng")


@dataclass(frozen=True, slots=True)
class Policy:
    """What a deployment makes of results. review_rate: None = the model's own. review: the output of REVIEW.
    out_of_scene: the verdict about what is out of distribution."""

    review_rate: float | None = None
    review: Output = "ng"
    out_of_scene: Literal["review", "ng"] = "review"


@dataclass(frozen=True, slots=True)
class Decided:
    """A verdict, why, and the output."""

    verdict: str
    reason: str
    output: Output


def policy_of(deployment: Deployment | None) -> Policy:
    """What the deployment asks for. What it does not say, or says in words that nobody knows, is the default."""
    if deployment is None:
        return Policy()
    given: dict[str, Any] = deployment.policy_json if isinstance(deployment.policy_json, dict) else {}
    return Policy(
        deployment.review_rate,
        "ok" if given.get("review") == "ok" else "ng",
        "ng" if given.get("out_of_scene") == "ng" else "review",
    )


def decided(result: Result, policy: Policy) -> Decided:
    """What a stream with this policy says of a result."""
    told = result if policy.review_rate is None else replace(result, review_rate=policy.review_rate)
    strange = "; ".join(result.distribution_reasons)
    verdict, reason = str(told.verdict), told.reason
    if strange and policy.out_of_scene == "ng" and verdict != "ng" and math.isfinite(result.score):
        verdict, reason = "ng", f"not the part or the picture that the model knows: {strange}"
    return Decided(verdict, reason, output_of(verdict, told.threshold, policy))


def output_of(verdict: str, threshold: float | None, policy: Policy) -> Output:
    """The output of a verdict. REVIEW of a model without a threshold is always ng: nothing was proven."""
    if verdict == "ok":
        return "ok"
    return policy.review if verdict == "review" and threshold is not None else "ng"
