"""Expected distances: what normal patches that look alike are held against, and the sample that it is learned from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.errors import ModelFileError
from patchbank.features.embedding import ImageStatistics, Patches
from patchbank.model_file.archive import ModelFile, tensor_bytes, write
from patchbank.model_file.contents import packed
from patchbank.scoring.expected_distance import FLOOR, FOLDS, ODD, RANGE, Reservoir, Sample, expected_distance
from patchbank.scoring.scores import ExpectedDistance
from patchbank.search.exact import ExactSearcher
from patchbank.update.learning import NewImage, learn

SMALL = Config(image_size=64, coreset_ratio=0.3, smoothing_sigma=0.5, thumbnail_size=0)


def two_surfaces(rng, images=60, each=40, rougher=1.4):
    """Patches of a smooth surface (first feature 0) and of one that varies more (first feature 10)."""
    rough = np.arange(images * each) % 2 == 1
    noise = rng.normal(0, 1, (images * each, 2)).astype(np.float32) * np.where(rough, rougher, 1.0)[:, None]
    features = np.column_stack([np.where(rough, 30, 0), noise]).astype(np.float32)
    return Sample(features, np.repeat(np.arange(images), each).astype(np.int32)), rough


def rough_against_smooth(values, rough):
    """Ratio of the geometric means."""
    return np.exp(np.log(values[rough]).mean() - np.log(values[~rough]).mean())


def test_rough_and_smooth_normal_patches_become_comparable(rng):
    """In full, what the rough surface is farther away is divided out, but for the ridge penalty's share; by half, its
    square root is left."""
    sample, _ = two_surfaces(rng)
    searcher = ExactSearcher(sample.features)
    new, rough = two_surfaces(rng)
    distances = searcher.search(new.features, 1)[0][:, 0]
    ratio = rough_against_smooth(distances, rough)
    assert ratio > 1.25
    for power, left in ((0.0, ratio), (0.5, ratio**0.55), (1.0, ratio**0.1)):
        expected = expected_distance(sample.features, sample.image, searcher, sample, power)
        scaled = expected.scaled(distances, new.features)
        assert rough_against_smooth(scaled, rough) == pytest.approx(left, rel=0.03)


def test_no_prediction_is_far_from_the_mean(rng):
    """However much farther a surface is: few images, or defects among them, must not talk a defect away."""
    sample, rough = two_surfaces(rng, rougher=100.0)
    expected = expected_distance(sample.features, sample.image, ExactSearcher(sample.features), sample, 0.5)
    assert np.abs(expected(sample.features)).max() == pytest.approx(RANGE)
    assert (expected(sample.features[rough]) > 0).all()


def test_a_few_defects_teach_nothing(rng):
    """Distances beyond the largest hundredth count as that: however far they are, the same is learned."""
    sample, _ = two_surfaces(rng)
    models = []
    for far in (50, 5000):
        features = sample.features.copy()
        features[:10, 2] += far * np.arange(1, 11)
        models.append(
            expected_distance(
                sample.features, sample.image, ExactSearcher(sample.features), Sample(features, sample.image), 0.5
            )
        )
    usual = sample.features[100:]
    assert np.abs(models[0](usual) - models[1](usual)).max() < 0.1


def test_the_prediction_is_a_clipped_linear_function():
    expected = ExpectedDistance(np.array([1, -2], np.float32), 0.5, -1.0, 2.0, 0.5)
    features = np.array([[0, 0], [1, 0], [0, 1], [9, 0]], np.float32)
    np.testing.assert_allclose(expected(features), [0.5, 1.5, -1.0, 2.0])
    scaled = expected.scaled(np.array([1, 1, 1, 3], np.float32), features)
    np.testing.assert_allclose(scaled, np.array([1, 1, 1, 3]) * np.exp([-0.25, -0.75, 0.5, -1.0]), rtol=1e-6)


def test_it_is_learned_from_other_images_vectors_only(rng):
    """By brute force: every patch is a bank vector, at distance 0 of itself, and still counts with its distance to the
    nearest of another image."""
    image = np.repeat(np.arange(6), 50).astype(np.int32)
    features = rng.normal(0, 1, (300, 4)).astype(np.float32)
    found = expected_distance(features, image, ExactSearcher(features), Sample(features, image), 1.0)
    apart = np.linalg.norm(features[:, None].astype(float) - features, axis=2)
    apart[image[:, None] == image] = np.inf
    distances = apart.min(axis=1)
    distances = np.minimum(distances, np.quantile(distances, 1 - ODD))
    logs = np.log(np.maximum(distances / distances.mean(), FLOOR))
    assert found(features).mean() == pytest.approx(0, abs=0.02)  # but for what is clipped
    centred = features - features.mean(axis=0)
    gram = centred.T @ centred / 300 + 0.1 * np.diag(centred.var(axis=0))
    np.testing.assert_allclose(found.slope, np.linalg.solve(gram, centred.T @ logs / 300), rtol=1e-3, atol=1e-4)


def test_nothing_to_learn(rng):
    """One image, or patches that are all alike: distances stay what they are."""
    features = rng.normal(0, 1, (10, 3)).astype(np.float32)
    one = np.zeros(10, np.int32)
    assert expected_distance(features, one, ExactSearcher(features), Sample(features, one), 0.5) is None
    alike, two = np.ones((10, 3), np.float32), np.arange(10, dtype=np.int32) % 2
    assert expected_distance(alike, two, ExactSearcher(alike), Sample(alike, two), 0.5) is None


def test_features_that_never_change_do_no_harm(rng):
    features = rng.normal(0, 1, (60, 3)).astype(np.float32)
    features[:, 1] = 7
    image = np.arange(60, dtype=np.int32) % 4
    expected = expected_distance(features, image, ExactSearcher(features), Sample(features, image), 0.5)
    assert np.isfinite(expected(features)).all()
    assert expected.slope[1] == pytest.approx(0, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 60), images=st.integers(1, 12))
def test_the_reservoir_holds_the_smallest_keys_whenever_it_is_thinned(seed, size, images):
    """The same sample whether it was thinned after each image, was saved and restored in between, or only at the
    end."""
    rng = np.random.default_rng(seed)
    patches = [rng.normal(size=(rng.integers(1, 30), 2)).astype(np.float32) for _ in range(images)]
    plain, thinned, resumed = (Reservoir(size, seed) for _ in range(3))
    for number, features in enumerate(patches):
        plain.add(number, features)
        thinned.add(number, features)
        thinned.sample()
        state = resumed.state()
        resumed = Reservoir(size, seed)
        if state:
            resumed.restore(state)
        resumed.add(number, features)
    first = plain.sample()
    assert len(first.features) == min(size, sum(map(len, patches)))
    for other in (thinned.sample(), resumed.sample()):
        np.testing.assert_array_equal(first.features, other.features)
        np.testing.assert_array_equal(first.image, other.image)


def test_the_reservoir_is_a_fair_sample():
    """Every one of 40 images of 50 patches is in a sample of 400 about 10 times."""
    reservoir = Reservoir(400, 0)
    for image in range(40):
        reservoir.add(image, np.zeros((50, 1), np.float32))
    counts = np.bincount(reservoir.sample().image, minlength=40)
    assert counts.sum() == 400
    assert counts.min() > 1
    assert counts.max() < 22


def test_what_is_learned_is_enough_however_it_is_scaled(rng):
    """After learning, neither the scores nor the plain distances of the new image's patches are over the radius."""
    centres = rng.normal(0, 1, (50, 3)).astype(np.float32)
    features = rng.normal(0, 3, (80, 3)).astype(np.float32)
    place = np.arange(80, dtype=np.int32)
    image = NewImage(1, "new", Patches(features, place, (8, 10), (64, 80), ImageStatistics(1.0, 0.5, 64, 80)), b"")
    for level in (-0.25, 0.25):
        expected = ExpectedDistance(np.zeros(3, np.float32), level, -0.25, 0.25, 1.0)
        learned = learn([image], centres, 1.0, expected)
        bank = ExactSearcher(np.concatenate([centres, learned.rows.vectors]))
        distances = bank.search(features, 1)[0][:, 0]
        assert distances.max() <= 1.0 + 1e-5
        assert expected.scaled(distances, features).max() <= 1.0 + 1e-5
        assert 0 < len(learned.rows) < 80


# --- held-out images ---


def test_a_fold_is_learned_without_its_images(rng):
    """Number f is what is learned from the other images alone; images that taught nothing meet the whole."""
    sample, _ = two_surfaces(rng)
    searcher = ExactSearcher(sample.features)
    whole = expected_distance(sample.features, sample.image, searcher, sample, 0.5)
    others = sample.image % FOLDS != 3
    alone = expected_distance(
        sample.features, sample.image, searcher, Sample(sample.features[others], sample.image[others]), 0.5
    )
    for image in (3, 13, 53):
        np.testing.assert_allclose(whole.without(image)(sample.features), alone(sample.features), atol=1e-6)
    assert np.abs(alone(sample.features) - whole(sample.features)).max() > 1e-6
    assert whole.without(60) is whole.without(-1) is whole
    few = expected_distance(
        sample.features, sample.image, searcher, Sample(sample.features[:40], sample.image[:40]), 0.5
    )
    assert few.without(0) is few  # without that image there is nothing to learn from


class Given:
    """A searcher whose answers are known; its vectors are of no training image."""

    def __init__(self, distances):
        self.distances = distances

    def search(self, queries, k):
        return self.distances[:, None], np.zeros((len(queries), 1), np.int64)


def test_images_that_taught_the_expectation_score_as_new_ones_only_without_it(rng):
    """Images differ by chance in what they look like and in how far they are from the bank. What is learned from
    them explains the latter by the former, of these images, but not of new ones: thresholds would be too low."""

    def images():
        look, far = rng.normal(0, 1, (60, 40)), rng.normal(0, 0.3, 60)
        features = np.repeat(look, 20, axis=0) + rng.normal(0, 0.3, (1200, 40))
        distances = np.exp(np.repeat(far, 20) + rng.normal(0, 0.1, 1200))
        return features.astype(np.float32), distances.astype(np.float32)

    number = np.repeat(np.arange(60), 20).astype(np.int32)
    over = {"without": [], "whole": []}
    for _ in range(20):
        features, distances = images()
        sample = Sample(features, number)
        whole = expected_distance(features[:1], np.array([-1]), Given(distances), sample, 1.0)
        scores = {
            "whole": whole.scaled(distances, features),
            "without": np.concatenate(
                [whole.without(n).scaled(distances[number == n], features[number == n]) for n in range(60)]
            ),
        }
        new_features, new_distances = images()
        new = whole.scaled(new_distances, new_features).reshape(60, 20).mean(axis=1)
        for way, own in scores.items():
            over[way].append((new > np.sort(own.reshape(60, 20).mean(axis=1))[-6]).mean())  # 6 of 61: 9.8 %
    assert np.mean(over["without"]) < 0.115
    assert np.mean(over["whole"]) > 0.15


# --- in a model ---


@pytest.fixture
def good(rng):
    """Noise that is stronger on the right half."""
    strength = np.where(np.arange(96) < 48, 3, 25)[None, :, None]
    return [np.clip(120 + strength * rng.normal(0, 1, (64, 96, 3)), 0, 255).astype(np.uint8) for _ in range(12)]


def test_scores_are_scaled_and_plain_distances_are_kept(good):
    model = PatchCore.fit(good, SMALL, backbone=FakeBackbone())
    plain = PatchCore.fit(good, dataclasses.replace(SMALL, distance_scaling=0), backbone=FakeBackbone())
    assert plain.bank.expected is None
    ours, theirs = model.predict(good[0]), plain.predict(good[0])
    np.testing.assert_array_equal(theirs.patch_scores, theirs.distances)
    np.testing.assert_array_equal(ours.distances, theirs.distances)
    factor = ours.patch_scores[ours.distances > 0] / ours.distances[ours.distances > 0]
    assert factor.max() / factor.min() > 1.1
    np.testing.assert_array_equal(ours.anomaly_map, theirs.anomaly_map)  # where is asked of plain distances
    assert ours.pixel_threshold == theirs.pixel_threshold
    assert ours.score != theirs.score


@pytest.mark.parametrize("calibration", ["leave_one_out", "cross_fit", "holdout", "none"])
def test_every_calibration_has_it_and_the_file_keeps_it(good, calibration, tmp_path):
    config = dataclasses.replace(SMALL, calibration=calibration)
    model = PatchCore.fit(good, config, backbone=FakeBackbone())
    assert model.bank.expected is not None
    model.save(tmp_path / "m")
    loaded = PatchCore.load(tmp_path / "m")
    for ours, theirs in zip(loaded.bank.expected.folds, model.bank.expected.folds, strict=True):
        np.testing.assert_array_equal(ours.slope, theirs.slope)
        assert (ours.level, ours.low, ours.high, ours.power) == (theirs.level, theirs.low, theirs.high, theirs.power)
    assert len(loaded.bank.expected.folds) == FOLDS
    assert loaded.bank.expected.images == model.bank.expected.images
    np.testing.assert_allclose(loaded.predict(good[3]).patch_scores, model.predict(good[3]).patch_scores, atol=1e-5)


def test_a_bank_that_grows_only_lowers_scores(good, rng):
    """What a bound after an update rests on: no image looks odder for what was learned."""
    model = PatchCore.fit(good, SMALL, backbone=FakeBackbone())
    odd = [np.clip(image.astype(int) + 60, 0, 255).astype(np.uint8) for image in good[:2]]
    grown = model.update(odd)
    assert len(grown.bank) > len(model.bank)
    for image in [*good, *odd, rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)]:
        assert (grown.predict(image).patch_scores <= model.predict(image).patch_scores * (1 + 1e-6)).all()


def test_held_out_scores_are_by_the_expectation_without_the_image(good):
    """Set aside, an image has taught nothing: it meets what new images meet."""
    for calibration in ("leave_one_out", "holdout"):
        config = dataclasses.replace(SMALL, calibration=calibration, image_score="max")
        model = PatchCore.fit(good, config, backbone=FakeBackbone())
        for name, score in zip(model.calibration.images, model.calibration.scores, strict=True):
            number = model.bank.images.index(name)
            features = model._describe(good[int(name.split()[1])]).features
            others = model.bank.vectors[model.bank.image != number]
            distances = np.linalg.norm(features[:, None] - others, axis=2).min(axis=1)
            expected = model.bank.expected
            expected = expected if calibration == "holdout" else expected.without(number)
            assert score == pytest.approx(expected.scaled(distances, features).max(), rel=1e-4)


def test_a_file_of_before_there_were_folds(good, tmp_path):
    """It has one expectation, for all images."""
    model = PatchCore.fit(good, SMALL, backbone=FakeBackbone())
    manifest, entries = packed(model)
    del manifest["bank"]["expected"]["folds"], manifest["bank"]["expected"]["images"]
    entries["expected.safetensors"] = tensor_bytes({"slope": model.bank.expected.slope})
    write(tmp_path / "m", manifest, entries)
    loaded = PatchCore.load(tmp_path / "m")
    assert loaded.bank.expected.without(0) is loaded.bank.expected
    assert loaded.predict(good[0]).score == pytest.approx(model.predict(good[0]).score, rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"level": "nan"},
        {"low": 1.0, "high": 0.0},
        {"level": "much"},
        {"high": None},
        {"folds": []},
        {"folds": [[0, -1, 1]]},
        {"folds": [[0, 1, -1]] * FOLDS},
        {"folds": [[0, 1]] * FOLDS},
        {"images": "twelve"},
    ],
)
def test_a_damaged_expectation_is_refused(good, change, tmp_path):
    manifest, entries = packed(PatchCore.fit(good, SMALL, backbone=FakeBackbone()))
    manifest["bank"]["expected"] |= change
    write(tmp_path / "m", manifest, entries)
    with pytest.raises(ModelFileError, match=r"manifest|expected the tensors"):
        PatchCore.load(tmp_path / "m")
    assert ModelFile(tmp_path / "m").manifest["bank"]["size"] > 0
