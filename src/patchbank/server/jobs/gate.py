"""The gate: what a new version finds and misses of what people have labelled, before it may decide.

A candidate that lets pass what the version before found is not approved. What both miss is listed, and blocks nothing:
it was missed before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from patchbank import PatchCore, Result, Version

Progress = Callable[[str, int, int], None]
MOST_LISTED = 200
_RISE = 1.2  # of the threshold, from which on it is worth a warning


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image that people have labelled. id: of its inspection, or its name in a dataset. label: good, defect.
    verdict: what was said of it when it was inspected; empty: nothing."""

    id: str
    path: str
    label: str
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a version says of an image. verdict: error = it cannot be read. passes: the part goes on to the customer."""

    verdict: str
    score: float | None
    passes: bool


@dataclass(frozen=True, slots=True)
class _Rule:
    """What the streams make of a result, where they let most pass."""

    review_rate: float | None
    review_passes: bool


def gate(
    candidate: PatchCore,
    base: PatchCore | None,
    labelled: Sequence[Labelled],
    remarks: Sequence[str],
    progress: Progress,
    *,
    review_rate: float | None = None,
    review_passes: bool = False,
) -> dict[str, Any]:
    """What the gate finds, as JSON. base: the version that the candidate follows; None: it is the first. remarks: what
    was said when it was made. review_rate: the lowest one at which the model decides; None: its own. review_passes:
    somewhere parts go on whose verdict is REVIEW. "passed" is False if a defect is lost."""
    rule = _Rule(review_rate, review_passes)
    after = judged(candidate, labelled, rule, "gate: candidate", progress)
    before = judged(base, labelled, rule, "gate: version before", progress) if base else None
    defects = _defects(labelled, before, after)
    goods = _goods(labelled, before, after)
    return {
        "passed": not defects["lost"]["number"],
        "thresholds": [base.threshold if base else None, candidate.threshold],
        "changed_sides": _changed_sides(candidate, base),
        "defects": defects,
        "goods": goods,
        "warnings": [*remarks, *_warnings(candidate, base, defects, goods)],
    }


def judged(model: PatchCore, labelled: Sequence[Labelled], rule: _Rule, stage: str, progress: Progress) -> list[Judged]:
    """What a version says of the images."""
    found: list[Judged] = []
    for result in model.predict_each([each.path for each in labelled]):
        if not isinstance(result, Result):
            found.append(Judged("error", None, False))
        else:
            said = result if rule.review_rate is None else replace(result, review_rate=rule.review_rate)
            verdict = str(said.verdict)
            passes = verdict == "ok" or (verdict == "review" and rule.review_passes)
            found.append(Judged(verdict, said.score, passes))
        progress(stage, len(found), len(labelled))
    return found


def _defects(labelled: Sequence[Labelled], before: Sequence[Judged] | None, after: Sequence[Judged]) -> dict[str, Any]:
    """Which of the defects are found, and which are lost: found before, by the version before or when they were
    inspected, and not now."""
    rows = [
        (each, before[n] if before else None, after[n]) for n, each in enumerate(labelled) if each.label == "defect"
    ]
    missed = [row for row in rows if row[2].passes]
    lost = [row for row in missed if row[0].verdict == "ng" or (row[1] and not row[1].passes)]
    weaker = [row for row in rows if row[2].verdict == "review" and row[1] and row[1].verdict == "ng"]
    return {
        "inspected": len(rows),
        "found": len(rows) - len(missed),
        "found_before": sum(not row[1].passes for row in rows if row[1]) if before else None,
        "lost": _listed(lost),
        "missed": _listed(missed),
        "weaker": _listed(weaker),
        "gained": _listed([row for row in rows if row[1] and row[1].passes and not row[2].passes]),
        "unreadable": sum(row[2].verdict == "error" for row in rows),
    }


def _goods(labelled: Sequence[Labelled], before: Sequence[Judged] | None, after: Sequence[Judged]) -> dict[str, Any]:
    rows = [(each, before[n] if before else None, after[n]) for n, each in enumerate(labelled) if each.label == "good"]
    return {
        "inspected": len(rows),
        "flagged": sum(not row[2].passes for row in rows),
        "flagged_before": sum(not row[1].passes for row in rows if row[1]) if before else None,
        "cleared": _listed([row for row in rows if row[1] and not row[1].passes and row[2].passes]),
        "newly_flagged": _listed([row for row in rows if row[1] and row[1].passes and not row[2].passes]),
    }


def _listed(rows: Sequence[tuple[Labelled, Judged | None, Judged]]) -> dict[str, Any]:
    """How many, and the first of them."""
    first = [
        {"id": each.id, "before": before and asdict(before), "after": asdict(after)}
        for each, before, after in rows[:MOST_LISTED]
    ]
    return {"number": len(rows), "first": first}


def _changed_sides(candidate: PatchCore, base: PatchCore | None) -> dict[str, Any] | None:
    """The calibration images that were under the threshold and are over it now, or the other way round. None: the
    candidate does not follow from the version before, so their scores mean something else."""
    if base is None or not follows(candidate.versions, base.versions):
        return None
    changed = candidate.diff(len(base.versions), len(candidate.versions)).changed_sides
    return {"number": len(changed), "first": [asdict(each) for each in changed[:MOST_LISTED]]}


def follows(versions: Sequence[Version], earlier: Sequence[Version]) -> bool:
    """Says whether a history goes on from an earlier one."""
    return len(versions) > len(earlier) and list(versions[: len(earlier)]) == list(earlier)


def _warnings(
    candidate: PatchCore, base: PatchCore | None, defects: dict[str, Any], goods: dict[str, Any]
) -> list[str]:
    found = []
    calibration = candidate.calibration
    if calibration is None:
        found.append("the version has no threshold: all parts go to review")
    elif not calibration.support.satisfied:
        found.append(f"{calibration.support}; the threshold is their largest score")
    status = candidate.versions[-1].calibrated
    if status == "bound":
        found.append(
            "the threshold is as it was, and its promise holds; measured again on all training images, it could be "
            "lower: their images are not in the service"
        )
    if status == "stale":
        found.append("the threshold's promise may not hold any more: fit again, or update with the training images")
    if base and base.threshold and candidate.threshold and candidate.threshold > _RISE * base.threshold:
        found.append(f"the threshold rises from {base.threshold:.4g} to {candidate.threshold:.4g}")
    if not defects["inspected"]:
        found.append("nobody has labelled a defect: nothing says whether the version finds them")
    for key, said in (("missed", "labelled defects pass"), ("weaker", "labelled defects are REVIEW and were NG")):
        if number := defects[key]["number"]:
            found.append(f"{number} of {defects['inspected']} {said}")
    if number := goods["newly_flagged"]["number"]:
        found.append(f"{number} of {goods['inspected']} parts that people call good are flagged now, and were not")
    return found
