"""The chart of both sides of a threshold: shares by hand, and what it says to those who do not see it."""

from __future__ import annotations

import pytest

from patchbank.reports.both_sides import both_sides


def at(chart, kind, score, low, high):
    """The share that a curve shows at a score."""
    where = 56 + (800 - 12 - 56) * (score - low) / (high - low)
    (line,) = [each for each in chart.lines if each.kind == kind and each.x0 <= where < each.x1]
    return (198 - line.y0) / 180


def test_shares_are_those_counted_by_hand():
    good, defective = [1.0, 2.0, 3.0, 4.0], [2.5, 5.0]
    chart = both_sides(good, defective, 3.5, review=2.2)
    low, high = 1 - 0.08, 5 + 0.08
    assert at(chart, "normal", 1.5, low, high) == pytest.approx(0.75)
    assert at(chart, "normal", 4.5, low, high) == pytest.approx(0)
    assert at(chart, "anomalous", 2.0, low, high) == pytest.approx(0)
    assert at(chart, "anomalous", 4.0, low, high) == pytest.approx(0.5)
    assert "At the threshold 3.5: 1 of 4 good images are over it, 1 of 2 defective images are not." in chart.described
    assert {label.words for label in chart.labels} >= {"threshold", "review", "0 %", "50 %", "100 %"}


def test_there_is_no_chart_of_one_side():
    assert both_sides([1.0], [], 1.0) is None
    assert both_sides([], [1.0], 1.0) is None


def test_scores_that_are_all_the_same_have_a_chart():
    assert both_sides([1.0], [1.0], 1.0) is not None
