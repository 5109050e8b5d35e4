"""A result as the store keeps it."""

from __future__ import annotations

import numpy as np

from patchbank import Result
from patchbank.store import heats
from patchbank.store.heats import Heat
from patchbank.store.inspections import MOST_REGIONS, Region


def heat_of(result: Result) -> Heat | None:
    """The distances that the anomaly map is made of, as they are kept; None if there are none to make a map of."""
    if not np.isfinite(result.distances).all():
        return None
    return heats.encode(result.distances, result.input_size, result.smoothing_sigma, result.counted)


def regions_of(result: Result) -> list[Region]:
    """The regions as they are kept: the worst 1 000."""
    return [
        Region(*each.box, each.area, *each.peak, each.peak_score, [[float(n) for n in each.contour.ravel()]])
        for each in result.regions[:MOST_REGIONS]
    ]
