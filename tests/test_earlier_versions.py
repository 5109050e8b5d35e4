"""A model as it was at an earlier version: for explaining an old inspection, not for going back."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from parts import striped
from patchbank import Config, ConfigError, PatchCore, SelfTestError
from patchbank.backbones.fake import FakeBackbone

SMALL = Config(
    image_size=64, coreset_ratio=0.3, smoothing_sigma=0.5, thumbnail_size=32, spare_ratio=0.5, max_false_alarms=0.2
)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The versions of one model, as they were when each was the present one, and the last one's file."""
    rng = np.random.default_rng(0)
    good = [striped(rng) for _ in range(10)]
    by_name = {f"image {number}": image for number, image in enumerate(good)}
    path = tmp_path_factory.mktemp("story") / "m"
    PatchCore.fit(good, SMALL, backbone=FakeBackbone()).save(path)  # so that all have the network that a file has
    models = [PatchCore.load(path)]
    models.append(models[-1].update([striped(rng, stain=True)]))
    models.append(models[-1].with_threshold(max_false_alarms=0.4, review_rate=0.2))
    models.append(models[-1].update(remove=["image 3"], images=by_name))
    models.append(models[-1].rollback(1))
    models.append(models[-1].update([striped(rng, defect=True)]))
    models[-1].save(path)
    return models, PatchCore.load(path)


def same(a, b):
    assert (a.score, a.threshold, a.pixel_threshold, a.p_value) == (b.score, b.threshold, b.pixel_threshold, b.p_value)
    assert (a.verdict, a.reason, a.in_distribution, a.review_rate) == (
        b.verdict, b.reason, b.in_distribution, b.review_rate
    )  # fmt: skip
    np.testing.assert_array_equal(a.patch_scores, b.patch_scores)
    np.testing.assert_array_equal(a.anomaly_map, b.anomaly_map)
    np.testing.assert_array_equal(a.nearest, b.nearest)


@pytest.mark.parametrize("loaded", [False, True])
def test_each_version_scores_as_it_did_when_it_was_the_present_one(story, rng, loaded):
    """To the bit, verdicts, maps and nearest vectors included."""
    models, file = story
    last = file if loaded else models[-1]
    for image in (striped(rng), striped(rng, defect=True), striped(rng, stain=True)):
        for number, then in enumerate(models, start=1):
            same(last.at(number).predict(image), then.predict(image))


def test_an_old_result_is_explained_by_its_version(story, rng):
    """As it would have been then; the present version may refuse it."""
    models, file = story
    image = striped(rng, stain=True)
    for number, then in enumerate(models, start=1):
        old = then.predict(image)
        expected, found = then.explain(old), file.at(number).explain(old)
        assert [each.score for each in found.findings] == [each.score for each in expected.findings]
        for a, b in zip(found.findings, expected.findings, strict=True):
            assert [(n.image, n.row, n.column, n.distance) for n in a.neighbours] == [
                (n.image, n.row, n.column, n.distance) for n in b.neighbours
            ]


def test_it_says_what_it_is(story):
    models, file = story
    for number, then in enumerate(models, start=1):
        view = file.at(number)
        assert view.versions == then.versions == file.versions[:number]
        assert view.training_images == then.training_images
        assert (view.made_by.version, view.made_by.sha256) == (number, file.made_by.sha256)
        assert (view.threshold, view.config.review_rate) == (then.threshold, then.config.review_rate)
        assert view.diff(1, number).images_added == then.diff(1, number).images_added
        assert view.at(1).made_by.version == 1


def test_the_present_version_is_the_model_itself(story):
    models, _ = story
    assert models[-1].at(len(models)) is models[-1]


@pytest.mark.parametrize("number", [0, -1, 7, 100, "1", None, 2.0, 6.0, True])
def test_a_version_that_there_is_not_is_refused(story, number):
    with pytest.raises(ConfigError, match="expected 1 to 6"):
        story[0][-1].at(number)


def test_nothing_of_it_can_be_changed_and_its_model_stays_as_it_was(story, tmp_path, rng):
    models, _ = story
    view = models[-1].at(2)
    for change in (
        lambda: view.update([striped(rng)]),
        lambda: view.rollback(1),
        lambda: view.with_threshold(max_false_alarms=0.1),
        lambda: view.save(tmp_path / "m"),
    ):
        with pytest.raises(ConfigError, match=r"view of version 2.*rollback\(2\)"):
            change()
    assert not (tmp_path / "m").exists()
    assert len(models[-1].versions) == 6
    with pytest.raises(SelfTestError, match="no self-test"):  # its scores would be the present version's
        view.run_self_test()


def test_it_can_be_copied_and_sent_to_other_processes(story, rng):
    view, image = story[1].at(3), striped(rng)
    for copied in (copy.copy(view), copy.deepcopy(view), pickle.loads(pickle.dumps(view))):
        same(copied.predict(image), view.predict(image))
        assert copied.made_by == view.made_by
        with pytest.raises(ConfigError):
            copied.rollback(1)
