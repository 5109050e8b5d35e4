"""One self-contained HTML file about an inspection: to look at, sort, print and send on.

What makes the page whole and safe is in `reports/html.py`.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from patchbank.arrays import ByteArray
from patchbank.calibration.thresholds import Calibration, percent
from patchbank.reports import distributions
from patchbank.reports import explanation_pictures as views
from patchbank.reports import explanation_text as said
from patchbank.reports.distributions import Band, Chart, Mark
from patchbank.reports.html import picture, small_jpeg, verdict_of, write_page
from patchbank.results.explanation import ExplanationFacts
from patchbank.results.result import MadeBy, Result
from patchbank.results.verdict import Verdict
from patchbank.scoring.regions import Region
from patchbank.util.files import output_errors

PICTURE_SIDE = 360  # pixels, the longer side
PICTURE_BYTES = 20_000  # two pictures a row, in base64: 500 rows stay under 27 MB
MAX_REGIONS = 3
WORDS = ("ng", "review", "ok", "anomalous", "normal")  # a row's verdict, the worst first
_MOST = 1e300


@dataclass(frozen=True)
class Why:
    """An image's explanation, small: what is said of its worst place, and (JPEG, caption) of that and of the normal
    patches that come closest."""

    told: tuple[str, ...]
    pictures: tuple[tuple[bytes, str], ...]

    @classmethod
    def of(cls, explanation: ExplanationFacts) -> Why:
        """Its first finding."""
        finding = explanation.findings[0]
        crops = [(views.inspected_crop(explanation, finding), f"inspected: distance {finding.score:.3g}")]
        for patch in finding.neighbours:
            crop = views.normal_crop(patch)
            if crop is not None:
                crops.append((crop, f"nearest normal, of {patch.image}: distance {patch.distance:.3g}"))
        pictures = tuple((small_jpeg(crop, views.CROP, PICTURE_BYTES), caption) for crop, caption in crops)
        return cls((said.title(1, finding), said.distance(finding), *said.comparisons(finding)), pictures)


@dataclass(frozen=True)
class ReportRow:
    """One inspected image, its pictures already small. Scores are distances; higher = more anomalous.

    verdict, reason, p_value: as in `Result`; the verdict is None where only `is_anomalous` is known.
    picture, overlay: JPEG bytes, empty where there is none, with the reason in `bare`. label: what the image really is,
    in the user's word; defective: the same as a truth value; None where it is not known. scene: why it is out of
    distribution. Build one with `of` or `from_arrays`, which shrink the pictures. made_by, time, pixel_threshold: as in
    `Result`. why: its explanation.
    """

    name: str
    score: float
    threshold: float | None
    is_anomalous: bool | None
    picture: bytes
    overlay: bytes
    regions: tuple[Region, ...] = ()
    label: str | None = None
    defective: bool | None = None
    scene: tuple[str, ...] = ()
    made_by: MadeBy | None = None
    time: str = ""
    verdict: Verdict | None = None
    reason: str = ""
    p_value: float | None = None
    pixel_threshold: float | None = None
    bare: str = "no longer at hand"
    why: Why | None = None

    @classmethod
    def of(
        cls,
        result: Result,
        *,
        name: str | None = None,
        overlay: ByteArray | None = None,
        label: str | None = None,
        defective: bool | None = None,
        why: ExplanationFacts | None = None,
    ) -> ReportRow:
        """The row of what `predict` returned. `overlay` saves drawing it again. why: its explanation, to be shown with
        it. ImageError if the image is gone, or no longer the one that was inspected."""
        from patchbank.imaging.images import shown

        return replace(
            cls.without_pictures(result, name=name),
            picture=small_jpeg(shown(result.read_again()), PICTURE_SIDE, PICTURE_BYTES),
            overlay=small_jpeg(result.overlay() if overlay is None else overlay, PICTURE_SIDE, PICTURE_BYTES),
            label=label,
            defective=_defective(label, defective),
            why=Why.of(why) if why else None,
        )

    @classmethod
    def without_pictures(
        cls, result: Result, *, name: str | None = None, because: str = "no longer at hand"
    ) -> ReportRow:
        """The row of a result without pictures, because its image is gone or no longer the one that was inspected (the
        verdict stands), or because nobody asked for them."""
        return cls(
            name=result.path if name is None else name,
            score=result.score,
            threshold=result.threshold,
            is_anomalous=result.is_anomalous,
            picture=b"",
            overlay=b"",
            regions=result.regions,
            scene=result.distribution_reasons,
            made_by=result.made_by,
            time=result.time,
            verdict=result.verdict,
            reason=result.reason,
            p_value=result.p_value,
            pixel_threshold=result.pixel_threshold,
            bare=because,
        )

    @classmethod
    def from_arrays(
        cls,
        *,
        name: str,
        score: float,
        threshold: float | None,
        is_anomalous: bool | None,
        image: ByteArray,
        overlay: ByteArray,
        regions: Sequence[Region] = (),
        label: str | None = None,
        defective: bool | None = None,
        scene: Sequence[str] = (),
        made_by: MadeBy | None = None,
        time: str = "",
        verdict: Verdict | None = None,
        reason: str = "",
        p_value: float | None = None,
        pixel_threshold: float | None = None,
    ) -> ReportRow:
        """image, overlay: (H, W, 3) uint8 RGB. A label without `defective` is a defect unless it is "good"."""
        return cls(
            name=name,
            score=score,
            threshold=threshold,
            is_anomalous=is_anomalous,
            picture=small_jpeg(image, PICTURE_SIDE, PICTURE_BYTES),
            overlay=small_jpeg(overlay, PICTURE_SIDE, PICTURE_BYTES),
            regions=tuple(regions),
            label=label,
            defective=_defective(label, defective),
            scene=tuple(scene),
            made_by=made_by,
            time=time,
            verdict=verdict,
            reason=reason,
            p_value=p_value,
            pixel_threshold=pixel_threshold,
        )

    def labelled(self, label: str, defective: bool) -> ReportRow:
        """The row with what the image really is."""
        return replace(self, label=label, defective=defective)

    @property
    def ratio(self) -> float | None:
        """The score as a multiple of the threshold."""
        return self.score / self.threshold if self.threshold else None

    @property
    def word(self) -> str:
        """The verdict in a word: ok, review or ng; anomalous, normal or unjudged where only `is_anomalous` is known."""
        return verdict_of(self.is_anomalous) if self.verdict is None else str(self.verdict)

    @property
    def mistake(self) -> str | None:
        """ "false alarm" or "missed" where the verdict contradicts the label."""
        if self.defective is None:
            return None
        wrong = ("ok", "normal") if self.defective else ("ng", "anomalous")
        return ("missed" if self.defective else "false alarm") if self.word in wrong else None


def _defective(label: str | None, defective: bool | None) -> bool | None:
    return label != "good" if defective is None and label is not None else defective


class InspectionReport:
    """A report that grows image by image: its rows wait in an unnamed temporary file beside it, so that a stream of any
    length takes little memory (about 0.2 kB an image).

    Use it in a `with` block: the temporary file goes when that ends, and also when the process is killed. A page
    appears under the report's name only when `write` has written all of it.
    """

    def __init__(self, path: str | Path) -> None:
        """path: of the report. Raises OutputError if its folder cannot be written to."""
        self._path = Path(path)
        self._seen: list[Seen] = []
        self._makers: dict[MadeBy, int] = {}  # how many rows each model made
        with output_errors(self._path):
            self._spool = tempfile.TemporaryFile(dir=self._path.parent)  # noqa: SIM115  (closed by `close`)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets the temporary file go; again is no error."""
        self._spool.close()

    def add(self, row: ReportRow) -> None:
        """Takes one image's row. Raises OutputError if the temporary file cannot be written."""
        line = json.dumps(_shown(len(self._seen), row)).encode("ascii") + b"\n"
        with output_errors(self._path):
            offset = self._spool.seek(0, 2)
            self._spool.write(line)
        self._seen.append(
            Seen(
                row.score,
                row.threshold,
                row.pixel_threshold,
                row.word,
                bool(row.scene),
                row.defective,
                row.mistake,
                row.why is not None,
                row.label,
                offset,
            )
        )
        if row.made_by is not None:
            self._makers[row.made_by] = self._makers.get(row.made_by, 0) + 1

    def write(
        self,
        *,
        title: str,
        summary: Mapping[str, str] | None = None,
        calibration_scores: npt.ArrayLike | None = None,
        calibration: Calibration | None = None,
        skipped: Sequence[str] = (),
        created: datetime | None = None,
        colours: str = "orange",
    ) -> None:
        """Writes the page, highest score first. The arguments and errors are those of `write_report`."""
        scores = calibration.counted_scores if calibration and calibration_scores is None else calibration_scores
        held_out = [] if scores is None else [float(s) for s in np.ravel(np.asarray(scores))]
        write_page(
            self._path,
            "inspection.html",
            title,
            created,
            figures={**_figures(self._seen), **(summary or {})},
            chart=chart_of(self._seen, held_out, calibration.review_above if calibration else None),
            promise=_promise(calibration) if calibration else "",
            words=[word for word in WORDS if any(row.word == word for row in self._seen)],
            skipped=skipped,
            makers=[{"images": count, **vars(maker)} for maker, count in self._makers.items()],
            labelled=any(row.defective is not None for row in self._seen),
            strange=any(row.strange for row in self._seen),
            pixel_threshold=pixel_threshold_of(self._seen),
            colours=colours,
            rows=self._rows(self._seen),
            explained=self._rows([row for row in self._seen if row.explained]),
        )

    def _rows(self, seen: Sequence[Seen], in_order: bool = False) -> Iterator[dict[str, Any]]:
        """Returns what the template shows of these rows, the highest score first or in this order."""
        for row in seen if in_order else sorted(seen, key=lambda row: -sortable(row.score)):
            self._spool.seek(row.offset)
            yield json.loads(self._spool.readline())


def write_report(
    path: str | Path,
    results: Iterable[ReportRow],
    *,
    title: str,
    summary: Mapping[str, str] | None = None,
    calibration_scores: npt.ArrayLike | None = None,
    calibration: Calibration | None = None,
    skipped: Sequence[str] = (),
    created: datetime | None = None,
    colours: str = "orange",
) -> None:
    """Writes the report, highest score first. Rows may come from a generator: they are not kept in memory.

    summary: further headline figures, {name: value}. calibration_scores: held-out scores of good images, for the
    histogram. calibration: the model's, which has these scores, the limit of review and the promise. skipped: images
    that could not be read, with the reason. colours: the scale of the overlays, for the legend. Raises OutputError;
    then an older file is kept.
    """
    with InspectionReport(path) as report:
        for row in results:
            report.add(row)
        report.write(
            title=title,
            summary=summary,
            calibration_scores=calibration_scores,
            calibration=calibration,
            skipped=skipped,
            created=created,
            colours=colours,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """Holds what the page's head needs of a row, and where the row waits."""

    score: float
    threshold: float | None
    pixel_threshold: float | None
    word: str
    strange: bool
    defective: bool | None
    mistake: str | None
    explained: bool
    label: str | None
    offset: int


def _shown(number: int, row: ReportRow) -> dict[str, Any]:
    """Returns what the template shows of a row, as plain JSON values."""
    ratio = None if row.ratio is None else float(row.ratio)
    outlined = f"{row.name}: heat map and {len(row.regions)} outlined regions"
    return {
        "number": number,
        "name": row.name,
        "time": row.time.replace("T", " ").replace("+00:00", " UTC"),
        "label": row.label,
        "mistake": row.mistake,
        "word": row.word,
        "reason": row.reason or ("unjudged: the model has no threshold" if row.is_anomalous is None else ""),
        "p_value": None if row.p_value is None else float(row.p_value),
        "bare": row.bare,
        "score": float(row.score),
        "ratio": ratio,
        "order": sortable(row.score if ratio is None else ratio),
        "bar": 50 * min(max(sortable(ratio or 0.0), 0.0), 2.0),
        "scene": list(row.scene),
        "image": vars(picture(row.picture, f"{row.name}: the image")) if row.picture else None,
        "overlay": vars(picture(row.overlay, outlined)) if row.overlay else None,
        "regions": [
            {
                **dict(zip(("x", "y", "width", "height"), map(int, region.box), strict=True)),
                "area": int(region.area),
                "peak": float(region.peak_score),
                "times": float(region.peak_score / row.pixel_threshold) if row.pixel_threshold else None,
            }
            for region in row.regions[:MAX_REGIONS]
        ],
        "more_regions": max(0, len(row.regions) - MAX_REGIONS),
        "why": _why(row) if row.why else None,
    }


def _why(row: ReportRow) -> dict[str, Any]:
    assert row.why is not None
    return {
        "told": list(row.why.told),
        "figures": [
            {"picture": vars(picture(jpeg, f"{row.name}: {caption}")), "caption": caption}
            for jpeg, caption in row.why.pictures
        ],
    }


def sortable(value: float) -> float:
    """The value to sort and draw by: one that is no number comes before all others, as the worst."""
    return _MOST if math.isnan(value) else min(max(float(value), -_MOST), _MOST)


def _threshold(rows: Sequence[Seen]) -> float | None:
    return next((row.threshold for row in rows if row.threshold is not None and math.isfinite(row.threshold)), None)


def pixel_threshold_of(rows: Sequence[Seen]) -> str:
    """In words: one value for each model that made rows."""
    values = dict.fromkeys(f"{row.pixel_threshold:.4g}" for row in rows if row.pixel_threshold is not None)
    return " or ".join(list(values)[:3])


def _figures(rows: Sequence[Seen]) -> dict[str, str]:
    figures = {"images inspected": f"{len(rows):,}"}
    judged = [row for row in rows if row.word != "unjudged"]
    words = Counter(row.word for row in judged)
    for shown in (("ng", "review", "ok"), ("anomalous", "normal")):
        if any(words[word] for word in shown):
            figures |= {word.upper() if "ok" in shown else word: f"{words[word]:,}" for word in shown}
    if strange := sum(row.strange for row in rows):
        figures["out of distribution"] = f"{strange:,}"
    for mistake, plural, of in (("false alarm", "false alarms", False), ("missed", "missed defects", True)):
        labelled = sum(row.defective is of for row in judged)
        if labelled:
            figures[plural] = f"{sum(row.mistake == mistake for row in judged):,} of {labelled:,}"
    threshold = _threshold(rows)
    if threshold is not None:
        figures["threshold"] = f"{threshold:.4g}"
    if pixel_threshold := pixel_threshold_of(rows):
        figures["pixel threshold"] = pixel_threshold
    return figures


def _promise(calibration: Calibration) -> str:
    """Returns what the verdicts rest on, in words."""
    said = f"NG: over the threshold, which promises {calibration.support.guarantee}"
    if calibration.suspects and not calibration.with_suspects:
        said += f" ({calibration.bounds})"
    if calibration.review_rate:
        said += (
            f". REVIEW: as odd as the oddest {percent(calibration.review_rate)} of good images, or not the part or the "
            "picture that the model knows"
        )
    return f"{said}."


def chart_of(rows: Sequence[Seen], calibration: Sequence[float], review: float | None = None) -> Chart | None:
    """The scores, in bands by what is known of the images."""
    bands = [Band("Calibration: held-out good images", "calibration", [s for s in calibration if math.isfinite(s)])]
    for name, kind, truth in (
        ("Inspected, labelled good", "normal", False),
        ("Inspected, labelled defective", "anomalous", True),
        ("Inspected", "unjudged", None),
    ):
        bands.append(Band(name, kind, [r.score for r in rows if r.defective is truth and math.isfinite(r.score)]))
    bands, threshold = [band for band in bands if band.count], _threshold(rows)
    parts = [f"{band.name}: {band.count} scores from {band.range[0]:.4g} to {band.range[1]:.4g}" for band in bands]
    described = "Histogram of scores. " + ". ".join(parts)
    if threshold is not None:
        described += f". Threshold: {threshold:.4g}."
    mark = None if threshold is None else Mark("threshold", "threshold", threshold)
    further: tuple[Mark, ...] = ()
    shown = min(
        (band.range[0] for band in bands), default=math.inf
    )  # without the calibration, review may lie below all
    if review is not None and threshold is not None and shown <= review < threshold:
        described += f" Review: over {review:.4g}."
        further = (Mark("review", "review", review),)
    return distributions.chart(bands, mark, described, further=further)
