"""The chart of distributions that every page and sheet shows: a band of bars for each set of values over one axis, and
a line through all of them for the value that is compared.

The chart is laid out once, as bars, lines and texts in a plane of WIDTH x `height` units; the pages draw it as SVG
(`chart` in `templates/parts.html`), the sheet draws it with OpenCV (`draw`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from patchbank.arrays import ByteArray, DoubleArray
from patchbank.imaging.drawing import BOLD, DARK, MARK, REGULAR, Colour, text, text_width
from patchbank.scoring.normal_distances import Distribution

WIDTH = 800.0
_LEFT, _INNER = 8.0, 784.0
_TOP, _BAND, _BAR = 18.0, 74.0, 46.0
_BINS = 60
_LETTER = 9.0  # no letter of a name is wider on average
INKS: dict[str, Colour] = {  # of a chart's parts, as in the pages' style
    "calibration": (138, 148, 163),
    "normal": (31, 122, 77),
    "anomalous": (180, 35, 24),
    "unjudged": (53, 103, 168),
    "axis": (223, 227, 232),
    "number": (91, 101, 112),
    "patch": MARK,
}

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Band:
    """One set of values. kind: its colour, a key of INKS. values: the values themselves, or what is
    known of their distribution."""

    name: str
    kind: str
    values: Sequence[float] | Distribution

    @property
    def count(self) -> int:
        """Returns how many values there are."""
        return self.values.count if isinstance(self.values, Distribution) else len(self.values)

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        if isinstance(self.values, Distribution):
            return self.values.quantile(0.0), self.values.largest
        return min(self.values), max(self.values)

    def counts(self, edges: Sequence[float]) -> DoubleArray:
        """(E,) ascending edges -> (E - 1,) how many values are over the lower edge and not over the upper one: as a
        value that equals the threshold is not over it."""
        if isinstance(self.values, Distribution):
            return np.diff([self.count * self.values.share_at_most(edge) for edge in edges])
        return np.diff(np.searchsorted(np.sort(self.values), edges, side="right")).astype(np.float64)


@dataclass(frozen=True)
class Mark:
    """The value that the bands are compared with. name: what it is. kind: "threshold" or "patch"."""

    name: str
    kind: str
    value: float


@dataclass(frozen=True)
class Bar:
    """A filled rectangle; (x, y) is its upper left corner. title: what it shows, in words."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Line:
    """A straight line from (x0, y0) to (x1, y1)."""

    kind: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Label:
    """A line of text; (x, y) is the start, middle or end of its base line."""

    kind: str
    x: float
    y: float
    words: str
    anchor: Anchor = "start"


@dataclass(frozen=True)
class Chart:
    """A chart that is laid out. described: what it shows, in words, for those who do not see it."""

    height: float
    bars: tuple[Bar, ...]
    lines: tuple[Line, ...]
    labels: tuple[Label, ...]
    described: str


def chart(
    bands: Sequence[Band],
    mark: Mark | None,
    described: str,
    *,
    unit: str = "score",
    start: float | None = None,
    further: Sequence[Mark] = (),
) -> Chart | None:
    """Lays the bands out over a shared axis, each scaled to its own tallest bar; None where there is nothing to show.

    Values must be finite; a mark that is not is left out. unit: what the values are, in the bars' titles. start: a
    value that the axis includes. further: lines whose names stand at their foot; they must lie among the values.
    """
    bands = [band for band in bands if band.count]
    if not bands:
        return None
    mark = mark if mark and math.isfinite(mark.value) else None
    ends = [end for band in bands for end in band.range] + ([] if start is None else [start])
    edges = _edges(min(ends), max(ends), mark.value if mark else None)
    floor = _TOP + _BAND * len(bands)
    bars: list[Bar] = []
    lines: list[Line] = []
    labels: list[Label] = []

    def x(value: float) -> float:
        return _LEFT + _INNER * (value - edges[0]) / (edges[-1] - edges[0])

    names_at_end = mark is not None and x(mark.value) < _LEFT + _INNER / 2  # the names keep clear of the line
    for number, band in enumerate(bands, start=1):
        base = _TOP + _BAND * number
        counts = band.counts(edges)
        heights = np.maximum(_BAR * counts / counts.max(), 2)  # a single value must not vanish beside hundreds
        about = "about " if isinstance(band.values, Distribution) else ""
        for low, high, count, tall in zip(edges[:-1], edges[1:], counts, heights, strict=True):
            if count:
                title = f"{about}{math.ceil(count)} with a {unit} of {low:.4g} to {high:.4g}"
                bars.append(Bar(band.kind, x(low) + 0.5, base - tall, x(high) - x(low) - 1, tall, title))
        lines.append(Line("axis", _LEFT, base, _LEFT + _INNER, base))
        anchor, at = ("end", _LEFT + _INNER) if names_at_end else ("start", _LEFT)
        labels.append(Label("name", at, base - _BAR - 12, f"{band.name} ({band.count:,})", anchor))  # type: ignore[arg-type]
    if mark:
        at, before = x(mark.value), x(mark.value) > _LEFT + 0.8 * _INNER
        lines.append(Line(mark.kind, at, 3, at, floor))
        words = f"{mark.name} {mark.value:.4g}"
        labels.append(Label(mark.kind, at - 6 if before else at + 6, 13, words, "end" if before else "start"))
    for each in further:
        lines.append(Line(each.kind, x(each.value), 24, x(each.value), floor))
        at, words = x(each.value), f"{each.name} {each.value:.4g}"
        room = at - 6 >= _LETTER * len(words)  # before the line, or the words would begin outside of the picture
        past = max(at, x(mark.value)) if mark else at  # a name between the two lines would run over the second
        labels.append(Label(each.kind, at - 6 if room else past + 6, 30, words, "end" if room else "start"))
    labels += [Label("number", x(tick), floor + 16, f"{tick:g}", "middle") for tick in ticks(edges[0], edges[-1])]
    return Chart(floor + 24, tuple(bars), tuple(lines), tuple(labels), described)


def draw(chart: Chart, picture: ByteArray, at: tuple[float, float], scale: float) -> None:
    """Draws a chart into (H, W, 3) uint8 RGB, its upper left corner at (x, y). scale: pixels a unit of the chart."""
    import cv2

    def place(x: float, y: float) -> tuple[int, int]:
        return round(at[0] + scale * x), round(at[1] + scale * y)

    for line in chart.lines:
        ink = INKS.get(line.kind, DARK)
        cv2.line(picture, place(line.x0, line.y0), place(line.x1, line.y1), ink, max(1, round(1.6 * scale)))
    for bar in chart.bars:
        (left, top), (right, bottom) = place(bar.x, bar.y), place(bar.x + bar.width, bar.y + bar.height)
        picture[top:bottom, left : max(right, left + 1)] = INKS.get(bar.kind, DARK)
    for label in chart.labels:
        size, weight = round(13 * scale), BOLD if label.kind in ("patch", "threshold") else REGULAR
        back = {"start": 0.0, "middle": 0.5, "end": 1.0}[label.anchor] * text_width(label.words, size, weight)
        x, y = place(label.x, label.y)
        text(picture, label.words, (x - back, y), size, INKS["number"] if label.kind == "number" else DARK, weight)


def ticks(low: float, high: float) -> list[float]:
    """Four to eleven round numbers in the range."""
    raw = (high - low) / 10
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
    rounded = (float(f"{step * k:.12g}") for k in range(math.ceil(low / step), math.floor(high / step) + 1))
    return [tick for tick in rounded if low <= tick <= high]


def _edges(low: float, high: float, mark: float | None) -> list[float]:
    """The bars' edges, around all values and the mark, which is itself an edge: no bar straddles it."""
    if mark is not None:
        low, high = min(low, mark), max(high, mark)
    margin = 0.02 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin
    step = (high - low) / _BINS
    if mark is None:
        return [low + step * k for k in range(_BINS + 1)]
    before = math.ceil((mark - low) / step)
    return [mark + step * k for k in range(-before, _BINS + 2 - before)]
