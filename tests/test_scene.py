"""The known scene: ranges and their guarantee, what is recognised, what must not be, and the model file."""

from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.calibration.image_check import (
    GRID,
    LEAST_IMAGES,
    MEASURES,
    MOST_IMAGES,
    ImageCheck,
    ImageCheckLearner,
    described,
    leave_one_out_deviations,
    widening,
)
from patchbank.errors import ModelFileError
from patchbank.features.embedding import ImageStatistics, Patches

SMALL = Config(image_size=64, coreset_ratio=0.3, thumbnail_size=0)
NAMES = ["brightness", "sharpness", "aspect_ratio", "pixels", "patch_distance", "layout_distance"]
DIMS = 4


def part(rng, size=(96, 128)):
    """A bright disc, always in the same place, on a dark textured table."""
    image = np.full((*size, 3), 60.0)
    cv2.circle(image, (size[1] // 2, size[0] // 2), min(size) // 3, (170, 160, 150), -1)
    cv2.rectangle(image, (4, 4), (size[1] // 4, size[0] // 4), (110, 120, 130), -1)
    return np.clip(image + rng.normal(0, 6, image.shape) + rng.normal(0, 3), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(1)
    return PatchCore.fit([part(rng) for _ in range(40)], SMALL, backbone=FakeBackbone())


def patches_of(features, place=None):
    height, width, dims = features.shape
    place = np.arange(height * width) if place is None else place
    flat = features.reshape(-1, dims).astype(np.float32)
    return Patches(flat[place], place.astype(np.int32), (height, width), (80, 80), ImageStatistics(100.0, 0.5, 80, 80))


def scene_of(measures, rate=0.01):
    """A scene with these measures; its layout is of no interest."""
    measures = np.asarray(measures, np.float32)
    n = len(measures)
    return ImageCheck(
        measures,
        leave_one_out_deviations(measures),
        np.zeros((n, 1, 1), np.float32),
        np.zeros(1, np.int32),
        np.zeros((DIMS, 1), np.float32),
        rate,
    )


# --- ranges ---


def test_ranges_in_closed_form():
    """Two brightnesses far apart, all else alike: the unit is their half distance, and every other measure's unit is
    the finest one, times its width."""
    measures = np.tile([0.0, 0.5, 1.5, 1e6, 10.0, 20.0], (100, 1))
    measures[:, 0] = np.tile([80, 120], 50)
    scene = scene_of(measures)
    np.testing.assert_allclose(scene.deviations, 20.404 / 20, atol=0.06)  # 49 against 50 of the others
    t = widening(scene.deviations, 0.01)
    low, high = scene.ranges
    assert (low[0], high[0]) == pytest.approx((100 - 20 * t, 100 + 20 * t))
    assert (low[1], high[1]) == pytest.approx((0.5 * np.exp(-0.05 * t), 0.5 * np.exp(0.05 * t)))
    assert (low[3], high[3]) == pytest.approx((1e6 * np.exp(-0.4 * t), 1e6 * np.exp(0.4 * t)))
    assert (low[4], high[4]) == pytest.approx((0, 10 * np.exp(0.075 * t)))
    assert (low[5], high[5]) == pytest.approx((0, 20 * np.exp(0.075 * t)))


def test_widening_is_an_order_statistic_where_the_images_support_the_rate():
    deviations = np.arange(1, 200, dtype=np.float32)  # 199
    assert widening(deviations, 0.01) == 198
    assert widening(deviations, 0.005) == 199
    assert widening(deviations, 0.5) == 100


def test_widening_goes_on_beyond_what_the_images_support():
    """9 images support 10 %: for 1 %, exponential tails are twice as far away. Without a step at the limit."""
    deviations = np.arange(1, 10, dtype=np.float32)
    assert widening(deviations, 0.1) == 9
    assert widening(deviations, 0.01) == pytest.approx(18)
    assert widening(deviations, 0.0999) == pytest.approx(9, rel=1e-3)
    assert widening(np.zeros(9, np.float32), 0.1) == 1


@pytest.mark.parametrize("kind", ["normal", "skewed", "heavy"])
@pytest.mark.parametrize(("n", "most"), [(99, 0.0115), (300, 0.0115), (20, 0.025)])
def test_the_rate_holds_for_all_measures_together(kind, n, most):
    """1 % means 1 % of images with any measure outside, whatever the measures' distributions; 20 images do not support
    it, and come near."""
    rng = np.random.default_rng(7)
    draw = {
        "normal": lambda size: rng.normal(0, 0.5, size),
        "skewed": lambda size: np.exp(rng.normal(0, 0.8, size)) - 1,
        "heavy": lambda size: 0.5 * rng.standard_t(4, size),
    }[kind]

    def images(count):
        drawn = draw((count, len(MEASURES)))
        return np.column_stack([100 + 20 * drawn[:, 0], np.exp(np.clip(drawn[:, 1:], -20, 20))]).astype(np.float32)

    rates = []
    for _ in range(60):
        low, high = scene_of(images(n)).ranges
        new = images(500)
        rates.append(((new < low) | (new > high)).any(axis=1).mean())
    assert np.mean(rates) <= most


def test_deviations_leave_their_image_out():
    """One odd image does not widen the unit that it is measured with."""
    measures = np.tile([100.0, 0.5, 1.0, 1e4, 1.0, 1.0], (10, 1)).astype(np.float32)
    measures[4, 0] = 400
    deviations = leave_one_out_deviations(measures)
    assert deviations[4] == pytest.approx(100)  # 300 grey levels in units of 3
    assert np.delete(deviations, 4).max() == 0


# --- what is measured ---


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 30), width=st.integers(1, 30), seed=st.integers(0, 1000), share=st.floats(0.01, 1.0))
def test_cells_are_means_over_the_patches_that_count(height, width, seed, share):
    """Against a loop over cells; grids smaller than GRID have overlapping cells, and cells without patches are NaN."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(height, width, DIMS)).astype(np.float32)
    place = np.flatnonzero(rng.random(height * width) <= share)
    if len(place) == 0:
        place = np.array([0])
    _, cells = described(patches_of(features, place=place), np.ones(len(place), np.float32), np.eye(DIMS, dtype="f4"))
    counted = np.zeros((height, width), bool)
    counted.ravel()[place] = True
    for i in range(GRID):
        for j in range(GRID):
            rows = slice(i * height // GRID, -(-(i + 1) * height // GRID))
            columns = slice(j * width // GRID, -(-(j + 1) * width // GRID))
            inside = features[rows, columns][counted[rows, columns]]
            expected = inside.mean(axis=0) if len(inside) else np.full(DIMS, np.nan)
            np.testing.assert_allclose(cells[GRID * i + j], expected, rtol=1e-3, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), odd=st.integers(0, 80))
def test_a_defect_does_not_move_the_patch_distance(seed, odd):
    """It is that of the most ordinary tenth: however odd up to 80 of 100 patches get, it can only move among the other
    20."""
    rng = np.random.default_rng(seed)
    distances = rng.random(100).astype(np.float32)
    broken = distances.copy()
    broken[rng.permutation(100)[:odd]] += 1000
    patches = patches_of(rng.normal(size=(10, 10, DIMS)))
    projection = np.ones((DIMS, 1), np.float32)
    before, after = (described(patches, d, projection)[0][4] for d in (distances, broken))
    assert before == np.sort(distances)[9]
    assert before <= after <= 1


def learned(images, distances=None, **options):
    learner = ImageCheckLearner(len(images), Config(**options))
    for patches in images:
        learner.add(patches, np.ones(len(patches.place), np.float32) if distances is None else distances)
    return learner.finish()


def measured(scene, patches, name):
    found = {
        each.name: each for each in scene.check(patches, np.ones(len(patches.place), np.float32), scene.layout(patches))
    }
    return found[name]


def test_a_moved_camera_shows_where_the_training_images_are_aligned(rng):
    """And only there: parts that lie anywhere in the training images may lie anywhere."""
    scenery = cv2.resize(rng.normal(size=(6, 6, DIMS)), (24, 24), interpolation=cv2.INTER_CUBIC)

    def image(shift):
        return patches_of(np.roll(scenery, shift, axis=(0, 1)) + rng.normal(0, 0.05, scenery.shape))

    aligned = learned([image((0, 0)) for _ in range(60)])
    anywhere = learned([image(tuple(rng.integers(0, 24, 2))) for _ in range(300)])
    assert measured(aligned, image((0, 0)), "layout_distance").reason is None
    assert "moved, turned or another part?" in measured(aligned, image((3, 2)), "layout_distance").reason
    assert measured(anywhere, image((3, 2)), "layout_distance").reason is None


def test_a_defect_of_a_ninth_of_the_image_does_not_change_its_layout(rng):
    scenery = rng.normal(size=(24, 24, DIMS))
    scene = learned([patches_of(scenery + rng.normal(0, 0.05, scenery.shape)) for _ in range(60)])
    broken = scenery + rng.normal(0, 0.05, scenery.shape)
    broken[:8, 16:] += 10
    assert measured(scene, patches_of(broken), "layout_distance").reason is None


def test_many_images_are_sampled_and_few_say_nothing(rng):
    images = [patches_of(rng.normal(size=(8, 8, DIMS))) for _ in range(MOST_IMAGES + 30)]
    scene, again = learned(images), learned(images)
    assert len(scene.measures) == MOST_IMAGES
    np.testing.assert_array_equal(scene.cells, again.cells)
    assert learned(images[: LEAST_IMAGES - 1]) is None
    assert len(learned(images[:LEAST_IMAGES]).measures) == LEAST_IMAGES
    assert learned(images[:50], scene_false_alarms=0) is None


def test_identical_training_images_give_finite_ranges(rng):
    image = patches_of(rng.normal(size=(8, 8, DIMS)))
    scene = learned([image] * 10, distances=np.zeros(64, np.float32))
    assert np.isfinite(scene.ranges).all()
    assert all(each.reason is None for each in scene.check(image, np.zeros(64, np.float32), scene.layout(image)))


# --- in a model ---


def names_outside(result):
    return {each.name for each in result.scene if each.reason}


def test_good_parts_are_in_the_scene_and_reasons_name_what_is_not(model, rng):
    good = [model.predict(part(rng)) for _ in range(10)]
    assert all(result.in_distribution for result in good)
    assert [each.name for each in good[0].scene] == NAMES
    assert all(each.low <= each.value <= each.high for each in good[0].scene)
    cap = model.predict(np.zeros((96, 128, 3), np.uint8))
    assert cap.in_distribution is False
    assert {"brightness", "patch_distance", "layout_distance"} <= names_outside(cap)
    assert any(reason.startswith("darker (brightness 0, normal ") for reason in cap.distribution_reasons)
    image = part(rng)
    assert "sharpness" in names_outside(model.predict(cv2.GaussianBlur(image, (0, 0), 3)))
    assert "brightness" in names_outside(model.predict((image * 0.5).astype(np.uint8)))
    assert "layout_distance" in names_outside(model.predict(np.roll(image, 40, axis=1)))
    assert "aspect_ratio" in names_outside(model.predict(image[:, :64]))
    assert "pixels" in names_outside(model.predict(cv2.resize(image, (512, 384), interpolation=cv2.INTER_CUBIC)))


def test_a_defect_is_anomalous_and_in_the_scene(model, rng):
    image = part(rng)
    image[40:56, 50:78] = 0
    result = model.predict(image)
    assert result.is_anomalous is True
    assert result.in_distribution is True


def test_the_result_as_json(model, rng):
    values = json.loads(json.dumps(model.predict(part(rng)).to_dict(), allow_nan=False))
    assert values["in_scene"] is True
    assert list(values["scene"]) == NAMES
    assert set(values["scene"]["pixels"]) == {"value", "low", "high", "reason"}
    assert values["scene"]["pixels"]["value"] == 96 * 128


@pytest.mark.parametrize("options", [{"scene_false_alarms": 0}, {"calibration": "none"}])
def test_not_checked(rng, options):
    config = dataclasses.replace(SMALL, **options)
    model = PatchCore.fit([part(rng) for _ in range(8)], config, backbone=FakeBackbone())
    result = model.predict(np.zeros((96, 128, 3), np.uint8))
    assert model.scene is None
    assert (result.in_distribution, result.scene, result.distribution_reasons) == (None, None, ())
    assert (result.to_dict()["in_scene"], result.to_dict()["scene"]) == (None, None)


def test_what_is_ignored_cannot_change_the_scene(rng):
    config = dataclasses.replace(SMALL, include="0,0 0.6,0 0.6,1 0,1")
    model = PatchCore.fit([part(rng) for _ in range(12)], config, backbone=FakeBackbone())
    assert len(model.scene.kept) < GRID * GRID
    image = part(rng)
    other = image.copy()
    other[:, 100:] = 255
    assert [e.value for e in model.predict(image).scene] == [e.value for e in model.predict(other).scene]
    image[:, :60] = 255
    assert model.predict(image).in_distribution is False


def test_images_set_aside_are_what_the_scene_is_learned_from(rng):
    config = dataclasses.replace(SMALL, calibration="holdout", holdout_fraction=0.5)
    model = PatchCore.fit([part(rng) for _ in range(20)], config, backbone=FakeBackbone())
    assert len(model.scene.measures) == 10


def test_the_scene_survives_the_file(model, rng, tmp_path):
    model.save(tmp_path / "m")
    loaded = PatchCore.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.scene.ranges, model.scene.ranges)
    image = part(rng)
    values = [[each.value for each in m.predict(image).scene] for m in (model, loaded)]
    np.testing.assert_allclose(*values, rtol=1e-3)


def broken(name, value):
    def change(tensors):
        tensors[name] = value(tensors[name])

    return change


@pytest.mark.parametrize(
    "change",
    [
        broken("measures", lambda a: a[:, :5]),
        broken("measures", lambda a: a[:3]),
        broken("measures", lambda a: np.full_like(a, np.nan)),
        broken("deviations", lambda a: a[1:]),
        broken("deviations", lambda a: np.full_like(a, np.inf)),
        broken("cells", lambda a: a[:, :, :-1]),
        broken("cells", lambda a: np.full_like(a, np.nan)),
        broken("kept", lambda a: a[::-1]),
        broken("kept", lambda a: a + 1),
        broken("kept", lambda a: a - 1),
        broken("projection", lambda a: a[1:]),
        broken("projection", lambda a: np.full_like(a, np.nan)),
    ],
)
def test_a_damaged_scene_is_refused(model, tmp_path, change):
    from patchbank.model_file import archive as artifact
    from patchbank.model_file.contents import packed
    from patchbank.model_file.versions import SCENE

    manifest, entries = packed(model)
    tensors = dict(artifact.read_tensors(memoryview(entries["scene.safetensors"]), SCENE))
    change(tensors)
    artifact.write(tmp_path / "m", manifest, entries | {"scene.safetensors": artifact.tensor_bytes(tensors)})
    with pytest.raises(ModelFileError):
        PatchCore.load(tmp_path / "m")


def test_a_scene_without_its_promise_is_refused(model, tmp_path):
    from patchbank.model_file import archive as artifact
    from patchbank.model_file.contents import packed

    manifest, entries = packed(model)
    for rate in (0, 0.9, "x", None):
        config = manifest["config"] | {"scene_false_alarms": rate}
        artifact.write(tmp_path / "m", manifest | {"config": config}, entries)
        with pytest.raises(ModelFileError):
            PatchCore.load(tmp_path / "m")


def test_a_scene_that_is_announced_but_missing_is_refused(model, tmp_path):
    from patchbank.model_file import archive as artifact
    from patchbank.model_file.contents import packed

    manifest, entries = packed(model)
    del entries["scene.safetensors"]
    artifact.write(tmp_path / "m", manifest, entries)
    with pytest.raises(ModelFileError, match="scene"):
        PatchCore.load(tmp_path / "m")
