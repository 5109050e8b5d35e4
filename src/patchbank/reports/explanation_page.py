"""An explanation as one self-contained HTML page, for a screen or a report on paper."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from patchbank.arrays import ByteArray
from patchbank.reports import explanation_pictures as views
from patchbank.reports import explanation_text as said
from patchbank.reports.html import Picture, picture, small_jpeg, verdict_of
from patchbank.reports.html import write_page as write
from patchbank.results.explanation import ExplanationFacts, Finding, NormalPatch

PICTURE_BYTES = 60_000
OVERVIEW_SIDE, OVERVIEW_BYTES = 900, 160_000
_MOST_COLUMNS = 5


def write_page(
    path: str | Path, explanation: ExplanationFacts, model: str | None, created: datetime | None = None
) -> None:
    """Writes the page. model: the model's name, for the heading. Raises OutputError; then an older file is kept."""
    name = said.short_name(explanation.path)
    write(
        path,
        "explanation.html",
        f"Explanation of {name}",
        created,
        word=verdict_of(explanation.is_anomalous) if explanation.verdict is None else str(explanation.verdict),
        colours=explanation.colours,
        strange=bool(explanation.unlike),
        verdict=said.verdict(explanation),
        model=model,
        figures=_figures(explanation),
        judged=explanation.threshold is not None,
        pixel_threshold="" if explanation.pixel_threshold is None else f"{explanation.pixel_threshold:.4g}",
        overview=_overview(explanation, name),
        notes=explanation.notes,
        findings=(_finding(explanation, *numbered, name) for numbered in enumerate(explanation.findings, start=1)),
        how_to_read=said.HOW_TO_READ,
    )


def _figures(explanation: ExplanationFacts) -> dict[str, str]:
    figures = {"image score": f"{explanation.score:.4g}"}
    if explanation.threshold is not None:
        figures["threshold"] = f"{explanation.threshold:.4g}"
        if explanation.threshold > 0:
            figures["image score / threshold"] = f"{explanation.score / explanation.threshold:.2f}×"
        figures["regions"] = f"{len(explanation.regions):,}"
    if explanation.good_scores is not None:
        figures["good images scoring as high"] = f"{explanation.good_at_least:,} of {len(explanation.good_scores):,}"
    height, width = explanation.image_size
    return {**figures, "pixels": f"{width:,} × {height:,}"}


def _overview(explanation: ExplanationFacts, name: str) -> Iterator[dict[str, Any]]:
    for heat, alt, caption in (
        (False, "the image, findings numbered", "As inspected"),
        (True, "heat map, findings numbered", "Heat map and regions"),
    ):
        image = views.overview(explanation, heat, OVERVIEW_SIDE)
        jpeg = small_jpeg(image, max(image.shape[:2]), OVERVIEW_BYTES)
        yield {"picture": picture(jpeg, f"{name}: {alt}"), "caption": caption}


def _finding(explanation: ExplanationFacts, number: int, finding: Finding, name: str) -> dict[str, Any]:
    cells = list(_cells(explanation, finding, name))
    return {
        "title": said.title(number, finding),
        "cells": cells,
        "columns": min(_MOST_COLUMNS, len(cells)),
        "told": [said.distance(finding), *said.comparisons(finding)],
        "chart": said.chart(finding),
    }


def _cells(explanation: ExplanationFacts, finding: Finding, name: str) -> Iterator[dict[str, Any]]:
    """The columns of a finding's row: the region, the patch, and the normal patches that come closest."""
    region = views.region_crop(explanation, finding)
    if region is not None:
        crop = _crop(region, f"{name}: the region, its most anomalous patch marked")
        yield _cell("The region", crop, None, name, "")
    yield _cell(
        f"Inspected: distance {finding.score:.3g}",
        _crop(views.inspected_crop(explanation, finding), f"{name}: the surroundings of the patch, marked"),
        _whole(views.inspected_whole(explanation, finding), f"{name}: where the patch is"),
        name,
        said.percent(finding.mark),
        inspected=True,
    )
    for rank, patch in enumerate(finding.neighbours, start=1):
        yield _neighbour(rank, patch)


def _neighbour(rank: int, patch: NormalPatch) -> dict[str, Any]:
    crop, whole = views.normal_crop(patch), views.normal_whole(patch)
    return _cell(
        f"Normal {rank}: distance {patch.distance:.3g}",
        None if crop is None else _crop(crop, f"{patch.image}: the surroundings of the patch, marked"),
        None if whole is None else _whole(whole, f"{patch.image}: where the patch is"),
        patch.image,
        said.percent(patch.mark),
    )


def _cell(
    title: str, crop: Picture | None, whole: Picture | None, image: str, place: str, inspected: bool = False
) -> dict[str, Any]:
    return {"title": title, "crop": crop, "whole": whole, "image": image, "place": place, "inspected": inspected}


def _crop(image: ByteArray, alt: str) -> Picture:
    return picture(small_jpeg(image, views.CROP, PICTURE_BYTES), alt)


def _whole(image: ByteArray, alt: str) -> Picture:
    return picture(small_jpeg(image, views.WHOLE, PICTURE_BYTES), alt)
