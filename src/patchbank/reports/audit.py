"""An audit as one self-contained HTML page: each odd image with what is odd, a crop of it, and the whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from patchbank.imaging.boxes import Box, fitted, pixels_of
from patchbank.imaging.drawing import MARK, rectangle
from patchbank.reports.explanation_pictures import decoded, enlarged
from patchbank.reports.html import breakable, cards, document_end, document_start, picture, small_jpeg
from patchbank.results.audit import AuditedImage, AuditFacts
from patchbank.util.files import atomic_write

ByteArray = npt.NDArray[np.uint8]

CROP, WHOLE = 300, 300  # pixels
_AROUND = 8  # a crop's side, in sides of the marked patch
_BYTES = 40_000


def write_page(path: str | Path, audit: AuditFacts, title: str = "", created: datetime | None = None) -> None:
    """Writes the page. title: what was audited. Raises OutputError; then an older file is kept."""
    with atomic_write(path) as file:
        for part in _parts(audit, title, created):
            file.write(part.encode("utf-8", "replace"))


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


def _parts(audit: AuditFacts, title: str, created: datetime | None) -> Iterator[str]:
    yield document_start(f"Audit of {title}" if title else "Audit", _STYLE, created=created)
    counts = {"images": str(len(audit.images)), "odd": str(len(audit.odd))}
    if audit.unreadable:
        counts["unreadable"] = str(len(audit.unreadable))
    yield cards(counts)
    lines = [*audit.notes, *(reason for _, reason in audit.unreadable)]
    if lines:
        yield f"<section><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul></section>\n"
    if not audit.odd:
        yield "<section><p>Nothing stands out.</p></section>\n"
    by_name = {image.name: image for image in audit.images}
    for number, image in enumerate(audit.odd, start=1):
        yield _section(number, image, by_name)
    yield f"<section><h2>How to read this</h2>{''.join(f'<p>{text}</p>' for text in _HOW)}</section>\n"
    yield document_end()


def _section(number: int, image: AuditedImage, by_name: dict[str, AuditedImage]) -> str:
    said = "".join(f"<li>{breakable(oddity.text)}</li>" for oddity in image.oddities)
    shown = decoded(image.picture)
    figures = []
    if shown is not None:
        if image.mark:
            figures.append(_figure(crop(shown, image.mark), "the oddest patch", image.name))
        figures.append(_figure(whole(shown, image.mark), "the whole image", image.name))
    for oddity in image.oddities:
        other = by_name.get(oddity.other or "")
        twin = decoded(other.picture) if other else None
        if other and twin is not None:
            figures.append(_figure(whole(twin, None), other.name, other.name))
    pictures = f'<div class="row">{"".join(figures)}</div>' if figures else "<p class=muted>No picture is at hand.</p>"
    score = "" if image.score is None else f" <small>score {image.score:.4g}</small>"
    return f"<section><h2>{number}. {breakable(image.name)}{score}</h2><ul>{said}</ul>{pictures}</section>\n"


def _figure(image: ByteArray, caption: str, name: str) -> str:
    data = small_jpeg(image, max(image.shape[:2]), _BYTES)
    return f"<figure>{picture(data, f'{caption} of {name}')}<figcaption>{breakable(caption)}</figcaption></figure>"


_HOW = (
    "Each image is compared with the other training images only; nobody has said what a defect is. What is odd "
    "is not always bad: the only image of a rare variant is odd, and worth keeping.",
    "Odd is what lies more than so many units from the median, a unit being half the distance between the quartiles. "
    "The score is the image's own, by a model that does not know its patches.",
    "Subtle defects, and those that many images share, do not show here.",
)
_STYLE = """
figure{margin:0;min-width:0}
figcaption{font-size:13px;color:var(--muted);overflow-wrap:anywhere;max-width:300px}
.row{display:flex;flex-wrap:wrap;gap:16px;margin-top:10px}
.row img{display:block;border-radius:6px;max-width:100%;height:auto}
section ul{margin:4px 0;padding-left:20px}
@media print{section{break-inside:avoid}.row img{max-height:60mm;width:auto}}
"""
