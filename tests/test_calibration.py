"""Thresholds: closed forms, exact probabilities as an oracle, and by simulation that the promises are kept."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, kstest

from parts import mottled
from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.calibration.thresholds import Calibration, percent, percent_up, rank, support, threshold_of
from patchbank.errors import ConfigError
from patchbank.scoring.scores import top_fraction_mean


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
def test_threshold_of_closed_form(n, rate, expected):
    scores = np.random.default_rng(0).permutation(np.arange(1, n + 1)).astype(np.float32)
    assert threshold_of(scores, rate) == expected


@pytest.mark.parametrize(("n", "rate"), [(99, 0.01), (40, 0.05), (200, 0.1)])
def test_a_further_normal_image_is_flagged_at_most_at_the_rate(n, rate):
    rng = np.random.default_rng(1)
    draws = rng.lognormal(size=(4000, n + 1)).astype(np.float32)
    flagged = np.mean([row[-1] > threshold_of(row[:-1], rate) for row in draws])
    assert flagged <= rate + 3 * np.sqrt(rate * (1 - rate) / 4000)
    assert flagged >= rate / 3  # and not by flagging nothing


def test_calibration_holds_both_thresholds():
    calibration = Calibration(
        np.array([1, 3, 2], np.float32), np.array([30, 10, 20], np.float32), ("a", "b", "c"), "holdout", 0.25
    )
    assert (calibration.threshold, calibration.pixel_threshold) == (3.0, 30.0)
    assert calibration.support.satisfied


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one score and one peak"):
        Calibration(np.zeros(2, np.float32), np.zeros(3, np.float32), ("a", "b"), "holdout", 0.1)


@pytest.mark.parametrize(
    ("n", "rate", "confidence", "k"),
    [
        (298, 0.01, 0.95, None),  # 0.99^298 = 0.0500..: just too few
        (299, 0.01, 0.95, 299),
        (473, 0.01, 0.95, 472),  # the second largest from 473 on (Wilks)
        (472, 0.01, 0.95, 472),
        (59, 0.05, 0.95, 59),
        (58, 0.05, 0.95, None),
        (22, 0.1, 0.9, 22),
        (5, 0.0, 0.95, None),
        (5, 0.5, 0.9, 5),
    ],
)
def test_tolerance_bounds_of_the_textbook(n, rate, confidence, k):
    assert rank(n, rate, confidence) == k


@given(n=st.integers(1, 3000), rate=st.floats(0.0005, 0.5), confidence=st.floats(0.5, 0.999))
def test_the_rank_is_the_smallest_that_keeps_the_promise(n, rate, confidence):
    """Oracle: the share of a continuous distribution above its k-th of n draws is Beta(n - k + 1, k)."""
    k = rank(n, rate, confidence)

    def kept(k):
        return beta.cdf(rate, n - k + 1, k)

    if k is None:
        assert kept(n) < confidence + 1e-9
    else:
        assert kept(k) >= confidence - 1e-9
        assert k == 1 or kept(k - 1) < confidence + 1e-9


@pytest.mark.parametrize("n", [10, 299, 5000, 60_000])
def test_large_numbers_do_not_underflow(n):
    for rate in (0.01, 0.5):
        k = rank(n, rate, 0.95)
        assert k is None or binom.cdf(n - k, n, rate) <= 0.05 + 1e-9


@pytest.mark.parametrize(("n", "rate", "confidence"), [(299, 0.01, 0.95), (100, 0.05, 0.9), (400, 0.02, 0.95)])
def test_the_promise_holds_with_the_stated_confidence(n, rate, confidence):
    """Over many draws of the good images, the true false-alarm rate is over the limit in at most 1 - c of them."""
    rng = np.random.default_rng(5)
    true_rates = [
        math.exp(-threshold_of(rng.exponential(size=n).astype(np.float32), rate, confidence)) for _ in range(3000)
    ]
    broken = np.mean(np.array(true_rates) > rate)
    assert broken <= 1 - confidence + 3 * math.sqrt(confidence * (1 - confidence) / 3000)
    assert broken > (1 - confidence) / 20  # and not by a threshold that nothing reaches


@pytest.mark.parametrize(("n", "rate", "confidence"), [(59, 0.05, 0.95), (150, 0.05, 0.8), (300, 0.1, 0.99)])
def test_the_true_rate_is_distributed_as_theory_says_and_ties_only_help(n, rate, confidence):
    """Scores are uniform, so each calibration's true rate is 1 - threshold: no estimate stands between."""
    rng, rounds = np.random.default_rng(2), 4000
    draws = rng.random((rounds, n)).astype(np.float32)
    true = np.array([1 - threshold_of(row, rate, confidence) for row in draws])
    k = rank(n, rate, confidence)
    assert kstest(true, beta(n - k + 1, k).cdf).pvalue > 1e-4
    tied = np.ceil(draws * 200).astype(np.float32) / 200  # 200 values; the true rate is the share strictly over one
    true = np.array([1 - threshold_of(row, rate, confidence) for row in tied])
    kept = np.mean(true <= rate + 1e-6)
    assert kept >= confidence - 4 * math.sqrt(confidence * (1 - confidence) / rounds)


def test_on_average_is_not_always():
    """Why a confidence is asked for by default: 37 of a hundred models with 99 images flag more than the 1 %."""
    rng = np.random.default_rng(3)
    true = np.array([1 - threshold_of(rng.random(99).astype(np.float32), 0.01) for _ in range(3000)])
    assert true.mean() == pytest.approx(0.01, abs=0.001)
    assert (true > 0.01).mean() == pytest.approx(0.99**99, abs=0.035)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_calibrations_are_finite(value):
    fine, bad = np.zeros(2, np.float32), np.array([0, value], np.float32)
    for scores, peaks in ((fine, bad), (bad, fine)):
        with pytest.raises(ValueError, match="finite"):
            Calibration(scores, peaks, ("a", "b"), "holdout", 0.1)


def test_support_says_what_the_images_are_worth():
    assert str(support(8, 0.01, 0.95)) == "8 good images support 32 % at 95 %; 1 % needs 299"  # 31.2: rounded up
    assert support(8, 0.01, 0.95).promise == "at most 32 % false alarms with 95 % confidence"
    assert support(299, 0.01, 0.95).promise == "at most 1 % false alarms with 95 % confidence"
    assert support(50, 0.01, 0.0).promise == "at most 2 % false alarms on average"
    assert str(support(120, 0.01, 0.95)) == "120 good images support 2.5 % at 95 %; 1 % needs 299"
    assert str(support(299, 0.01, 0.95)) == "299 good images support 1 % at 95 %"
    assert str(support(50, 0.01, 0.0)) == "50 good images support 2 % on average; 1 % needs 99"
    assert "any number" in str(support(50, 0.0, 0.95))


@given(st.floats(1e-6, 0.999))
def test_supported_rates_are_never_rounded_down(share):
    shown = float(percent_up(share).removesuffix(" %"))
    assert 100 * share * (1 - 1e-9) <= shown <= 100 * share * 1.1


def test_shares_that_were_asked_for_are_shown_as_given():
    assert [percent(share) for share in (0.07, 0.999, 0.005, 1e-4)] == ["7 %", "99.9 %", "0.5 %", "0.01 %"]


@given(
    n=st.integers(1, 2000),
    rate=st.integers(1, 490).map(lambda i: i / 1000 + 0.0003),  # away from rates where one image more or less is a tie
    confidence=st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99]),
)
def test_support_agrees_with_the_rank(n, rate, confidence):
    about = support(n, rate, confidence)
    assert about.kept == (rank(n, rate, confidence) is not None)
    assert rank(n, min(about.rate * 1.0001, 1.0), confidence) is not None
    assert support(about.needed, rate, confidence).kept
    assert about.needed == 1 or not support(about.needed - 1, rate, confidence).kept


def test_p_values_closed_form():
    calibration = Calibration(
        np.array([1, 2, 3, 4], np.float32), np.zeros(4, np.float32), tuple("abcd"), "holdout", 0.1
    )
    assert [calibration.p_value(s) for s in (5, 4, 3.5, 0)] == [0.2, 0.4, 0.4, 1.0]


def test_a_score_that_rounds_to_a_calibration_score_is_not_equal_to_it():
    """Scores are float64 and calibration scores float32: the p-value compares them as the verdict does, in float64,
    also under NumPy 1, which compares an array with a number in the array's type."""
    calibration = Calibration(np.array([1, 2, 3], np.float32), np.zeros(3, np.float32), tuple("abc"), "holdout", 0.25)
    assert calibration.threshold == 3
    assert [calibration.p_value(s) for s in (np.nextafter(3, 0), 3, np.nextafter(3, 9))] == [0.5, 0.5, 0.25]
    assert [calibration.p_value(s) for s in (float(np.nextafter(3, 9)), np.float32(3))] == [0.25, 0.5]


@pytest.mark.parametrize("confidence", [0.0, 0.8])
def test_p_value_and_verdict_never_disagree(rng, confidence):
    """Over the threshold is the same as a p-value of at most (n - k + 1) / (n + 1), also right beside the threshold."""
    n, rate = 60, 0.1
    scores = rng.lognormal(size=n).astype(np.float32)
    held = Calibration(scores, scores, ("x",) * n, "holdout", rate, confidence)
    k = rank(n, rate, confidence)
    near = np.float64(held.threshold)
    for score in (*rng.lognormal(size=200), near, np.nextafter(near, 9), np.nextafter(near, 0)):
        assert (score > held.threshold) == (held.p_value(float(score)) <= (n - k + 1) / (n + 1) + 1e-12)


def test_p_values_of_normal_images_are_not_too_small():
    rng = np.random.default_rng(2)
    draws = rng.lognormal(size=(4000, 20)).astype(np.float32)
    values = [Calibration(row[1:], row[1:], ("x",) * 19, "holdout", 0.1).p_value(float(row[0])) for row in draws]
    for level in (0.05, 0.1, 0.5):
        assert np.mean(np.array(values) <= level) == pytest.approx(level, abs=0.025)


@pytest.mark.parametrize(("rate", "confidence"), [(-0.1, 0.5), (1.5, 0.5), (0.1, 1.0), (0.1, -0.1), (float("nan"), 0)])
def test_impossible_promises(rate, confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Calibration(np.zeros(1, np.float32), np.zeros(1, np.float32), ("a",), "holdout", rate, confidence)


@pytest.fixture
def good(rng):
    return mottled(rng, 12)


@pytest.mark.parametrize("score", ["max", "top_fraction"])
def test_cross_fitting_is_a_fit_without_the_fold_and_never_kinder_than_the_bank(good, score):
    """Oracle: fit on the other folds' images, predict, and take each patch's larger distance to that bank and the final
    one."""
    shared = {"image_size": 64, "coreset_size": 40, "image_score": score, "top_fraction": 0.1, "score_smoothing": 0}
    config = Config(**shared, calibration="cross_fit", folds=3)
    model = PatchCore.fit(good, config, backbone=FakeBackbone())
    fold = (np.arange(12) % 3)[np.random.default_rng(0).permutation(12)]
    plain, raised = Config(**shared, calibration="none"), 0
    for number in range(3):
        others = PatchCore.fit(
            [g for g, f in zip(good, fold, strict=True) if f != number], plain, backbone=FakeBackbone()
        )
        for n in np.flatnonzero(fold == number):
            left_out, known = (each.predict(good[n]).patch_scores for each in (others, model))
            both = np.maximum(left_out, known)
            raised += (known > left_out).sum()
            expected = both.max() if score == "max" else top_fraction_mean(both, 0.1)
            assert model.calibration.scores[n] == pytest.approx(expected, rel=1e-6)
    assert raised > 0
    assert model.calibration.method == "cross_fit"


def test_a_gap_of_the_final_bank_raises_cross_fitted_scores(monkeypatch):
    """Why the final bank counts, too: every image shows the same rare patch, which the final coreset lacks and the
    folds' have. Each future image will score there, and the threshold must know it."""
    from patchbank.calibration import held_out as heldout
    from patchbank.features.embedding import CalibrationPatches, Patches
    from patchbank.features.extract import ImageStatistics
    from patchbank.search.searcher import ExactSearcher

    rng = np.random.default_rng(0)

    def image(number):
        features = rng.normal(0, 0.1, (16, 2)).astype(np.float32)
        features[5] += 10
        place = np.arange(16, dtype=np.int32)
        return CalibrationPatches(number, Patches(features, place, (4, 4), (32, 32), ImageStatistics(1.0, 0.5, 32, 32)))

    images = [image(number) for number in range(6)]
    vectors = images[0].patches.features[[0, 1]]  # not the sixth
    everything = lambda features, _: SimpleNamespace(indices=np.arange(len(features)))  # noqa: E731
    monkeypatch.setattr(heldout.coreset, "sample", everything)
    bank = SimpleNamespace(expected=None)
    config = Config(calibration="cross_fit", folds=3, image_score="max", smoothing_sigma=0, distance_scaling=0)
    held = list(heldout.score_cross_fitted(images, bank, ExactSearcher(vectors), config))
    assert min(each.score for each in held) > 13
    assert min(each.peak for each in held) > 10
    assert all(np.median(each.distances) < 1 for each in held)


def test_more_folds_than_images(good):
    config = Config(image_size=64, coreset_size=40, calibration="cross_fit", folds=100)
    assert len(PatchCore.fit(good, config, backbone=FakeBackbone()).calibration.scores) == 12


def test_cross_fitting_needs_all_patches_in_memory(good):
    from patchbank import Runtime

    config = Config(image_size=64, coreset_size=40, calibration="cross_fit")
    with pytest.raises(ConfigError, match="raise memory"):
        PatchCore.fit(good * 40, config, runtime=Runtime(memory="1MB"), backbone=FakeBackbone())


def test_results_carry_their_p_value(good):
    model = PatchCore.fit(good, Config(image_size=64, coreset_size=40), backbone=FakeBackbone())
    result = model.predict(good[0])
    assert result.p_value == model.calibration.p_value(result.score) == result.to_dict()["p_value"]
    plain = PatchCore.fit(good, Config(image_size=64, coreset_size=40, calibration="none"), backbone=FakeBackbone())
    assert plain.predict(good[0]).p_value is None


def test_cross_fitting_states_the_memory_that_it_needs(good):
    """The budget that the message names is enough: a copy of the patches is part of it."""
    import re

    from patchbank import Runtime

    config = Config(image_size=256, coreset_size=40, calibration="cross_fit", thumbnail_size=0)
    with pytest.raises(ConfigError, match="at least") as error:
        PatchCore.fit(good[:3], config, runtime=Runtime(memory="1MB"), backbone=FakeBackbone())
    needed = int(re.search(r"at least (\d+) MB", str(error.value))[1]) + 1
    PatchCore.fit(good[:3], config, runtime=Runtime(memory=f"{needed}MB"), backbone=FakeBackbone())
