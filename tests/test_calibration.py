"""Thresholds: the order statistic, its limits, and by simulation that the false-alarm rate is kept."""

from __future__ import annotations

import numpy as np
import pytest

from patchbank.calibration import Calibration, order_statistic


@pytest.mark.parametrize(
    ("n", "rate", "expected"),
    [
        (99, 0.01, 99),
        (199, 0.01, 198),
        (100, 0.01, 100),
        (10, 0.01, 10),
        (9, 0.1, 9),
        (19, 0.1, 18),
        (5, 0.0, 5),
        (3, 0.5, 2),
    ],
)
def test_order_statistic_closed_form(n, rate, expected):
    scores = np.random.default_rng(0).permutation(np.arange(1, n + 1)).astype(np.float32)
    assert order_statistic(scores, rate) == expected


@pytest.mark.parametrize(("n", "rate"), [(99, 0.01), (40, 0.05), (200, 0.1)])
def test_a_further_normal_image_is_flagged_at_most_at_the_rate(n, rate):
    rng = np.random.default_rng(1)
    draws = rng.lognormal(size=(4000, n + 1)).astype(np.float32)
    flagged = np.mean([row[-1] > order_statistic(row[:-1], rate) for row in draws])
    assert flagged <= rate + 3 * np.sqrt(rate * (1 - rate) / 4000)
    assert flagged >= rate / 3  # and not by flagging nothing


def test_calibration_holds_both_thresholds():
    calibration = Calibration(
        np.array([1, 3, 2], np.float32), np.array([30, 10, 20], np.float32), ("a", "b", "c"), "holdout", 0.25
    )
    assert (calibration.threshold, calibration.pixel_threshold, calibration.finest_rate) == (3.0, 30.0, 0.25)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one score and one peak"):
        Calibration(np.zeros(2, np.float32), np.zeros(3, np.float32), ("a", "b"), "holdout", 0.1)
