"""An evaluation as one self-contained HTML page: figures, a table by kind of defect, and the mistakes as pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from patchbank.reports.both_sides import both_sides
from patchbank.reports.distributions import Chart
from patchbank.reports.html import write_page
from patchbank.reports.inspection import InspectionReport, ReportRow, Seen, chart_of, pixel_threshold_of, sortable
from patchbank.results.result import Result
from patchbank.results.verdict import Verdict

MOST_PICTURED = 200  # mistakes that are shown with pictures: 10 MB
GOOD = "good"


class EvaluationReport(InspectionReport):
    """A page about labelled images, which grows image by image as an `InspectionReport` does. Only mistakes have
    pictures: missed defects, and good images that are NG."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._pictured = 0

    def add_result(self, result: Result, name: str, kind: str, defective: bool) -> None:
        """Takes one image. kind: of defect, for a defective one. Raises OutputError, or what drawing raises."""
        bare = ReportRow.without_pictures(result, name=name, because=f"only the first {MOST_PICTURED} are shown")
        row = bare.labelled(kind if defective else GOOD, defective)
        if row.mistake and self._pictured < MOST_PICTURED:
            self._pictured += 1
            row = ReportRow.of(result, name=name, label=row.label, defective=defective)
        self.add(row)

    def write_evaluation(
        self,
        *,
        title: str,
        figures: Mapping[str, str],
        areas: Mapping[str, float | None],
        skipped: Sequence[str] = (),
        review: float | None = None,
        created: datetime | None = None,
    ) -> None:
        """Writes the page. figures: headline figures, {name: value}. areas: the image AUROC of each kind of defect
        against the good images. review: the score over which an image is to be reviewed. Raises OutputError; then an
        older file is kept."""
        write_page(
            self._path,
            "evaluation.html",
            title,
            created,
            figures={**self._counts(), **figures},
            chart=chart_of(self._seen, [], review),
            sides=self._sides(review),
            kinds=[_kind(kind, rows, areas.get(kind)) for kind, rows in self._by_kind().items()],
            skipped=skipped,
            pixel_threshold=pixel_threshold_of(self._seen),
            missed=self._mistakes("missed", lambda row: sortable(row.score)),
            alarms=self._mistakes("false alarm", lambda row: -sortable(row.score)),
            counts={name: sum(row.mistake == name for row in self._seen) for name in ("missed", "false alarm")},
        )

    def _mistakes(self, kind: str, order: Callable[[Seen], float]) -> Any:
        return self._rows(sorted((row for row in self._seen if row.mistake == kind), key=order), in_order=True)

    def _sides(self, review: float | None) -> Chart | None:
        """Both sides of the threshold; None without one."""
        rows = [row for row in self._seen if row.threshold is not None and math.isfinite(row.score)]
        good, defective = ([row.score for row in rows if row.defective is of] for of in (False, True))
        threshold = rows[0].threshold if rows else None
        return None if threshold is None else both_sides(good, defective, threshold, review)

    def _by_kind(self) -> dict[str, list[Seen]]:
        """Good images first, then the kinds of defects as they came."""
        found: dict[str, list[Seen]] = {}
        for row in sorted(self._seen, key=lambda row: bool(row.defective)):
            found.setdefault(row.label or "", []).append(row)
        return found

    def _counts(self) -> dict[str, str]:
        good, bad = ([row for row in self._seen if row.defective is of] for of in (False, True))
        alarms, missed = (sum(row.mistake is not None for row in rows) for rows in (good, bad))
        return {"false alarms": f"{alarms:,} of {len(good):,}", "missed defects": f"{missed:,} of {len(bad):,}"}


def _kind(name: str, rows: Sequence[Seen], area: float | None) -> dict[str, Any]:
    n = len(rows)
    states = [sum(row.word == state for row in rows) for state in (Verdict.OK, Verdict.REVIEW, Verdict.NG)]
    return {
        "name": name,
        "n": n,
        "states": [{"count": count, "share": 100 * count / n} for count in states],
        "strange": sum(row.strange for row in rows),
        "defective": bool(rows[0].defective),
        "area": area,
    }
