"""One self-contained HTML file about an inspection: to look at, sort, print and send on.

What makes the page whole and safe is in `reports/html.py`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from patchbank.reports.html import (
    breakable,
    cards,
    document_end,
    document_start,
    heat_legend,
    picture,
    small_jpeg,
    ticks,
    verdict_badge,
    verdict_of,
)
from patchbank.reports.inspection_parts import SCRIPT, STYLE
from patchbank.results.result import Result
from patchbank.scoring.anomaly_map import Region
from patchbank.util.files import atomic_write

ByteArray = npt.NDArray[np.uint8]

PICTURE_SIDE = 360  # pixels, the longer side
PICTURE_BYTES = 20_000  # two pictures a row, in base64: 500 rows stay under 27 MB
MAX_REGIONS = 3
_BINS = 60


@dataclass(frozen=True)
class ReportRow:
    """One inspected image, its pictures already small. Scores are distances; higher = more anomalous.

    picture, overlay: JPEG bytes. label: what the image really is, in the user's word; defective: the same as a truth
    value; None where it is not known. scene: why it is not of the known scene. Build one with `of` or `from_arrays`,
    which shrink the pictures.
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

    @classmethod
    def of(
        cls,
        result: Result,
        *,
        name: str | None = None,
        overlay: ByteArray | None = None,
        label: str | None = None,
        defective: bool | None = None,
    ) -> ReportRow:
        """The row of what `predict` returned. `overlay` saves drawing it again. ImageError if the file is gone."""
        from patchbank.imaging.images import read_image, shown

        return cls.from_arrays(
            name=result.path if name is None else name,
            score=result.score,
            threshold=result.threshold,
            is_anomalous=result.is_anomalous,
            image=shown(read_image(result.source, result.image_format)),
            overlay=result.overlay() if overlay is None else overlay,
            regions=result.regions,
            label=label,
            defective=defective,
            scene=result.scene_reasons,
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
    ) -> ReportRow:
        """image, overlay: (H, W, 3) uint8 RGB. A label without `defective` is a defect unless it is "good"."""
        if defective is None and label is not None:
            defective = label != "good"
        pictures = (_jpeg(image), _jpeg(overlay))
        return cls(name, score, threshold, is_anomalous, *pictures, tuple(regions), label, defective, tuple(scene))

    @property
    def ratio(self) -> float | None:
        """The score as a multiple of the threshold."""
        return self.score / self.threshold if self.threshold else None

    @property
    def mistake(self) -> str | None:
        """ "false alarm" or "missed" where the verdict contradicts the label."""
        if self.defective is None or self.is_anomalous is None or self.defective == self.is_anomalous:
            return None
        return "missed" if self.defective else "false alarm"


def write_report(
    path: str | Path,
    results: Iterable[ReportRow],
    *,
    title: str,
    summary: Mapping[str, str] | None = None,
    calibration_scores: npt.ArrayLike | None = None,
    skipped: Sequence[str] = (),
    created: datetime | None = None,
) -> None:
    """Writes the report, highest score first. Rows may come from a generator: they are not kept in memory.

    summary: further headline figures, {name: value}. calibration_scores: held-out scores of good images, for the
    histogram. skipped: images that could not be read, with the reason. Raises OutputError; then an older file is kept.
    """
    calibration = [] if calibration_scores is None else [float(s) for s in np.ravel(np.asarray(calibration_scores))]
    with tempfile.TemporaryFile() as spool:  # the head needs all scores, so the rows wait there
        seen = [_spooled(spool, number, row) for number, row in enumerate(results)]
        with atomic_write(path) as file:
            for part in _head(title, seen, dict(summary or {}), calibration, skipped, created):
                file.write(part.encode("utf-8", "replace"))
            for row in sorted(seen, key=lambda row: -row.score):
                spool.seek(row.offset)
                file.write(spool.read(row.length))
            file.write(("</tbody></table></section>\n" + document_end(SCRIPT)).encode())


@dataclass(frozen=True)
class _Seen:
    """What the head needs of a row, and where its HTML waits."""

    score: float
    threshold: float | None
    is_anomalous: bool | None
    defective: bool | None
    mistake: str | None
    offset: int
    length: int


def _spooled(spool: IO[bytes], number: int, row: ReportRow) -> _Seen:
    html = _row(number, row).encode("utf-8", "replace")
    offset = spool.tell()
    spool.write(html)
    return _Seen(row.score, row.threshold, row.is_anomalous, row.defective, row.mistake, offset, len(html))


def _jpeg(image: ByteArray) -> bytes:
    return small_jpeg(image, PICTURE_SIDE, PICTURE_BYTES)


# --- one row ---


def _row(number: int, row: ReportRow) -> str:
    verdict = verdict_of(row.is_anomalous)
    label = "" if row.label is None else f'<span class="label">{escape(row.label)}</span>'
    mistake = f' <span class="mistake">{row.mistake}</span>' if row.mistake else ""
    scene = f"<br><small>not of the known scene: {escape('; '.join(row.scene))}</small>" if row.scene else ""
    order = row.ratio if row.ratio is not None else row.score
    return (
        f'<tr data-number="{number}" data-score="{order:.6g}" data-verdict="{verdict}" '
        f'data-wrong="{int(bool(row.mistake))}">'
        f'<th scope="row"><span class="name">{breakable(row.name)}</span>{label}</th>'
        f"<td>{picture(row.picture, f'{row.name}: the image')}</td>"
        f"<td>{picture(row.overlay, f'{row.name}: heat map and {len(row.regions)} outlined regions')}</td>"
        f"<td>{verdict_badge(row.is_anomalous)}{mistake}{scene}</td>"
        f"<td>{_score(row)}</td><td>{_regions(row.regions)}</td></tr>\n"
    )


def _score(row: ReportRow) -> str:
    """The multiple of the threshold as number and bar, which ends at 2; the tick is the threshold."""
    if row.ratio is None:
        return f'<span class="ratio">{row.score:.4g}</span>'
    length = 50 * min(max(row.ratio, 0.0), 2.0)
    return (
        f'<span class="ratio">{row.ratio:.2f}×</span>'
        f'<svg class="bar" viewBox="0 0 100 10" aria-hidden="true"><rect class="track" width="100" height="6" y="2"/>'
        f'<rect class="{verdict_of(row.is_anomalous)}" width="{length:.1f}" height="6" y="2"/>'
        f'<path class="tick" d="M50 0V10"/></svg><small>score {row.score:.4g}</small>'
    )


def _regions(regions: Sequence[Region]) -> str:
    if not regions:
        return '<span class="muted">none</span>'
    items = [
        f"<li>{region.box[2]} × {region.box[3]} px at ({region.box[0]}, {region.box[1]})"
        f"<br><small>area {region.area:,} px, peak {region.peak_score:.4g}</small></li>"
        for region in regions[:MAX_REGIONS]
    ]
    if len(regions) > MAX_REGIONS:
        items.append(f'<li class="muted">and {len(regions) - MAX_REGIONS} more</li>')
    return f"<ul>{''.join(items)}</ul>"


# --- the head ---


def _head(
    title: str,
    rows: Sequence[_Seen],
    summary: Mapping[str, str],
    calibration: Sequence[float],
    skipped: Sequence[str],
    created: datetime | None,
) -> Iterator[str]:
    yield document_start(title, STYLE, SCRIPT, created)
    yield cards({**_figures(rows), **summary})
    threshold = _threshold(rows)
    series = _series(rows, calibration)
    if series:
        yield _histogram(series, threshold)
    if skipped:
        items = "".join(f"<li>{escape(reason)}</li>" for reason in skipped)
        yield f'<section class="skipped"><h2>Not inspected: {len(skipped)}</h2><ul>{items}</ul></section>\n'
    yield _TABLE_HEAD.format(
        legend=heat_legend(), wrong="" if any(row.defective is not None for row in rows) else " hidden"
    )


def _threshold(rows: Sequence[_Seen]) -> float | None:
    return next((row.threshold for row in rows if row.threshold is not None and math.isfinite(row.threshold)), None)


def _figures(rows: Sequence[_Seen]) -> dict[str, str]:
    figures = {"images inspected": f"{len(rows):,}"}
    judged = [row for row in rows if row.is_anomalous is not None]
    if judged:
        anomalous = sum(bool(row.is_anomalous) for row in judged)
        figures |= {"anomalous": f"{anomalous:,}", "normal": f"{len(judged) - anomalous:,}"}
    for mistake, plural, of in (("false alarm", "false alarms", False), ("missed", "missed defects", True)):
        labelled = sum(row.defective is of for row in judged)
        if labelled:
            figures[plural] = f"{sum(row.mistake == mistake for row in judged):,} of {labelled:,}"
    threshold = _threshold(rows)
    if threshold is not None:
        figures["threshold"] = f"{threshold:.4g}"
    return figures


# --- the histogram ---

_Series = tuple[str, str, list[float]]  # (name, CSS class, scores)


def _series(rows: Sequence[_Seen], calibration: Sequence[float]) -> list[_Series]:
    series: list[_Series] = [
        ("Calibration: held-out good images", "calibration", [s for s in calibration if math.isfinite(s)])
    ]
    for name, kind, truth in (
        ("Inspected, labelled good", "normal", False),
        ("Inspected, labelled defective", "anomalous", True),
        ("Inspected", "unjudged", None),
    ):
        series.append((name, kind, [r.score for r in rows if r.defective is truth and math.isfinite(r.score)]))
    return [one for one in series if one[2]]


def _histogram(series: Sequence[_Series], threshold: float | None) -> str:
    """One band for each series over a shared axis of scores, each scaled to its own tallest bar."""
    edges = _edges([score for _, _, scores in series for score in scores], threshold)
    left, width, top, band, bar = 8.0, 784.0, 18.0, 74.0, 46.0
    floor = top + band * len(series)

    def x(score: float) -> float:
        return left + width * (score - edges[0]) / (edges[-1] - edges[0])

    parts = []
    anchor, label_x = "start", left
    if threshold is not None:
        at = x(threshold)
        if at < left + width / 2:  # the names keep clear of the line
            anchor, label_x = "end", left + width
        side = "end" if at > left + width * 0.8 else "start"
        parts.append(f'<path class="threshold" d="M{at:.1f} 3V{floor:.0f}"/>')
        shift = -6 if side == "end" else 6
        parts.append(
            f'<text class="threshold" text-anchor="{side}" x="{at + shift:.1f}" y="13">threshold {threshold:.4g}</text>'
        )
    for number, (name, kind, scores) in enumerate(series):
        base = top + band * (number + 1)
        counts, _ = np.histogram(scores, edges)
        heights = np.maximum(bar * counts / counts.max(), 2)  # a single image must not vanish beside hundreds
        parts.append(
            f'<text text-anchor="{anchor}" x="{label_x}" y="{base - bar - 12:.0f}">{name} ({len(scores):,})</text>'
        )
        parts += [
            f'<rect class="{kind}" x="{x(low) + 0.5:.1f}" y="{base - tall:.1f}" '
            f'width="{x(high) - x(low) - 1:.1f}" height="{tall:.1f}">'
            f"<title>{count} with a score of {low:.4g} to {high:.4g}</title></rect>"
            for low, high, count, tall in zip(edges[:-1], edges[1:], counts, heights, strict=True)
            if count
        ]
        parts.append(f'<path class="axis" d="M{left} {base:.0f}H{left + width}"/>')
    for tick in ticks(edges[0], edges[-1]):
        parts.append(f'<text class="number" x="{x(tick):.1f}" y="{floor + 16:.0f}">{tick:g}</text>')
    return (
        '<section><h2>Scores</h2><p class="muted">Distance to the nearest normal patch; higher is more anomalous. '
        "Each band is scaled to its own tallest bar.</p>"
        f'<svg class="histogram" viewBox="0 0 800 {floor + 24:.0f}" role="img" '
        f'aria-label="{escape(_described(series, threshold))}">{"".join(parts)}</svg></section>\n'
    )


def _edges(scores: Sequence[float], threshold: float | None) -> list[float]:
    """The bars' edges, around all scores and the threshold, which is itself an edge: no bar straddles it."""
    shown = [*scores, *([] if threshold is None else [threshold])]
    low, high = min(shown), max(shown)
    margin = 0.02 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin
    if threshold is not None:
        step = (high - low) / _BINS
        low = threshold - step * math.ceil((threshold - low) / step)
        high = low + step * (_BINS + 1)
        return [low + step * k for k in range(_BINS + 2)]
    return [low + (high - low) * k / _BINS for k in range(_BINS + 1)]


def _described(series: Sequence[_Series], threshold: float | None) -> str:
    parts = [f"{name}: {len(scores)} scores from {min(scores):.4g} to {max(scores):.4g}" for name, _, scores in series]
    return "Histogram of scores. " + ". ".join(parts) + ("" if threshold is None else f". Threshold: {threshold:.4g}.")


_TABLE_HEAD = """<section><h2>Images</h2>
{legend}<form class="controls" hidden>
<label>Show <select id="show"><option value="all">all</option><option value="anomalous">anomalous</option>
<option value="normal">normal</option><option value="wrong"{wrong}>wrong verdicts</option></select></label>
<label>Sort by <select id="sort"><option value="score">highest score</option><option value="low">lowest score</option>
<option value="number">order of inspection</option><option value="name">name</option></select></label>
<label>Name contains <input id="find" type="search"></label>
<output id="count"></output>
</form>
<table><thead><tr><th scope="col">Image</th><th scope="col">As inspected</th><th scope="col">Heat map and regions</th>
<th scope="col">Verdict</th><th scope="col">Score / threshold</th><th scope="col">Regions</th></tr></thead>
<tbody>
"""
