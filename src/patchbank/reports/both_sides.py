"""Both sides of a threshold as one chart: for every score that could be the threshold, the share of good images over
it, and the share of defective images that are not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from patchbank.reports.distributions import WIDTH, Chart, Label, Line, ticks

_LEFT, _RIGHT, _TOP, _FLOOR = 56.0, WIDTH - 12.0, 18.0, 198.0
_STEPS = 160  # scores at which the shares are drawn


def both_sides(
    good: Sequence[float], defective: Sequence[float], threshold: float, review: float | None = None
) -> Chart | None:
    """good, defective: finite image scores of labelled images; None without both. threshold: the model's; review: the
    score over which an image is to be reviewed, None = none."""
    if not good or not defective:
        return None
    low, high = min(*good, *defective, threshold), max(*good, *defective, threshold)
    margin = 0.02 * (high - low) or 1.0
    low, high = low - margin, high + margin
    cuts = np.linspace(low, high, _STEPS)  # (S,) thresholds, ascending
    alarms = 1 - np.searchsorted(np.sort(good), cuts, side="right") / len(good)  # (S,) share over each
    misses = np.searchsorted(np.sort(defective), cuts, side="right") / len(defective)  # (S,) share not over it

    def x(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (value - low) / (high - low)

    def y(share: float) -> float:
        return _FLOOR - (_FLOOR - _TOP) * share

    lines = [Line("axis", _LEFT, y(share), _RIGHT, y(share)) for share in (0, 0.25, 0.5, 0.75, 1)]
    for kind, shares in (("normal", alarms), ("anomalous", misses)):
        points = list(zip(cuts.tolist(), shares.tolist(), strict=True))
        lines += [Line(kind, x(a), y(p), x(b), y(q)) for (a, p), (b, q) in pairwise(points)]
    labels = [Label("number", _LEFT - 6, y(share) + 4, f"{100 * share:g} %", "end") for share in (0, 0.5, 1)]
    labels += [Label("number", x(tick), _FLOOR + 16, f"{tick:g}", "middle") for tick in ticks(low, high)]
    for name, at in (("threshold", threshold), ("review", review)):
        if at is not None and low <= at <= high:
            lines.append(Line(name, x(at), 3, x(at), _FLOOR))
            labels.append(
                Label(
                    name,
                    x(at) + (6 if name == "threshold" else -6),
                    13,
                    name,
                    "start" if name == "threshold" else "end",
                )
            )
    over, under = sum(score > threshold for score in good), sum(score <= threshold for score in defective)
    described = (
        f"Shares of images for every threshold from {low:.4g} to {high:.4g}. At the threshold {threshold:.4g}: {over} "
        f"of {len(good)} good images are over it, {under} of {len(defective)} defective images are not."
    )
    return Chart(_FLOOR + 24, (), tuple(lines), tuple(labels), described)
