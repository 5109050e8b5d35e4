"""A stream's scores as a chart shows them: few points, whatever the number of parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from patchbank.store.statistics import Score


@dataclass(frozen=True, slots=True)
class Point:
    """Some parts in a row. at, until: of the first and the last one. low, high: the 5 % and 95 % quantiles of their
    scores. ng, out_of_scene: how many of them."""

    at: datetime
    until: datetime
    n: int
    median: float
    low: float
    high: float
    ng: int
    out_of_scene: int


def points_of(scores: Sequence[Score], most: int) -> list[Point]:
    """At most so many points, each of about as many parts, the oldest first. Parts without a score are left out."""
    found = [each for each in scores if each.score is not None]
    size = max(1, -(-len(found) // most))
    return [_point(found[start : start + size]) for start in range(0, len(found), size)]


def _point(parts: Sequence[Score]) -> Point:
    low, median, high = np.quantile([each.score for each in parts if each.score is not None], (0.05, 0.5, 0.95))
    return Point(
        parts[0].at,
        parts[-1].at,
        len(parts),
        float(median),
        float(low),
        float(high),
        sum(each.verdict == "ng" for each in parts),
        sum(each.in_scene is False for each in parts),
    )
