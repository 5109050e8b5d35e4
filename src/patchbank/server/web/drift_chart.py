"""The chart of a stream's scores over time: medians, the range of most scores, thresholds, deployments, shifts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from patchbank.server.api.drift import Series
from patchbank.server.api.shown import Model
from patchbank.server.web.charts import Axis, Tick, axis, line, ticks

WIDTH, HEIGHT = 860, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 844, 40, 290
_TIMES = 4  # marks below
_BRIEF = timedelta(minutes=10)
_LEAST_WIDTH = 3.0  # of a shift
_ROWS = 2  # deployments' names stand in turn, so that neighbours do not hide each other
_ROW = 15


@dataclass(frozen=True, slots=True)
class Moment:
    """A mark of the time axis."""

    x: float
    at: datetime
    end: bool


@dataclass(frozen=True, slots=True)
class Began:
    """A deployment: where it begins, and the height of its name."""

    x: float
    y: float
    model: Model | None


@dataclass(frozen=True, slots=True)
class Span:
    """From left to right; y: the height of a threshold."""

    x: float
    width: float
    y: float = 0.0


@dataclass(frozen=True, slots=True)
class Chart:
    """Everything that the template draws. brief: so short a time that seconds matter."""

    brief: bool
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    values: list[Tick]
    times: list[Moment]
    band: str
    medians: str
    dots: list[tuple[float, float]]
    thresholds: list[Span]
    began: list[Began]
    shifts: list[Span]


def chart_of(series: Series) -> Chart | None:
    """The chart; None without a score."""
    points = series.points
    if not points:
        return None
    begin, end = points[0].at, max(points[-1].until, points[0].at + timedelta(seconds=1))
    across = Axis(begin.timestamp(), end.timestamp(), _LEFT, _RIGHT)
    steps = [each.threshold for each in series.deployments if each.threshold is not None]
    up = axis([value for each in points for value in (each.low, each.high)] + steps, _BOTTOM, _TOP)

    def place(at: datetime) -> float:
        return across.at(at.timestamp())

    middles = [place(each.at + (each.until - each.at) / 2) for each in points]
    medians = [(x, up.at(each.median)) for x, each in zip(middles, points, strict=True)]
    lows = [(x, up.at(each.low)) for x, each in zip(middles, points, strict=True)]
    highs = [(x, up.at(each.high)) for x, each in zip(middles, points, strict=True)]
    return Chart(
        end - begin < _BRIEF,
        WIDTH,
        HEIGHT,
        _LEFT,
        _RIGHT,
        _TOP,
        _BOTTOM,
        values=ticks(up),
        times=[
            Moment(round(_LEFT + share * (_RIGHT - _LEFT), 1), begin + share * (end - begin), share == 1)
            for share in (each / _TIMES for each in range(_TIMES + 1))
        ],
        band=line(highs + lows[::-1]),
        medians=line(medians),
        dots=medians,
        thresholds=list(_thresholds(series, across, up)),
        began=[
            Began(place(each.at), _TOP - 8 - _ROW * (number % _ROWS), each.model)
            for number, each in enumerate(series.deployments)
        ],
        shifts=[_span(place(each.since), place(each.until or end)) for each in series.shifts if each.since is not None],
    )


def _thresholds(series: Series, across: Axis, up: Axis) -> Iterator[Span]:
    """Each threshold from its deployment to the next one."""
    steps = series.deployments
    begins = [across.at(each.at.timestamp()) for each in steps]
    for step, left, right in zip(steps, begins, [*begins[1:], float(_RIGHT)], strict=False):
        if step.threshold is not None:
            yield Span(left, round(right - left, 1), up.at(step.threshold))


def _span(left: float, right: float) -> Span:
    return Span(left, max(_LEAST_WIDTH, round(right - left, 1)))
