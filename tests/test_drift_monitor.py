"""Drift, image by image: the findings of `find_drift` on all images so far, from a state that does not grow."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parts import striped
from patchbank import Config, ConfigError, DriftMonitor, PatchCore, find_drift
from patchbank.backbones.fake import FakeBackbone
from patchbank.calibration.thresholds import Calibration


def calibration_of(rng, n=200, method="holdout"):
    scores = rng.normal(10, 1, n).astype(np.float32)
    return Calibration(scores, scores, tuple(map(str, range(n))), method, 0.05, 0.9)


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    config = Config(image_size=64, coreset_ratio=0.3, thumbnail_size=0)
    return PatchCore.fit([striped(rng) for _ in range(30)], config, backbone=FakeBackbone())


def same(found, expected):
    """All but `showing`, which would grow with the stream; numbers but for the last bits."""
    assert (found.images, found.found, found.advice) == (expected.images, expected.found, expected.advice)
    for a, b in ((found.level, expected.level), (found.flagged, expected.flagged), (found.scene, expected.scene)):
        assert (a is None) == (b is None)
        if a and b:
            for name in dataclasses.asdict(a).keys() - {"showing", "evidence", "share", "limit", "bound"}:
                assert getattr(a, name) == getattr(b, name), name
            assert [a.evidence, a.share, a.limit, a.bound] == pytest.approx(
                [b.evidence, b.share, b.limit, b.bound], rel=1e-9
            )
            assert a.showing == ()


def streams(rng, n):
    """Scores that stay, rise, fall, rise and come back, and many defects."""
    normal = rng.normal(10, 1, n)
    half = np.arange(n) >= n // 2
    return {
        "as ever": normal,
        "higher": normal + 1.5 * half,
        "lower": normal - 1.5 * half,
        "from the first image on": normal + 3,
        "for a while": normal + 2 * (half & (np.arange(n) < 3 * n // 4)),
        "defects": np.where(rng.random(n) < 0.3 * half, 30, normal),
        "the same picture": np.full(n, 10.0),
    }


@pytest.mark.parametrize("reference", [0, 10, 25])
@pytest.mark.parametrize("method", ["leave_one_out", "holdout"])
def test_the_findings_after_every_image_are_those_of_the_whole_stream(rng, method, reference):
    calibration = calibration_of(rng, method=method)
    for name, scores in streams(rng, 160).items():
        monitor = DriftMonitor(calibration, confidence=0.95, reference=reference)
        for number, score in enumerate(scores.tolist(), start=1):
            found = monitor.add(score)
            if number % 19 == 0 or number > 158 or number in (1, 2 * reference - 1, 2 * reference, 2 * reference + 1):
                expected = find_drift(scores[:number], calibration, confidence=0.95, reference=reference)
                same(found, expected)
        assert found.level.found == (name in ("higher", "lower", "from the first image on", "for a while")) or (
            name in ("the same picture", "defects") or method == "leave_one_out"
        )


def test_the_scene_counts_only_images_whose_distribution_is_known(model, rng):
    """Their numbers are those of the whole stream."""
    scores = rng.normal(float(np.median(model.calibration.scores)), 0.01, 120).tolist()
    known = [None if number % 3 == 0 else number < 60 for number in range(120)]
    monitor = DriftMonitor(model.calibration, scene=model.scene, reference=20)
    for number, (score, inside) in enumerate(zip(scores, known, strict=True), start=1):
        found = monitor.add(score, inside)
        expected = find_drift(
            scores[:number], model.calibration, in_scene=known[:number], scene=model.scene, reference=20
        )
        same(found, expected)
    assert found.scene.found
    assert found.scene.start in (61, 62)
    assert "out of distribution" in found.advice[0]


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 119), max_size=4), reference=st.sampled_from([0, 20, 30])
)
def test_a_state_that_went_through_json_goes_on_as_if_nothing_had_happened(seed, cuts, reference):
    rng = np.random.default_rng(seed)
    calibration = calibration_of(rng, 60)
    scores = (rng.normal(10, 1, 120) + 2 * (np.arange(120) > 70)).tolist()
    plain = restored = DriftMonitor(calibration, reference=reference)
    plain = DriftMonitor(calibration, reference=reference)
    for number, score in enumerate(scores):
        if number in cuts:
            restored = DriftMonitor.from_dict(json.loads(json.dumps(restored.to_dict(), allow_nan=False)), calibration)
        assert restored.add(score) == plain.add(score)
    assert restored.to_dict() == plain.to_dict()
    assert restored.images == 120


def test_the_state_does_not_grow_with_the_stream(rng):
    calibration = calibration_of(rng)
    monitor = DriftMonitor(calibration)
    sizes = []
    for number, score in enumerate(rng.normal(10, 1, 1000).tolist(), start=1):
        monitor.add(score)
        if number in (200, 400, 1000):
            sizes.append(len(json.dumps(monitor.to_dict())))
    assert max(sizes) < 12_000
    assert max(sizes) < 1.1 * min(sizes)
    assert monitor._early is None


def test_a_shift_stays_found_and_says_since_when(rng):
    calibration = calibration_of(rng)
    monitor = DriftMonitor(calibration)
    for score in rng.normal(10, 1, 300).tolist():
        assert not monitor.add(score).found
    for score in rng.normal(12, 1, 100).tolist():
        monitor.add(score)
    assert monitor.drift.found
    assert 295 <= monitor.drift.level.start <= 305
    assert 300 <= monitor.drift.level.detected <= 350
    assert "check lighting" in monitor.drift.advice[0]


def test_before_the_first_image_nothing_is_found(rng):
    for reference in (0, 100):
        found = DriftMonitor(calibration_of(rng), reference=reference).drift
        assert (found.images, found.found, found.advice) == (0, False, ("nothing to do",))


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 1e39])
def test_a_score_that_is_none_is_refused_and_changes_nothing(rng, score):
    monitor = DriftMonitor(calibration_of(rng))
    before = copy.deepcopy(monitor.to_dict())
    with pytest.raises(ConfigError, match="finite"):
        monitor.add(score)
    with pytest.raises(ConfigError, match="in_distribution"):
        monitor.add(1.0, "yes")
    assert monitor.to_dict() == before


def test_several_at_once_are_as_one_after_another(rng):
    """Also across the image from which on all runs forward; a bad one among them changes nothing."""
    calibration, scores = calibration_of(rng), [(float(each), None) for each in rng.normal(10, 1, 50)]
    alone, together = (DriftMonitor(calibration, reference=20) for _ in range(2))
    for score, known in scores:
        alone.add(score, known)
    found = together.extend(scores)
    assert together.to_dict() == alone.to_dict()
    same(found, alone.drift)
    with pytest.raises(ConfigError, match="finite"):
        together.extend([(1.0, None), (float("nan"), None)])
    assert together.images == 50


@pytest.mark.parametrize("options", [{"confidence": 1}, {"defects": -1}, {"reference": -1}, {"reference": 10**6}])
def test_impossible_options_are_refused(rng, options):
    with pytest.raises(ConfigError):
        DriftMonitor(calibration_of(rng), **options)


def test_the_state_of_another_version_is_refused(model, rng):
    """Its scores mean something else."""
    monitor = DriftMonitor(model.calibration, scene=model.scene)
    monitor.add(1.0, True)
    changed = model.with_threshold(max_false_alarms=0.3, confidence=0)
    for calibration, scene in ((changed.calibration, model.scene), (model.calibration, None)):
        with pytest.raises(ConfigError, match="another"):
            DriftMonitor.from_dict(monitor.to_dict(), calibration, scene=scene)
    assert DriftMonitor.from_dict(monitor.to_dict(), model.calibration, scene=model.scene).drift == monitor.drift


def leaves(value, way=()):
    """The places of all values in a JSON value."""
    yield way
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*way, key))
    elif isinstance(value, list):
        for place in range(min(len(value), 2)):
            yield from leaves(value[place], (*way, place))


@pytest.mark.parametrize("images", [5, 60])
def test_a_damaged_state_is_refused_or_harmless(rng, images):
    """It comes from a data base: whatever stands there, only our own exceptions are raised."""
    calibration = calibration_of(rng)
    monitor = DriftMonitor(calibration, reference=20)
    for score in rng.normal(10, 1, images).tolist():
        monitor.add(score)
    state = json.loads(json.dumps(monitor.to_dict()))
    refused = 0
    for way in leaves(state):
        for value in (None, "x", -1, 1e400, float("nan"), [], {}, 10**30):
            damaged = copy.deepcopy(state)
            inner = {"state": damaged}
            for key in ("state", *way)[:-1]:
                inner = inner[key]
            inner[("state", *way)[-1]] = value
            try:
                DriftMonitor.from_dict(damaged if way else value, calibration).add(10.0)
            except ConfigError:
                refused += 1
    assert refused > 50


def test_a_real_stream_is_judged_as_by_the_command(data_root):
    """Good bottles, and then ones with less light."""
    paths = sorted((data_root / "bottle" / "train" / "good").iterdir())
    model = PatchCore.fit(paths[:30], Config(image_size=128))
    monitor, scores, known = DriftMonitor(model.calibration, scene=model.scene, reference=20), [], []
    for number, path in enumerate(paths[30:80]):
        from patchbank.imaging.images import read_image

        image = read_image(path)
        result = model.predict(image if number < 30 else (image * 0.6).astype(np.uint8))
        scores.append(result.score)
        known.append(result.in_distribution)
        found = monitor.add(result.score, result.in_distribution)
        if number % 10 == 9:
            same(
                found,
                find_drift(scores, model.calibration, in_scene=known, scene=model.scene, reference=20),
            )
    assert found.found
