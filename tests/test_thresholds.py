"""benchmarks/thresholds.py: that it measures what it says, and, in brief, what it measures on real images."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.calibration.thresholds import rank, support

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def thresholds():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("benchmark_of_thresholds", BENCHMARKS / "thresholds.py")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize(("n", "k", "m", "rate"), [(4, 4, 3, 0.34), (4, 3, 3, 0.0), (3, 1, 5, 0.6), (5, 5, 2, 0.5)])
def test_what_exchangeable_scores_do_is_counted_right(thresholds, n, k, m, rate):
    """Oracle: every way to deal n + m distinct scores into calibration and new."""
    deals = list(itertools.combinations(range(n + m), n))
    over = [sum(new > held[k - 1] for new in set(range(n + m)) - set(held)) for held in deals]
    expected = np.mean(np.array(over) > rate * m)
    assert thresholds.exchangeable_exceeded(n, k, m, rate) == pytest.approx(expected)


def test_many_new_images_are_the_promise_itself(thresholds):
    """With ever more new images the share of broken promises comes under 1 - confidence."""
    for n, rate, confidence in ((60, 0.05, 0.95), (300, 0.01, 0.95), (100, 0.1, 0.9)):
        k = rank(n, rate, confidence)
        assert thresholds.exchangeable_exceeded(n, k, 20_000, rate) <= (1 - confidence) * 1.01
        assert thresholds.exchangeable_exceeded(n, k - 1, 20_000, rate) > 1 - confidence


@pytest.mark.parametrize("method", ["leave_one_out", "cross_fit"])
def test_it_calibrates_as_fit_does_and_scores_as_predict_does(thresholds, rng, method):
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(14)]
    config = Config(image_size=64, coreset_size=30, thumbnail_size=0, calibration=method, folds=3)
    model = PatchCore.fit(images[:10], config, backbone=FakeBackbone())
    patches = [model._describe(image) for image in images]
    found = thresholds.scored(patches[:10], patches[10:], model.config, (method,))
    np.testing.assert_array_equal(found[method].scores, model.calibration.scores)
    np.testing.assert_array_equal(found[method].peaks, model.calibration.peaks)
    results = model.predict(images[10:])
    np.testing.assert_array_equal(found["new"].scores, np.float32([result.score for result in results]))
    np.testing.assert_allclose(found["new"].peaks, [result.anomaly_map.max() for result in results], rtol=1e-6)


@pytest.mark.realdata
def test_promises_on_random_splits_of_real_bottles(thresholds, data_root, monkeypatch):
    """Few splits, so wide margins: they find a calibration that is plainly too kind, or one that flags nothing."""
    monkeypatch.setattr(thresholds, "BANKS", 1)
    train, test = thresholds.good_images("bottle")
    pool, config = thresholds.features_of(
        [*train, *test], dataclasses.replace(thresholds.CONFIG, image_size=96, coreset_ratio=0.05)
    )
    rows = {row["calibration"]: row for row in thresholds.measure("bottle", pool, config, splits=3)}
    for told in rows["holdout"]["promises"]:
        assert told["mean_rate"] == pytest.approx(told["exchangeable_mean"], abs=0.02)
        assert told["exceeded"] == pytest.approx(told["exchangeable_exceeded"], abs=0.12)
    for method in ("leave_one_out", "cross_fit"):
        for told in rows[method]["promises"]:
            assert told["mean_rate"] <= told["max_false_alarms"] + 0.05, (method, told)
        for level in rows[method]["p_values"]:
            assert level["share"] <= level["level"] + 0.03, (method, level)
    assert max(told["mean_rate"] for told in rows["cross_fit"]["promises"]) > 0.01


@pytest.mark.parametrize("confidence", [0.0, 0.5, 0.95])
def test_a_rate_next_to_nothing_needs_more_images_than_there_are(confidence):
    """Found by the fuzzer: 1 / 1e-320 is infinite, and no number of images."""
    assert support(10, 1e-320, confidence).needed is None
    assert support(10, 1e-300, confidence).needed > 1e299
