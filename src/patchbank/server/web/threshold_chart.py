"""The chart and the table of what a version's thresholds are worth: rates of false alarms, confidences, thresholds."""

from __future__ import annotations

from dataclasses import dataclass

from patchbank.server.api.registry import ChoiceTold, Thresholds
from patchbank.server.web.charts import Axis, Tick, apart, axis, line, ticks

WIDTH, HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 538, 14, 258
_DRAWN = (0.0, 0.9, 0.99)  # confidences; five lines would hide each other
_MOST_SCORES = 120  # marks at the side
_TEXT = 17  # height of a line's name


@dataclass(frozen=True, slots=True)
class Dot:
    """A threshold in the drawing. kept: the images are enough for its promise."""

    x: float
    y: float
    kept: bool


@dataclass(frozen=True, slots=True)
class Line:
    """The thresholds of a confidence. label: height of its name."""

    confidence: float
    points: str
    dots: list[Dot]
    label: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Everything that the template draws. now: height of the version's own threshold. scores: heights of good parts."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    rates: list[Tick]
    values: list[Tick]
    lines: list[Line]
    now: float | None
    scores: list[float]


@dataclass(frozen=True, slots=True)
class Row:
    """The thresholds of a rate, one for each confidence."""

    rate: float
    choices: list[ChoiceTold]


def rows_of(told: Thresholds) -> tuple[list[float], list[Row]]:
    """The confidences, and a row for each rate."""
    confidences = sorted({each.confidence for each in told.choices})
    rates = sorted({each.max_false_alarms for each in told.choices})
    known = {(each.max_false_alarms, each.confidence): each for each in told.choices}
    return confidences, [Row(rate, [known[rate, each] for each in confidences]) for rate in rates]


def chart_of(told: Thresholds) -> Chart:
    """The chart: thresholds over rates, a line for each confidence."""
    confidences, rows = rows_of(told)
    across = Axis(rows[0].rate, rows[-1].rate, _LEFT, _RIGHT, logarithmic=True)
    own = told.version.threshold
    step = -(-len(told.good_scores) // _MOST_SCORES) or 1
    scores = told.good_scores[::step]
    up = axis([each.threshold for each in told.choices] + scores + ([] if own is None else [own]), _BOTTOM, _TOP)
    drawn = [number for number, each in enumerate(confidences) if each in _DRAWN]
    dots = [
        [Dot(across.at(row.rate), up.at(row.choices[number].threshold), row.choices[number].satisfied) for row in rows]
        for number in drawn
    ]
    labels = apart([each[-1].y for each in dots], _TEXT)
    return Chart(
        WIDTH,
        HEIGHT,
        _LEFT,
        _RIGHT,
        _TOP,
        _BOTTOM,
        rates=[Tick(across.at(row.rate), row.rate) for row in rows],
        values=ticks(up),
        lines=[
            Line(confidences[number], line([(each.x, each.y) for each in points]), points, label)
            for number, points, label in zip(drawn, dots, labels, strict=True)
        ],
        now=None if own is None else up.at(own),
        scores=[up.at(each) for each in scores],
    )
