"""The bank's life on a fake network: what an update changes and reports, and that every version can be had back."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parts import striped
from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.bank.coreset import greedy_kcenter
from patchbank.errors import ConfigError, DatasetError, ImageError
from patchbank.fitted.versions import images_of
from patchbank.scoring.scores import smoothed
from patchbank.update import recalibrate

SMALL = Config(image_size=64, coreset_ratio=0.3, smoothing_sigma=0.5, thumbnail_size=32, spare_ratio=0.5)
WHEN = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def good(rng):
    return [striped(rng) for _ in range(12)]


@pytest.fixture
def by_name(good):
    return {f"image {number}": image for number, image in enumerate(good)}


@pytest.fixture
def model(good):
    return PatchCore.fit(good, SMALL, backbone=FakeBackbone())


def scores(model, images):
    return [model.predict(image).score for image in images]


def largest(model, image, vectors, number):
    """Image `number`'s largest patch score, smoothed, by brute force, if the bank were these vectors."""
    patches = model._describe(image)
    distances = np.linalg.norm(patches.features[:, None] - vectors, axis=2).min(axis=1)
    scores = patches.on_grid(model.bank.expected.without(number).scaled(distances, patches.features))
    return smoothed(scores, model.config.score_smoothing).max()


def same(a, b):
    """The same bank in the same order, and the same calibration, to the bit."""
    for name in ("vectors", "image", "row", "column"):
        np.testing.assert_array_equal(getattr(a.bank, name), getattr(b.bank, name))
    assert a.bank.covering_radius == b.bank.covering_radius
    for name in ("scores", "peaks"):
        np.testing.assert_array_equal(getattr(a.calibration, name), getattr(b.calibration, name))
    assert a.calibration.images == b.calibration.images
    for name in ("overall", "cells", "counts"):
        np.testing.assert_array_equal(getattr(a.normal, name), getattr(b.normal, name))
    np.testing.assert_array_equal(a.scene.measures if a.scene else 0, b.scene.measures if b.scene else 0)
    return True


# --- a fit ---


def test_a_fit_is_version_1_and_holds_no_clock(model, good, tmp_path):
    (version,) = model.versions
    assert (version.number, version.action, version.time, version.calibrated) == (1, "fit", "", "exact")
    assert (version.images, version.size) == (12, len(model.bank))
    assert version.threshold == model.calibration.threshold
    assert len(model.history.archived) == round(0.5 * len(model.bank))
    model.save(tmp_path / "a")
    PatchCore.fit(good, SMALL, backbone=FakeBackbone()).save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# --- learning ---


def test_a_false_alarm_is_learned(model, rng):
    image = striped(rng, stain=True)
    before = model.predict(image)
    assert before.is_anomalous
    new = model.update([image], note="a stain is fine", author="ana", time=WHEN)
    after, version = new.predict(image), new.versions[-1]
    assert after.is_anomalous is False
    assert not after.mask.any()
    assert after.score <= np.median(model.calibration.scores)  # not odder than a typical good image
    (added,) = version.added
    assert (added.name, added.image, added.patches) == ("image 12", 12, 64)
    assert (added.score_before, added.score_after) == (before.score, after.score)
    assert 0 < added.vectors <= added.patches - added.covered
    assert added.vectors == len(new.bank) - len(model.bank) == new.bank.vectors_per_image()[12]
    assert (version.note, version.author, version.time) == ("a stain is fine", "ana", WHEN)
    assert version.images == len(new.training_images) == 13
    assert 12 in new.thumbnails


def test_another_part_with_the_same_look_is_accepted_and_a_defect_is_not(model, rng):
    new = model.update([striped(rng, stain=True) for _ in range(3)])
    fresh = [striped(rng, stain=True) for _ in range(4)]
    assert all(s < 0.5 * t for s, t in zip(scores(new, fresh), scores(model, fresh), strict=True))
    assert new.predict(striped(rng, defect=True)).is_anomalous


def test_the_model_itself_does_not_change(model, rng, good):
    size, before = len(model.bank), scores(model, good[:3])
    model.update([striped(rng, stain=True)])
    assert (len(model.bank), len(model.versions)) == (size, 1)
    assert scores(model, good[:3]) == before


def test_learning_only_lowers_scores(model, good, rng):
    new = model.update([striped(rng, stain=True)])
    everything = [*good, striped(rng, stain=True), striped(rng), striped(rng, defect=True)]
    assert all(b <= a for a, b in zip(scores(model, everything), scores(new, everything), strict=True))


def test_what_is_known_adds_nothing(model, rng):
    """The same image twice: the second time all of its patches are covered, and the version says so."""
    image = striped(rng, stain=True)
    twice = model.update([image]).update([image])
    (added,) = twice.versions[-1].added
    assert (added.vectors, added.covered) == (0, added.patches)
    assert added.score_before == added.score_after
    assert 13 not in twice.thumbnails


def test_new_vectors_know_where_they_came_from(model, rng):
    image = striped(rng, stain=True)
    new = model.update([image])
    result = new.predict(image)
    exact = np.argwhere(result.patch_scores == 0)
    places = {(row, column) for name, row, column in map(new.bank.origin, range(len(new.bank))) if name == "image 12"}
    assert places == {(int(row), int(column)) for row, column in exact}


def test_the_threshold_of_a_grown_bank_is_not_too_low(model, by_name, rng):
    """Without the training images the scores stay, as upper bounds; with them they are exact, and not larger."""
    bound = model.update([striped(rng, stain=True)])
    assert bound.versions[-1].calibrated == "bound"
    np.testing.assert_array_equal(bound.calibration.scores, model.calibration.scores)
    exact = bound.update(images=by_name)
    assert exact.versions[-1].calibrated == "exact"
    assert (exact.calibration.scores <= bound.calibration.scores).all()
    assert exact.calibration.threshold <= bound.calibration.threshold


def test_confirmed_false_alarms_do_not_calibrate_a_sample_does(model, rng):
    """Images picked by their high scores would lift the threshold to their own level."""
    images = [striped(rng, stain=True) for _ in range(3)]
    assert model.update(images).calibration.images == model.calibration.images
    sample = model.update(images, representative=True)
    assert sample.calibration.images == (*model.calibration.images, "image 12", "image 13", "image 14")
    for number, image in enumerate(images):  # leave-one-out: by the bank without the image's own vectors
        others = sample.bank.vectors[sample.bank.image != 12 + number]
        assert sample.calibration.scores[12 + number] == pytest.approx(
            largest(sample, image, others, 12 + number), rel=1e-5
        )


def test_the_scene_is_learned_again_where_its_images_change(model, by_name, rng):
    """Confirmed images alone do not change what the scene looks like; a sample of good parts does, and so does a
    removal; a rollback brings the old one back."""
    bright = [np.clip(striped(rng).astype(int) + 60, 0, 255).astype(np.uint8) for _ in range(4)]
    assert not model.predict(bright[0]).in_distribution
    assert model.update(bright, images=by_name).scene is model.scene
    sample = model.update(bright, images=by_name, representative=True)
    assert len(sample.scene.measures) == 16
    assert sample.predict(bright[0]).in_distribution
    assert sample.rollback().scene is model.scene
    assert len(model.update(remove=["image 3"], images=by_name).scene.measures) == 11


# --- forgetting ---


def test_a_removed_image_is_gone_and_no_score_used_it(model, by_name, good):
    new = model.update(remove=["image 3"], images=by_name)
    assert 3 not in new.bank.image
    assert "image 3" not in new.calibration.images
    assert "image 3" not in new.training_images
    (removed,) = new.versions[-1].removed
    lost = int((model.bank.image == 3).sum())
    assert (removed.name, removed.vectors) == ("image 3", lost)
    assert new.versions[-1].refilled == lost
    assert len(new.bank) == len(model.bank)
    for name, score in zip(new.calibration.images, new.calibration.scores, strict=True):
        number = int(name.split()[1])
        others = new.bank.vectors[new.bank.image != number]
        assert score == pytest.approx(largest(new, good[number], others, number), rel=1e-5)


def test_forgetting_continues_the_k_center_of_a_fit_without_the_image(good):
    """With a whole bank, it is exactly a model that never saw the image."""
    config = dataclasses.replace(SMALL, sampler="identity", distance_scaling=0)  # scaling is learned once
    model = PatchCore.fit(good, config, backbone=FakeBackbone())
    names = {f"image {number}": image for number, image in enumerate(good)}
    new = model.update(remove=["image 11"], images=names)
    without = PatchCore.fit(good[:11], config, backbone=FakeBackbone())
    assert new.versions[-1].refilled == 0
    np.testing.assert_array_equal(new.bank.vectors, without.bank.vectors)
    np.testing.assert_array_equal(new.calibration.scores, without.calibration.scores)
    np.testing.assert_array_equal(new.calibration.peaks, without.calibration.peaks)
    assert new.calibration.threshold == without.calibration.threshold
    assert new.bank.covering_radius == without.bank.covering_radius == 0


def test_the_place_is_filled_by_spares_of_the_images_that_stay(model):
    new = model.update(remove=["image 3", "image 5"], certify=False)
    came = {v.tobytes() for v in new.bank.vectors} - {v.tobytes() for v in model.bank.vectors}
    archived = model.history.archived
    spares = {v.tobytes() for v in archived.vectors[~np.isin(archived.image, (3, 5))]}
    assert came
    assert came <= spares
    assert len(came) == new.versions[-1].refilled


def test_the_training_images_fill_it_as_a_fit_without_the_image_would(good, by_name):
    """With exact k-center from the vectors that are left, among all patches of the images that stay."""
    config = dataclasses.replace(SMALL, sampler="greedy_coreset", spare_ratio=0)
    model = PatchCore.fit(good, config, backbone=FakeBackbone())
    new = model.update(remove=["image 3"], images=by_name)
    left = model.bank.vectors[model.bank.image != 3]
    points = np.concatenate([model._describe(image).features for n, image in enumerate(good) if n != 3])
    expected = greedy_kcenter(points, len(model.bank) - len(left), seeds=left)
    np.testing.assert_array_equal(new.bank.vectors, np.concatenate([left, points[expected.indices]]))
    assert new.bank.covering_radius == pytest.approx(expected.covering_radius, rel=1e-6)
    for number, place in enumerate(range(len(left), len(new.bank))):
        name, row, column = new.bank.origin(place)
        patch = new._describe(by_name[name]).features[8 * row + column]
        np.testing.assert_array_equal(patch, points[expected.indices[number]])


def test_what_was_set_aside_does_not_fill_a_hole(good, by_name):
    """Else the bank would know the images that it is calibrated with."""
    config = dataclasses.replace(SMALL, calibration="holdout", holdout_fraction=0.25)
    model = PatchCore.fit(good, config, backbone=FakeBackbone())
    image = model.bank.images[int(model.bank.image[0])]
    new = model.update(remove=[image], images=by_name)
    assert new.versions[-1].refilled > 0
    held = {model.bank.images.index(name) for name in model.calibration.images}
    assert not held & set(new.bank.image.tolist())
    assert new.calibration.images == model.calibration.images


def test_without_spares_and_images_the_bank_shrinks_and_says_so(good):
    model = PatchCore.fit(good, dataclasses.replace(SMALL, spare_ratio=0), backbone=FakeBackbone())
    assert len(model.history.archived) == 0
    new = model.update(remove=["image 3"], certify=False)
    assert new.versions[-1].refilled == 0
    assert len(new.bank) == len(model.bank) - new.versions[-1].removed[0].vectors


def test_a_bad_training_image_is_forgotten(good, rng):
    """Its defect is found again, and the version tells that nothing else looks like it."""
    bad = striped(rng, defect=True)
    model = PatchCore.fit([*good, bad], SMALL, backbone=FakeBackbone())
    other = striped(rng, defect=True)
    names = {f"image {number}": image for number, image in enumerate([*good, bad])}
    new = model.update(remove=["image 12"], images=names)
    assert new.versions[-1].removed[0].uncovered > 0
    assert new.predict(other).score > model.predict(other).score
    assert new.predict(other).is_anomalous
    assert new.calibration.threshold < model.calibration.threshold


def test_a_removal_does_not_lose_its_guarantee_silently(model):
    with pytest.raises(ConfigError, match="--images"):
        model.update(remove=["image 3"])
    stale = model.update(remove=["image 3"], certify=False)
    assert stale.versions[-1].calibrated == "stale"
    assert "image 3" not in stale.calibration.images
    assert stale.update(remove=["image 4"], certify=False).versions[-1].calibrated == "stale"


def test_learning_does_not_make_a_stale_threshold_good(model, rng, by_name):
    stale = model.update(remove=["image 3"], certify=False)
    assert stale.update([striped(rng, stain=True)]).versions[-1].calibrated == "stale"
    exact = stale.update(images=by_name)
    assert exact.versions[-1].calibrated == "exact"
    np.testing.assert_array_equal(exact.bank.vectors, stale.bank.vectors)
    assert not np.array_equal(exact.calibration.scores, stale.calibration.scores)  # those were of the bank before
    assert same(exact.update(images=by_name), exact)


def test_an_image_without_vectors_leaves_nothing_to_certify(good):
    config = dataclasses.replace(SMALL, calibration="holdout", holdout_fraction=0.25)
    model = PatchCore.fit(good, config, backbone=FakeBackbone())
    held = model.calibration.images[0]
    new = model.update(remove=[held])
    assert new.versions[-1].calibrated == "exact"
    assert held not in new.calibration.images
    np.testing.assert_array_equal(new.bank.vectors, model.bank.vectors)


def test_the_covering_radius_is_never_too_small(model, by_name, good, rng):
    image = striped(rng, stain=True)
    for new in (
        model.update([image]),
        model.update(remove=["image 3"], images=by_name),
        model.update([image], remove=["image 3"], certify=False),
    ):
        known = [image for number, image in enumerate(good) if f"image {number}" in new.training_images]
        patches = np.concatenate([new._describe(image).features for image in known])
        assert new.searcher.search(patches, 1)[0].max() <= new.bank.covering_radius * (1 + 1e-6)


def test_certified_radius_is_exact(model, by_name, good):
    new = model.update(remove=["image 3"], images=by_name)
    patches = np.concatenate([new._describe(g).features for n, g in enumerate(good) if n != 3])
    assert new.bank.covering_radius == pytest.approx(float(new.searcher.search(patches, 1)[0].max()), rel=1e-6)


# --- certifying ---


def test_certifying_an_unchanged_bank_gives_the_scores_of_the_fit(model, by_name):
    assert same(model.update(images=by_name), model)


def test_wrong_images_are_noticed(model, by_name, rng):
    with pytest.raises(DatasetError, match=r"2 of the 12 calibration images are missing \(image 3, image 9\)"):
        model.update(images={n: i for n, i in by_name.items() if n not in ("image 3", "image 9")})
    with pytest.raises(ImageError, match="image 5: is not the image"):
        model.update(images={**by_name, "image 5": striped(rng, stain=True)})
    with pytest.raises(ImageError, match="image 5: is not the image"):
        model.update(images={**by_name, "image 5": by_name["image 6"]})
    with pytest.raises(ImageError, match="image 5: is not the image"):
        model.update(images={**by_name, "image 5": by_name["image 5"][:48]})


def test_an_unreadable_calibration_image_changes_nothing(model, by_name, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(ImageError, match=r"bad\.png"):
        model.update(images={**by_name, "image 5": tmp_path / "bad.png"})


# --- back, and between ---


def test_learn_and_roll_back_gives_the_old_scores_bit_for_bit(model, good, rng):
    image = striped(rng, stain=True)
    back = model.update([image]).rollback()
    assert same(back, model)
    assert scores(back, [image, *good[:3]]) == scores(model, [image, *good[:3]])
    version = back.versions[-1]
    assert (version.number, version.action, version.restored, version.images) == (3, "rollback", 1, 12)
    assert back.training_images == model.training_images


def test_a_rollback_can_be_undone(model, by_name, rng):
    changed = model.update([striped(rng, stain=True)], remove=["image 3"], images=by_name)
    assert same(changed.rollback(1).rollback(2), changed)


def test_what_was_rolled_back_does_not_come_back_as_a_spare(model, by_name, rng):
    back = model.update([striped(rng, stain=True)]).rollback()
    new = back.update(remove=["image 3"], images=by_name)
    assert 12 not in new.bank.image


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["add", "remove", "back"]), st.integers(0, 10**6)), max_size=6))
def test_any_version_can_be_had_back_after_any_life(steps):
    """Whatever happened since, and through the file: members, scores, thresholds and radii are those of that time."""
    rng = np.random.default_rng(1)
    good = [striped(rng) for _ in range(6)]
    model = PatchCore.fit(good, SMALL, backbone=FakeBackbone())
    lives = [model]
    for step, number in steps:
        if step == "add":
            model = model.update([striped(rng, stain=True)], time=WHEN)
        elif step == "remove" and len(model.training_images) > 3:
            names = [name for name in model.training_images if name in model.calibration.images]
            if len(names) > 2:
                model = model.update(remove=[names[number % len(names)]], certify=False, time=WHEN)
        elif step == "back" and len(model.versions) > 1:
            model = model.rollback(1 + number % (len(model.versions) - 1), time=WHEN)
        if len(model.versions) > len(lives):
            lives.append(model)
    assert len(images_of(model.versions)) == len(lives)
    for number, then in enumerate(lives[:-1], start=1):
        back = model.rollback(number)
        assert same(back, then)
        assert back.training_images == then.training_images
        assert back.versions[-1].calibrated == then.versions[-1].calibrated


def test_diff_names_what_changed(model, by_name, rng):
    new = model.update([striped(rng, stain=True)], remove=["image 3"], images=by_name)
    diff = new.diff()
    assert (diff.before, diff.after) == new.versions
    assert (diff.images_added, diff.images_removed) == (("image 12",), ("image 3",))
    assert diff.vectors_removed == new.versions[-1].removed[0].vectors
    assert diff.vectors_added == new.versions[-1].added[0].vectors + new.versions[-1].refilled
    gone = next(change for change in diff.scores if change.image == "image 3")
    assert (gone.after, gone.over_after, gone.changed_sides) == (None, None, False)
    back = new.diff(2, 1)
    assert (back.images_added, back.images_removed) == (("image 3",), ("image 12",))
    nothing = new.diff(2, 2)
    assert (nothing.vectors_added, nothing.vectors_removed, nothing.changed_sides) == (0, 0, ())


def test_diff_says_which_images_changed_sides(good, rng):
    """Two stained parts vouch for each other, until one of them is taken out."""
    config = dataclasses.replace(SMALL, sampler="identity", max_false_alarms=0.2, confidence=0)
    stain = striped(rng, stain=True)
    images = [*good, stain, stain]
    model = PatchCore.fit(images, config, backbone=FakeBackbone())
    assert model.calibration.scores[12] < model.calibration.threshold
    names = {f"image {number}": image for number, image in enumerate(images)}
    new = model.update(remove=["image 13"], images=names)
    before, after = (dict(zip(m.calibration.images, m.calibration.scores > m.calibration.threshold, strict=True))
                     for m in (model, new))  # fmt: skip
    found = {change.image: (change.over_before, change.over_after) for change in new.diff().changed_sides}
    assert found == {name: (before[name], after[name]) for name in after if before[name] != after[name]}
    assert found["image 12"] == (False, True)


def test_another_threshold_is_a_version_and_a_rollback_keeps_the_promise_of_its_time(model):
    other = model.with_threshold(max_false_alarms=0.3, confidence=0, note="fewer escapes", author="ana", time=WHEN)
    version = other.versions[-1]
    assert (version.action, version.note, version.author) == ("threshold", "fewer escapes", "ana")
    assert (version.max_false_alarms, version.confidence) == (0.3, 0.0)
    assert version.threshold == other.calibration.threshold < model.versions[-1].threshold
    assert len(other.diff().changed_sides) == sum(model.calibration.scores > other.calibration.threshold)
    assert other.diff().vectors_added == other.diff().vectors_removed == 0
    back = other.rollback()
    assert back.config == model.config
    assert back.calibration.threshold == model.calibration.threshold
    assert back.versions[-1].confidence == model.config.confidence
    assert model.with_threshold(max_false_alarms=model.config.max_false_alarms) is model


def test_versions_that_there_are_not(model, rng):
    with pytest.raises(ConfigError, match="expected 1 to 1; got 0"):
        model.rollback()
    with pytest.raises(ConfigError, match="expected 1 to 1; got 7"):
        model.diff(1, 7)
    new = model.update([striped(rng, stain=True)])
    with pytest.raises(ConfigError, match="version 2 is the present one"):
        new.rollback(2)


# --- edges ---


def test_nothing_to_do_and_nonsense(model, good, rng):
    with pytest.raises(ConfigError, match="images to add or to remove"):
        model.update()
    with pytest.raises(ConfigError, match="random_sample"):
        model.update(representative=True, remove=["image 1"], certify=False)
    with pytest.raises(DatasetError, match="no training image of this model is named 'image 99'"):
        model.update(remove=["image 99"])
    with pytest.raises(DatasetError, match="would be empty"):
        model.update(remove=model.training_images, certify=False)
    with pytest.raises(DatasetError, match="one ndarray"):
        model.update(good[0])


def test_without_calibration(good, rng):
    model = PatchCore.fit(good, dataclasses.replace(SMALL, calibration="none"), backbone=FakeBackbone())
    image = striped(rng, stain=True)
    new = model.update([image], remove=["image 2"])
    assert new.versions[-1].calibrated == "none"
    assert new.versions[-1].threshold is None
    assert new.predict(image).score <= model.bank.covering_radius
    assert new.diff().scores == ()
    assert new.rollback().versions[-1].calibrated == "none"
    filled = model.update(remove=["image 2"], images={f"image {n}": g for n, g in enumerate(good)})
    assert len(filled.bank) == len(model.bank)
    for nonsense in ({"images": {}}, {"representative": True}):
        with pytest.raises(ConfigError, match="without calibration"):
            model.update([image], **nonsense)


def test_unreadable_images_raise_or_are_listed(model, rng, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(ImageError, match=r"bad\.png"):
        model.update([striped(rng, stain=True), tmp_path / "bad.png"])
    new = model.update([tmp_path / "bad.png", striped(rng, stain=True)], skip_unreadable=True)
    assert [each.name for each in new.skipped] == [str(tmp_path / "bad.png")]
    assert len(new.versions[-1].added) == 1
    with pytest.raises(DatasetError, match="none of the images to add is usable; the first of 1: "):
        model.update([tmp_path / "bad.png"], skip_unreadable=True)


@pytest.mark.parametrize(
    "options",
    [
        {"calibration": "cross_fit", "folds": 3},
        {"num_neighbours": 3},
        {"image_score": "reweighted"},
        {"image_score": "max"},
        {"sampler": "random"},
        {"sampler": "greedy_coreset"},
        {"search": "ivf"},
        {"search": "flat"},
        {"embedding": "reference", "pretrain_embed_dim": 30, "target_embed_dim": 20},
    ],
)
def test_with_every_kind_of_score_and_search(good, by_name, rng, options):
    """Updates, certifies like a fit and rolls back to the bit, whatever the options."""
    if "search" in options:
        pytest.importorskip("faiss", reason="the extra 'ann' is not installed")
    model = PatchCore.fit(good, dataclasses.replace(SMALL, **options), backbone=FakeBackbone())
    image = striped(rng, stain=True)
    new = model.update([image], remove=["image 3"], images=by_name)
    assert new.predict(image).score < model.predict(image).score
    assert same(new.rollback(), model)
    assert new.rollback().predict(image).score == model.predict(image).score
    assert same(model.update(images=by_name), model)


def test_training_images_are_read_two_at_a_time(model, by_name, monkeypatch):
    """Each waits until another is read beside it; what comes of them is what one by one gives."""
    expected = model.update(remove=["image 3", "image 5"], images=by_name, time=WHEN)
    both, real = threading.Barrier(2), recalibrate.Again._read

    def together(self, name):
        if len(self.names) % 2 == 0:
            both.wait(timeout=60)
        return real(self, name)

    monkeypatch.setattr(recalibrate.Again, "_read", together)
    again = recalibrate.Again(model, model._describe, ["image 3", "image 5", "image 6", "image 7"], by_name)
    assert [each.image for each in again] == [3, 5, 6, 7]
    assert same(model.update(remove=["image 3", "image 5"], images=by_name, time=WHEN), expected)
