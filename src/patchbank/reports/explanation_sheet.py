"""An explanation as one picture (PNG), for where a page cannot go: a report, a mail, a ticket."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np

from patchbank.arrays import ByteArray
from patchbank.imaging.drawing import BOLD, DARK, MARK, Colour, shortened, text, text_width, wrapped
from patchbank.reports import distributions
from patchbank.reports import explanation_pictures as views
from patchbank.reports import explanation_text as said
from patchbank.reports.html import verdict_of, when
from patchbank.results.explanation import ExplanationFacts, Finding

WIDTH = 1600
_LEFT = 48
_INNER = WIDTH - 2 * _LEFT
_GAP = 24
_COLUMNS = 5
_CELL = (_INNER - (_COLUMNS - 1) * _GAP) // _COLUMNS
_MUTED: Colour = (91, 101, 112)
_LINE: Colour = (223, 227, 232)
_CHART = 1.25  # pixels a unit of a chart
_VERDICTS: dict[str, tuple[Colour, Colour]] = {
    "anomalous": ((180, 35, 24), (253, 236, 235)),
    "normal": ((31, 122, 77), (232, 245, 238)),
    "NG": ((180, 35, 24), (253, 236, 235)),
    "REVIEW": ((138, 90, 0), (253, 243, 220)),
    "OK": ((31, 122, 77), (232, 245, 238)),
    "unjudged": (_MUTED, (240, 242, 245)),
}


def write_sheet(
    path: str | Path, explanation: ExplanationFacts, model: str | None, created: datetime | None = None
) -> None:
    """Writes the picture. model: the model's name, for the heading. Raises OutputError; then an older file is kept."""
    from patchbank.imaging.images import write_png

    write_png(Path(path), sheet(explanation, model, created))


def sheet(explanation: ExplanationFacts, model: str | None, created: datetime | None = None) -> ByteArray:
    """(H, WIDTH, 3) uint8 RGB: the same facts and pictures as the page."""
    return np.concatenate(list(_blocks(explanation, model, created)))


def _blocks(explanation: ExplanationFacts, model: str | None, created: datetime | None) -> Iterator[ByteArray]:
    from patchbank.version import __version__

    yield _space(40)
    yield from _text(f"Explanation of {said.short_name(explanation.path)}", 34, BOLD)
    about = " · ".join([when(created), *([f"inspected with {model}"] if model else []), f"patchbank {__version__}"])
    yield from _text(about, 18, colour=_MUTED)
    yield _space(18)
    yield _verdict(explanation)
    yield from _text(said.verdict(explanation), 20)
    yield _space(20)
    yield _overview(explanation)
    for note in explanation.notes:
        yield from _text(note, 18, colour=_MUTED)
    for number, finding in enumerate(explanation.findings, start=1):
        yield from _finding(explanation, number, finding)
    yield _rule()
    for paragraph in said.HOW_TO_READ:
        yield from _text(paragraph, 16, colour=_MUTED)
        yield _space(6)
    yield _space(24)


def _space(height: int) -> ByteArray:
    return np.full((height, WIDTH, 3), 255, np.uint8)


def _rule() -> ByteArray:
    block = _space(52)
    block[26:28, _LEFT:-_LEFT] = _LINE
    return block


def _text(words: str, size: int, weight: int = 400, colour: Colour = DARK) -> Iterator[ByteArray]:
    for line in wrapped(words, _INNER, size, weight):
        block = _space(round(1.5 * size))
        text(block, line, (_LEFT, 1.1 * size), size, colour, weight)
        yield block


def _verdict(explanation: ExplanationFacts) -> ByteArray:
    """The verdict on its colour."""
    import cv2

    word = verdict_of(explanation.is_anomalous) if explanation.verdict is None else explanation.verdict.upper()
    ink, ground = _VERDICTS[word]
    block, width = _space(58), text_width(word, 22, BOLD)
    for x in (_LEFT + 21, _LEFT + 21 + width):
        cv2.circle(block, (x, 24), 21, ground, cv2.FILLED, cv2.LINE_AA)
    cv2.rectangle(block, (_LEFT + 21, 3), (_LEFT + 21 + width, 45), ground, cv2.FILLED)
    text(block, word, (_LEFT + 21, 32), 22, ink, BOLD)
    return block


def _overview(explanation: ExplanationFacts) -> ByteArray:
    side = (_INNER - _GAP) // 2
    pictures = [views.overview(explanation, heat, side) for heat in (False, True)]
    block = _space(pictures[0].shape[0] + 44)
    for column, (picture, caption) in enumerate(zip(pictures, ("As inspected", "Heat map and regions"), strict=True)):
        x = _LEFT + column * (side + _GAP)
        _paste(block, picture, x, 0)
        text(block, caption, (x, picture.shape[0] + 26), 17, _MUTED)
    return block


def _paste(block: ByteArray, picture: ByteArray, x: int, y: int) -> None:
    block[y : y + picture.shape[0], x : x + picture.shape[1]] = picture


# --- one finding ---


def _finding(explanation: ExplanationFacts, number: int, finding: Finding) -> Iterator[ByteArray]:
    yield _rule()
    yield from _text(said.title(number, finding), 24, BOLD)
    yield _space(8)
    cells = list(_cells(explanation, finding))
    for start in range(0, len(cells), _COLUMNS):
        row = cells[start : start + _COLUMNS]
        block = _space(max(part.shape[0] for part in row) + 10)
        for column, part in enumerate(row):
            _paste(block, part, _LEFT + column * (_CELL + _GAP), 0)
        yield block
    for sentence in (said.distance(finding), *said.comparisons(finding)):
        yield from _text(sentence, 18)
    if (chart := said.chart(finding)) is not None:
        block = _space(round(_CHART * chart.height) + 16)
        distributions.draw(chart, block, (_LEFT, 8), _CHART)
        yield block


def _cells(explanation: ExplanationFacts, finding: Finding) -> Iterator[ByteArray]:
    """The columns of a finding's row."""
    region = views.region_crop(explanation, finding)
    if region is not None:
        yield _cell(region, None, "The region", ())
    crop, whole = views.inspected_crop(explanation, finding), views.inspected_whole(explanation, finding)
    where = (said.short_name(explanation.path), said.percent(finding.mark))
    yield _cell(crop, whole, f"Inspected: distance {finding.score:.3g}", where, MARK)
    for rank, patch in enumerate(finding.neighbours, start=1):
        name, where = f"Normal {rank}: distance {patch.distance:.3g}", (patch.image, said.percent(patch.mark))
        yield _cell(views.normal_crop(patch), views.normal_whole(patch), name, where)


def _cell(
    crop: ByteArray | None, whole: ByteArray | None, name: str, lines: tuple[str, ...], frame: Colour | None = None
) -> ByteArray:
    """A crop with its caption: name, the whole picture, further lines."""
    import cv2

    width = _CELL
    cell = np.full((width + 34 + (150 if whole is not None else 0) + 24 * len(lines), width, 3), 255, np.uint8)
    if crop is None:
        cell[:width] = (246, 247, 249)
        text(cell, "no picture in the model", (16, width / 2), 16, _MUTED)
    else:
        part = views.enlarged(crop, width)
        _paste(cell, part, (width - part.shape[1]) // 2, (width - part.shape[0]) // 2)
    if frame:
        cv2.rectangle(cell, (0, 0), (width - 1, width - 1), frame, 3)
    y = width + 24
    text(cell, name, (0, y), 17, DARK, BOLD)
    if whole is not None:
        _paste(cell, views.enlarged(whole, 130), 0, y + 12)
        y += 150
    for line in lines:
        y += 24
        text(cell, shortened(line, width, 16), (0, y), 16, _MUTED)
    return cell
