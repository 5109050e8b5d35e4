"""An explanation as one self-contained HTML page, for a screen or a report on paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from patchbank.reports import explanation_pictures as views
from patchbank.reports import explanation_text as said
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
)
from patchbank.results.explanation import ExplanationFacts, Finding, NormalPatch
from patchbank.scoring.normal_distances import Distribution
from patchbank.util.files import atomic_write

ByteArray = npt.NDArray[np.uint8]

PICTURE_BYTES = 60_000
OVERVIEW_SIDE, OVERVIEW_BYTES = 900, 160_000
_MOST_COLUMNS = 5


def write_page(
    path: str | Path, explanation: ExplanationFacts, model: str | None, created: datetime | None = None
) -> None:
    """Writes the page. model: the model's name, for the heading. Raises OutputError; then an older file is kept."""
    with atomic_write(path) as file:
        for part in _parts(explanation, model, created):
            file.write(part.encode("utf-8", "replace"))


def _parts(explanation: ExplanationFacts, model: str | None, created: datetime | None) -> Iterator[str]:
    name = said.short_name(explanation.path)
    yield document_start(f"Explanation of {name}", _STYLE, created=created)
    by = f"Inspected with {breakable(model)}. " if model else ""
    yield (
        f'<section class="verdictline">{verdict_badge(explanation.is_anomalous)}'
        f"<p>{escape(said.verdict(explanation))} <span class=muted>{by}</span></p></section>\n"
    )
    yield cards(_figures(explanation))
    yield _overview(explanation, name)
    if explanation.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in explanation.notes)
        yield f'<section class="notes"><ul>{notes}</ul></section>\n'
    for number, finding in enumerate(explanation.findings, start=1):
        yield _finding(explanation, number, finding, name)
    how = "".join(f"<p>{escape(text)}</p>" for text in said.HOW_TO_READ)
    yield f"<section><h2>How to read this</h2>{how}</section>\n"
    yield document_end()


def _figures(explanation: ExplanationFacts) -> dict[str, str]:
    figures = {"score": f"{explanation.score:.4g}"}
    if explanation.threshold is not None:
        figures["threshold"] = f"{explanation.threshold:.4g}"
        if explanation.threshold > 0:
            figures["score / threshold"] = f"{explanation.score / explanation.threshold:.2f}×"
        figures["regions"] = f"{len(explanation.regions):,}"
    if explanation.good_scores is not None:
        figures["good images scoring as high"] = f"{explanation.good_at_least:,} of {len(explanation.good_scores):,}"
    height, width = explanation.image_size
    return {**figures, "pixels": f"{width:,} × {height:,}"}


def _overview(explanation: ExplanationFacts, name: str) -> str:
    pictures = [
        _figure(views.overview(explanation, heat, OVERVIEW_SIDE), f"{name}: {alt}", caption, OVERVIEW_BYTES)
        for heat, alt, caption in (
            (False, "the image, findings numbered", "As inspected"),
            (True, "heat map, findings numbered", "Heat map and regions"),
        )
    ]
    legend = heat_legend() if explanation.threshold is not None else ""
    return f'<section><h2>The image</h2>{legend}<div class="pair">{"".join(pictures)}</div></section>\n'


def _finding(explanation: ExplanationFacts, number: int, finding: Finding, name: str) -> str:
    region = views.region_crop(explanation, finding)
    first = ""
    if region is not None:
        alt = f"{name}: the region, its most anomalous patch marked"
        first = f"<figure>{_crop(region, alt)}<figcaption><b>The region</b></figcaption></figure>"
    inspected = (
        f"{_crop(views.inspected_crop(explanation, finding), f'{name}: the surroundings of the patch, marked')}"
        f"<figcaption><b>Inspected: distance {finding.score:.3g}</b>"
        f"{_where(views.inspected_whole(explanation, finding), f'{name}: where the patch is')}"
        f"<span>{breakable(name)}</span><small>{said.percent(finding.mark)}</small></figcaption>"
    )
    normal = "".join(f"<figure>{_neighbour(rank, patch)}</figure>" for rank, patch in enumerate(finding.neighbours, 1))
    columns = min(_MOST_COLUMNS, (region is not None) + 1 + len(finding.neighbours))
    told = "".join(f"<p>{escape(text)}</p>" for text in (said.distance(finding), *said.comparisons(finding)))
    return (
        f'<section class="finding"><h2><span class="number">{number}</span>{escape(said.title(number, finding))}</h2>'
        f'<div class="row" style="--columns:{columns}">{first}<figure class="inspected">{inspected}</figure>{normal}'
        f'</div><div class="told">{told}{_chart(finding)}</div></section>\n'
    )


def _neighbour(rank: int, patch: NormalPatch) -> str:
    crop, whole = views.normal_crop(patch), views.normal_whole(patch)
    if crop is None or whole is None:
        shown, where = '<div class="none muted">no picture in the model</div>', ""
    else:
        shown = _crop(crop, f"{patch.image}: the surroundings of the patch, marked")
        where = _where(whole, f"{patch.image}: where the patch is")
    return (
        f"{shown}<figcaption><b>Normal {rank}: distance {patch.distance:.3g}</b>{where}"
        f"<span>{breakable(patch.image)}</span><small>{said.percent(patch.mark)}</small></figcaption>"
    )


def _figure(image: ByteArray, alt: str, caption: str, most_bytes: int) -> str:
    jpeg = small_jpeg(image, max(image.shape[:2]), most_bytes)
    return f"<figure>{picture(jpeg, alt)}<figcaption>{caption}</figcaption></figure>"


def _crop(image: ByteArray, alt: str) -> str:
    return f'<div class="crop">{picture(small_jpeg(image, views.CROP, PICTURE_BYTES), alt)}</div>'


def _where(image: ByteArray, alt: str) -> str:
    return f'<div class="where">{picture(small_jpeg(image, views.WHOLE, PICTURE_BYTES), alt)}</div>'


# --- the distance against normal ones ---


def _chart(finding: Finding) -> str:
    """One band for each set of normal distances over a shared axis, and the patch's distance as a line through all."""
    bands = [
        (name, normal)
        for name, normal in (("Normal patches around this place", finding.here), ("Anywhere", finding.overall))
        if normal
    ]
    if not bands:
        return ""
    left, width, top, band = 8.0, 784.0, 22.0, 50.0
    end, floor = said.axis_end(finding), top + band * len(bands)

    def x(distance: float) -> float:
        return left + width * distance / end

    at = x(finding.score)
    side, shift = ("end", -6) if at > left + 0.75 * width else ("start", 6)
    parts = [_band(name, normal, top + band * k, x) for k, (name, normal) in enumerate(bands)]
    parts.append(f'<path class="axis" d="M{left} {floor:.0f}H{left + width}"/>')
    parts += [
        f'<text class="number" x="{x(tick):.1f}" y="{floor + 16:.0f}">{tick:g}</text>' for tick in ticks(0.0, end)
    ]
    parts.append(f'<path class="patch" d="M{at:.1f} 4V{floor:.0f}"/>')
    parts.append(
        f'<text class="patch" text-anchor="{side}" x="{at + shift:.1f}" y="14">this patch {finding.score:.3g}</text>'
    )
    about = f"Distance {finding.score:.3g} against normal distances. " + " ".join(said.comparisons(finding))
    return (
        f'<svg class="histogram chart" viewBox="0 0 800 {floor + 24:.0f}" role="img" aria-label="{escape(about)}">'
        f"{''.join(parts)}</svg>"
    )


def _band(name: str, normal: Distribution, top: float, x: Callable[[float], float]) -> str:
    low, first, lower, middle, upper, last, high = (
        x(normal.quantile(level)) for level in (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
    )
    base = top + 26
    return (
        f'<text x="8" y="{top + 12:.0f}">{name} ({normal.count:,})</text>'
        f'<path class="range" d="M{low:.1f} {base + 8:.0f}H{high:.1f}M{high:.1f} {base + 3:.0f}v10"/>'
        f'<rect class="most" x="{first:.1f}" y="{base + 2:.0f}" width="{last - first:.1f}" height="12"/>'
        f'<rect class="half" x="{lower:.1f}" y="{base:.0f}" width="{max(upper - lower, 1):.1f}" height="16"/>'
        f'<path class="median" d="M{middle:.1f} {base:.0f}v16"/>'
    )


_STYLE = """
figure{margin:0;min-width:0}
figcaption{font-size:13.5px;margin-top:6px;overflow-wrap:anywhere}
figcaption b,figcaption span,figcaption small{display:block}
figcaption b{font-weight:600}
.verdictline{display:flex;gap:14px;align-items:baseline;margin:18px 0 0}
.verdictline p{margin:0}
.notes ul{margin:0;padding-left:20px}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:16px}
.pair img,.row img{display:block;border-radius:6px}
.pair img{max-width:100%;max-height:600px;width:auto;height:auto}
.pair figcaption{color:var(--muted)}
.row{display:grid;grid-template-columns:repeat(var(--columns),minmax(0,268px));gap:16px;margin:12px 0}
.crop,.none{aspect-ratio:1;display:grid;place-items:center;background:var(--page);border-radius:6px;overflow:hidden}
.crop img{width:100%;height:100%;object-fit:contain}
.none{border:1px dashed var(--line);font-size:13px}
.inspected .crop{outline:2px solid #006eff;outline-offset:2px}
.where img{max-width:46%;max-height:130px;width:auto;height:auto;margin:6px 0}
h2 .number{display:inline-block;min-width:1.5em;margin-right:9px;padding:0 .35em;border-radius:1em;text-align:center;
color:var(--card);background:var(--text);font-size:14px;line-height:1.5em;vertical-align:1px}
.told p{margin:4px 0}
.chart{max-width:860px;margin-top:10px}
.chart .range{stroke:var(--calibration);stroke-width:1.5}
.chart .most{fill:var(--calibration);opacity:.38}
.chart .half{fill:var(--calibration)}
.chart .median{stroke:var(--card);stroke-width:2}
.chart path.patch{stroke:#006eff;stroke-width:2}
.chart text.patch{font-weight:600}
@media screen and (max-width:760px){.pair{grid-template-columns:1fr}.row{grid-template-columns:1fr 1fr}}
@media print{.finding{break-inside:avoid}h2{break-after:avoid}.row{gap:8px}
.pair img{max-height:82mm}figcaption{font-size:10px}.chart{max-width:150mm}}
"""
