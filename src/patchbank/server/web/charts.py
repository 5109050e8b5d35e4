"""Charts: from values to places in a drawing. Templates draw them as SVG, which needs no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Axis:
    """One side of a chart: values from `low` to `high` lie at `begin` to `end` of the drawing."""

    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The place of a value, to a tenth. Values outside lie at the edge."""
        low, high, value = (math.log(each) if self.logarithmic else each for each in (self.low, self.high, value))
        share = (min(max(value, low), high) - low) / (high - low)
        return round(self.begin + share * (self.end - self.begin), 1)


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of an axis: its place and its value."""

    at: float
    value: float


def axis(values: Sequence[float], begin: float, end: float, margin: float = 0.06) -> Axis:
    """An axis on which all values have room. With values that are all alike, and with none, it has a length, too."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = margin * (high - low) or 0.05 * abs(high) or 0.5
    return Axis(low - room, high + room, begin, end)


def ticks(scale: Axis, most: int = 5) -> list[Tick]:
    """Round values on a linear axis, at most so many and one more."""
    raw = (scale.high - scale.low) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * each for each in (1, 2, 2.5, 5, 10) if unit * each >= raw * (1 - 1e-9))
    numbers = range(math.ceil(scale.low / step), math.floor(scale.high / step) + 1)
    return [Tick(scale.at(number * step), round(number * step, 12)) for number in numbers]


def apart(places: Sequence[float], least: float) -> list[float]:
    """The places, moved so far down that each is at least so far from the one above it; in the order that they have."""
    found = list(places)
    last = -math.inf
    for number in sorted(range(len(found)), key=lambda each: found[each]):
        found[number] = last = max(found[number], last + least)
    return found


def line(points: Sequence[tuple[float, float]]) -> str:
    """The `points` of a polyline."""
    return " ".join(f"{x:g},{y:g}" for x, y in points)
