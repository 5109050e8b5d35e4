"""An audit as one self-contained HTML page: the oddest images side by side, then each odd image with what is odd, a
crop of it, and the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from patchbank.arrays import ByteArray
from patchbank.imaging.boxes import Box, fitted, pixels_of
from patchbank.imaging.drawing import MARK, rectangle
from patchbank.reports.explanation_pictures import decoded, enlarged
from patchbank.reports.html import picture, small_jpeg
from patchbank.reports.html import write_page as write
from patchbank.results.audit import AuditedImage, AuditFacts

CROP, WHOLE = 300, 300  # pixels
_AROUND = 8  # a crop's side, in sides of the marked patch
_BYTES = 40_000


def write_page(
    path: str | Path,
    audit: AuditFacts,
    title: str = "",
    commands: Sequence[tuple[str, str]] = (),
    created: datetime | None = None,
) -> None:
    """Writes the page. title: what was audited. commands: (what it does, command line to copy). Raises OutputError;
    then an older file is kept."""
    figures = {"images": str(len(audit.images)), "odd": str(len(audit.odd))}
    if audit.unreadable:
        figures["unreadable"] = str(len(audit.unreadable))
    write(
        path,
        "audit.html",
        f"Audit of {title}" if title else "Audit",
        created,
        figures=figures,
        lines=[*audit.notes, *(reason for _, reason in audit.unreadable)],
        sheet=_sheet(audit),
        commands=commands,
        images=_images(audit),
    )


def crop(image: ByteArray, mark: Box) -> ByteArray:
    """The surroundings of the marked patch, the patch framed; (H, W, 3) uint8 RGB -> at most CROP pixels a side."""
    x, y, width, height = mark
    box = (x - (_AROUND - 1) / 2 * width, y - (_AROUND - 1) / 2 * height, _AROUND * width, _AROUND * height)
    left, top = max(0.0, min(box[0], 1 - box[2])), max(0.0, min(box[1], 1 - box[3]))
    x0, y0, x1, y1 = pixels_of(image.shape, (left, top, min(box[2], 1.0), min(box[3], 1.0)))
    shown = enlarged(image[y0:y1, x0:x1], CROP)
    scale = (shown.shape[1] / (x1 - x0), shown.shape[0] / (y1 - y0))
    _frame(shown, mark, (image.shape[1] * scale[0], image.shape[0] * scale[1]), (x0 * scale[0], y0 * scale[1]))
    return shown


def whole(image: ByteArray, mark: Box | None) -> ByteArray:
    """The image, small, with its marked patch framed."""
    shown = enlarged(fitted(image, WHOLE), WHOLE)
    if mark:
        _frame(shown, mark, (shown.shape[1], shown.shape[0]), (0, 0))
    return shown


def _frame(shown: ByteArray, mark: Box, size: tuple[float, float], origin: tuple[float, float]) -> None:
    x0, y0 = mark[0] * size[0] - origin[0], mark[1] * size[1] - origin[1]
    rectangle(shown, (x0, y0, x0 + mark[2] * size[0], y0 + mark[3] * size[1]), MARK)


def _sheet(audit: AuditFacts) -> Iterator[dict[str, Any]]:
    """The oddest images of the ranking, odd or not. link: the heading of its section below, if it has one."""
    for rank, image in enumerate(audit.oddest, start=1):
        shown = decoded(image.picture)
        figure = None if shown is None else _figure(whole(shown, image.mark), "the whole image", image.name)["picture"]
        yield {
            "rank": rank,
            "name": image.name,
            "severity": image.severity,
            "leading": image.leading,
            "is_odd": bool(image.oddities),
            "picture": figure,
        }


def _images(audit: AuditFacts) -> Iterator[dict[str, Any]]:
    """Returns what the template shows of each odd image."""
    by_name = {image.name: image for image in audit.images}
    for image in audit.odd:
        yield {
            "name": image.name,
            "score": image.score,
            "oddities": [oddity.text for oddity in image.oddities],
            "figures": list(_figures(image, by_name)),
        }


def _figures(image: AuditedImage, by_name: dict[str, AuditedImage]) -> Iterator[dict[str, Any]]:
    shown = decoded(image.picture)
    if shown is not None:
        if image.mark:
            yield _figure(crop(shown, image.mark), "the oddest patch", image.name)
        yield _figure(whole(shown, image.mark), "the whole image", image.name)
    for oddity in image.oddities:
        other = by_name.get(oddity.other or "")
        twin = decoded(other.picture) if other else None
        if other and twin is not None:
            yield _figure(whole(twin, None), other.name, other.name)


def _figure(image: ByteArray, caption: str, name: str) -> dict[str, Any]:
    data = small_jpeg(image, max(image.shape[:2]), _BYTES)
    return {"picture": picture(data, f"{caption} of {name}"), "caption": caption}
