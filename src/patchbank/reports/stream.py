"""A stream of scores, drawn: as one line of text for a terminal, and as a page with a chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from patchbank.reports.html import write_page

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-=+*#@"  # for terminals whose encoding has no blocks
WIDTH, HEIGHT = 800, 220  # of the page's chart, in its own units
_LEFT, _TOP, _BOTTOM = 100, 12, 26
_MOST_POINTS = 1500


@dataclass(frozen=True)
class Span:
    """Says where a shift lies: its images are start <= number < stop. name: of the test."""

    name: str
    start: int
    stop: int


def medians(scores: npt.ArrayLike, most: int) -> tuple[list[float], int]:
    """The medians of at most so many equal stretches of the stream, and how many images one has (the last may have
    fewer)."""
    values = np.asarray(scores, np.float64)
    size = max(1, -(-len(values) // most))
    return [float(np.median(values[at : at + size])) for at in range(0, len(values), size)], size


def text_chart(scores: npt.ArrayLike, spans: Sequence[Span], width: int, signs: str = BLOCKS) -> list[str]:
    """The stream as lines of text, at most `width` signs wide: a bar for the median score of each stretch, and marks
    under those that a shift covers. No lines for less than two images."""
    heights, size = medians(scores, width)
    if len(heights) < 2:
        return []
    low, high = min(heights), max(heights)
    scale = (len(signs) - 1) / (high - low) if high > low else 0.0
    lines = ["".join(signs[round((height - low) * scale)] for height in heights)]
    if spans:
        covered = [any(s.start < (n + 1) * size and n * size < s.stop for s in spans) for n in range(len(heights))]
        lines.append("".join("^" if each else " " for each in covered).rstrip())
    images = "1 image" if size == 1 else f"{size} images"
    return [*lines, f"from left to right: the median score of every {images}, {low:.4g} to {high:.4g}; ^ a shift"]


@dataclass(frozen=True)
class StreamChart:
    """The page's chart, laid out. points: (x, y, whether it is over the threshold). lines: (y, kind, words). spans: (x,
    width, name). described: all of it in words."""

    points: tuple[tuple[float, float, bool], ...]
    lines: tuple[tuple[float, str, str], ...]
    spans: tuple[tuple[float, float, str], ...]
    described: str


def stream_chart(scores: npt.ArrayLike, median: float, threshold: float, spans: Sequence[Span]) -> StreamChart:
    """Every score at its place in the stream; of very many, every so-manieth and all that are over the threshold."""
    values = np.asarray(scores, np.float64)
    low, high = min(float(values.min()), median), max(float(values.max()), threshold)
    room = (high - low) or 1.0

    def x(number: float) -> float:
        return _LEFT + (WIDTH - _LEFT - 6) * number / max(len(values), 1)

    def y(score: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _BOTTOM - _TOP) * (score - low) / room

    step = max(1, -(-len(values) // _MOST_POINTS))
    shown = [n for n in range(len(values)) if n % step == 0 or values[n] > threshold][: 4 * _MOST_POINTS]
    return StreamChart(
        tuple((x(n + 0.5), y(values[n]), bool(values[n] > threshold)) for n in shown),
        ((y(threshold), "threshold", f"threshold {threshold:.4g}"), (y(median), "axis", f"median {median:.4g}")),
        tuple((x(span.start), x(span.stop) - x(span.start), span.name) for span in spans),
        f"{len(values)} image scores in order, from {values.min():.4g} to {values.max():.4g}; median of the "
        f"calibration {median:.4g}, threshold {threshold:.4g}",
    )


@dataclass(frozen=True)
class TestRow:
    """One test, for the page. place: where the shift lies, in words; empty without one."""

    name: str
    found: bool
    question: str
    place: str


def write_drift(
    path: str | Path,
    *,
    title: str,
    found: bool,
    images: int,
    chart: StreamChart | None,
    tests: Sequence[TestRow],
    advice: Sequence[str],
    showing: Iterator[tuple[float, str, str]],
    created: datetime | None = None,
) -> None:
    """Writes the page. showing: (score, image, tests) of the images that show a shift. Raises OutputError; then an
    older file is kept."""
    write_page(
        path,
        "drift.html",
        title,
        created,
        figures={"images": f"{images:,}", "drift": "yes" if found else "no"},
        chart=chart,
        width=WIDTH,
        height=HEIGHT,
        tests=tests,
        advice=advice,
        showing=showing,
    )
