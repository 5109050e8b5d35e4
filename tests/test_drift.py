"""Drift: exact bounds, bets that keep their promise, where a shift begins, and what is no drift."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from patchbank.calibration.thresholds import Calibration
from patchbank.errors import ConfigError
from patchbank.monitoring.drift import begin_of_shift, exceedance_bound, find_drift, log_capital


def calibration_of(scores):
    scores = np.asarray(scores, np.float32)
    return Calibration(scores, scores, tuple(map(str, range(len(scores)))), "holdout", 0.01, 0.95)


def normal(rng, n=200):
    return calibration_of(rng.normal(10, 1, n))


@pytest.mark.parametrize(("n", "k", "error"), [(10, 10, 0.05), (200, 100, 0.0025), (209, 208, 0.005), (50, 1, 0.01)])
def test_bounds_are_clopper_and_pearson_s(n, k, error):
    scores = np.random.default_rng(0).permutation(n)
    expected = stats.beta.ppf(1 - error, n - k + 1, k)
    assert exceedance_bound(scores, float(np.sort(scores)[k - 1]), error) == pytest.approx(expected, rel=1e-6)


def test_a_bound_over_all_scores():
    """None of n images over the cut: (1 - bound)^n = error."""
    assert exceedance_bound(np.arange(30), 29, 0.01) == pytest.approx(1 - 0.01 ** (1 / 30), rel=1e-6)


def brute_capital(answers, bound, alternatives):
    """The mixture over alternatives and beginnings, image by image, without logarithms."""
    weights = [1 / (2.12 * (k + 2) * math.log(k + 2) ** 2) for k in range(len(answers))]
    total = 1 - sum(weights)
    for q in alternatives:
        for k, weight in enumerate(weights):
            capital = weight
            for answer in answers[k:]:
                capital *= q / bound if answer else (1 - q) / (1 - bound)
            total += capital / len(alternatives)
    return total


@settings(max_examples=40, deadline=None)
@given(answers=st.lists(st.booleans(), min_size=1, max_size=25), bound=st.floats(0.02, 0.95))
def test_the_capital_is_what_its_definition_says(answers, bound):
    from patchbank.monitoring.drift import alternatives

    expected = brute_capital(answers, bound, alternatives(bound))
    assert math.exp(log_capital(np.array(answers), bound)[-1]) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(bound=st.floats(0.01, 0.98), share=st.floats(0, 1), n=st.integers(1, 9))
def test_the_bet_is_fair_at_the_bound_and_loses_below(bound, share, n):
    """The expectation of the capital over all 2^n streams: 1 at the bound, at most 1 below."""
    p, expected = bound * share, {"at": 0.0, "below": 0.0}
    for code in range(2**n):
        answers = np.array([code >> i & 1 for i in range(n)], np.bool_)
        capital = math.exp(log_capital(answers, bound)[-1])
        yes = int(answers.sum())
        expected["at"] += capital * bound**yes * (1 - bound) ** (n - yes)
        expected["below"] += capital * p**yes * (1 - p) ** (n - yes)
    assert expected["at"] == pytest.approx(1, rel=1e-9)
    assert expected["below"] <= 1 + 1e-9


@pytest.mark.parametrize("n", [20, 200])
def test_silent_without_drift_though_some_parts_are_defective(n):
    """At confidence 0.8, over calibrations and streams: well under 20 % of streams of 2 000 images, of which 10 % are
    defective, give an alarm of the level; and as few of good images alone one of the flagged."""
    rng, alarms = np.random.default_rng(3), {"level": 0, "start": 0, "flagged": 0}
    for _ in range(60):
        known = normal(rng, n)
        left_out = dataclasses.replace(known, method="leave_one_out")
        good = rng.normal(10, 1, 2000)
        mixed = np.where(rng.random(2000) < 0.1, good + 8, good)
        alarms["level"] += find_drift(mixed, known, confidence=0.8).level.found
        alarms["start"] += find_drift(mixed, left_out, confidence=0.8).level.found
        alarms["flagged"] += find_drift(good, known, confidence=0.8).flagged.found
    assert max(alarms.values()) <= 12


@pytest.mark.parametrize("move", [1.5, -1.5, 5])
def test_a_shift_is_found_with_its_place_and_direction(move):
    rng = np.random.default_rng(5)
    begins = []
    for _ in range(20):
        scores = rng.normal(10, 1, 500)
        scores[300:] += move
        drift = find_drift(scores, normal(rng))
        assert drift.found
        assert drift.level.direction == ("up" if move > 0 else "down")
        assert 300 < drift.level.detected < 420
        assert drift.level.stop > 450
        assert all(drift.level.start <= n < drift.level.stop for n in drift.level.showing)
        begins.append(drift.level.start)
    assert abs(np.median(begins) - 300) <= 5
    assert max(abs(np.array(begins) - 300)) <= 60


def test_a_shift_that_has_passed_is_still_reported(rng):
    scores = rng.normal(10, 1, 900)
    scores[200:300] += 4
    level = find_drift(scores, normal(rng)).level
    assert level.found
    assert (level.start, level.stop) == pytest.approx((200, 300), abs=4)


def test_defects_are_no_drift(rng):
    """A tenth of the parts becomes defective: flagged, and the advice says so; the level stays."""
    scores = rng.normal(10, 1, 600)
    bad = np.flatnonzero(rng.random(600) < 0.1)
    bad = bad[bad >= 200]
    scores[bad] += 30
    drift = find_drift(scores, normal(rng))
    assert not drift.found
    assert not drift.level.found
    assert drift.flagged.found
    assert set(bad) <= set(drift.flagged.showing) | set(range(drift.flagged.start)) | set(
        range(drift.flagged.stop, 600)
    )
    assert abs(drift.flagged.start - 200) < 40
    assert "defective parts" in drift.advice[0]


def test_the_share_of_defects_is_a_choice(rng):
    scores = np.where(rng.random(1500) < 0.5, 40, rng.normal(10, 1, 1500))
    known = normal(rng, 500)
    assert find_drift(scores, known, defects=0.1).level.found
    assert not find_drift(scores, known, defects=0.6).level.found


def test_the_scene_is_watched_where_the_results_have_it(rng):
    from patchbank.calibration.image_check import MEASURES, ImageCheck

    n, scores = 120, rng.normal(10, 1, 400)
    scene = ImageCheck(
        np.ones((n, len(MEASURES)), np.float32),
        np.linspace(0, 2, n, dtype=np.float32),
        np.zeros((n, 1, 1), np.float32),
        np.zeros(1, np.int32),
        np.zeros((4, 1), np.float32),
        0.01,
    )
    known = [None if number % 2 else not (number >= 250 and number % 3) for number in range(400)]
    drift = find_drift(scores, normal(rng), in_scene=known, scene=scene)
    assert drift.scene.images == 200
    assert drift.found
    assert not drift.level.found
    assert 250 <= drift.scene.start <= 256
    assert all(known[number] is False for number in drift.scene.showing)
    assert "scene" in drift.advice[0]
    for untold in ([None] * 400, ()):
        assert find_drift(scores, normal(rng), in_scene=untold, scene=scene).scene is None
    assert find_drift(scores, normal(rng), in_scene=known).scene is None


def test_left_out_scores_are_too_high_and_that_is_no_drift():
    """A stream that lies under the median of leave-one-out scores is silent; a fall within it is found all the same."""
    rng, known = np.random.default_rng(11), normal(np.random.default_rng(1))
    left_out = dataclasses.replace(known, method="leave_one_out")
    stream = rng.normal(8, 1, 800)
    assert find_drift(stream, known).level.found
    assert not find_drift(stream, left_out).level.found
    assert find_drift(stream + 5, left_out, reference=0).level.found
    stream[400:] -= 2
    level = find_drift(stream, left_out).level
    assert (level.found, level.direction, level.reference) == (True, "down", "start")
    assert abs(level.start - 400) <= 10
    assert not find_drift(stream, left_out, reference=0).level.found


def test_the_first_images_are_a_reference_only(rng):
    """They are compared with nothing but the calibration, and where they are few, nothing is compared with them."""
    stream = np.concatenate([rng.normal(7, 1, 100), rng.normal(8, 1, 19)])
    assert not find_drift(stream[:39], dataclasses.replace(normal(rng), method="leave_one_out")).level.found
    level = find_drift(np.r_[stream[:100], rng.normal(12, 1, 300)], normal(rng), reference=100).level
    assert level.start >= 100 or level.reference == "calibration"


def test_begin_of_shift_is_the_brute_force_maximum(rng):
    from patchbank.monitoring.drift import alternatives

    answers = rng.random(60) < np.where(np.arange(60) < 35, 0.3, 0.9)
    likely = max(
        (sum(math.log(q / 0.4 if a else (1 - q) / 0.6) for a in answers[k:]), -k)
        for q in alternatives(0.4)
        for k in range(60)
    )
    assert begin_of_shift(answers, 0.4) == -likely[1]


def test_short_streams_and_few_normal_images(rng):
    assert not find_drift([], normal(rng)).found
    assert not find_drift([12.0], normal(rng)).found
    assert not find_drift([10, 1000] * 3, calibration_of([10.0])).found
    assert find_drift([1000.0] * 3000, calibration_of([9.0, 10.0, 11.0, 12.0])).level.found


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ([1.0, float("nan")], {}, "finite"),
        ([[1.0]], {}, "list of finite scores"),
        ([1.0], {"confidence": 1.0}, "confidence"),
        ([1.0], {"confidence": 0.2}, "confidence"),
        ([1.0], {"defects": -0.1}, "defects"),
        ([1.0], {"defects": 0.9}, "defects"),
        ([1.0], {"reference": -1}, "reference"),
        ([1.0], {"in_scene": [True, False]}, "in_scene for 1"),
    ],
)
def test_impossible_values(rng, scores, options, message):
    with pytest.raises(ConfigError, match=message):
        find_drift(scores, normal(rng), **options)
