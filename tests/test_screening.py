"""Screening: the rule on values worked out by hand; dropping: what a fit without outliers is, and says."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from parts import Counting, striped
from patchbank import Config, PatchCore, Runtime
from patchbank.backbones.fake import FakeBackbone
from patchbank.calibration.outliers import LEAST_IMAGES, LIMIT, limit_for, oddness, oddness_of_scores, screen
from patchbank.errors import ConfigError, ImageError, ModelFileError
from patchbank.fit.self_test import IMAGES
from patchbank.fit.stream import PatchStream
from patchbank.model_file.archive import ModelFile

SIZE = (72, 96)
SMALL = Config(image_size=64, coreset_ratio=0.3, smoothing_sigma=0.5, thumbnail_size=32)


@pytest.fixture
def folder(rng, tmp_path):
    """24 good images, of which number 7 is defective, in two folders: with the bad one alone in its own."""
    paths = []
    for number in range(24):
        path = tmp_path / ("odd" if number == 7 else "good") / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(path), striped(rng, defect=number == 7, size=SIZE))
        paths.append(path)
    return paths


def fit(images, config=SMALL, **more):
    return PatchCore.fit(images, config, backbone=FakeBackbone(), **more)


def dropping(config=SMALL, **changes):
    return dataclasses.replace(config, drop_outliers=True, **changes)


def test_oddness_is_in_half_interquartile_ranges():
    np.testing.assert_allclose(oddness(np.array([1.0, 2, 3, 4, 5]), 0.01), [-2, -1, 0, 1, 2])
    np.testing.assert_allclose(oddness(np.array([3.0, 3, 3, 3, 5]), 0.5), [0, 0, 0, 0, 4])
    np.testing.assert_allclose(oddness_of_scores(np.exp(np.array([1.0, 2, 3, 4, 5]))), [-2, -1, 0, 1, 2])


def test_a_tenth_of_bad_images_does_not_hide_itself(rng):
    scores = np.r_[np.exp(rng.normal(0, 0.05, 180)), np.full(20, 1.6)]
    found = screen(scores, [str(n) for n in range(200)])
    assert [each.name for each in found] == [str(n) for n in range(180, 200)]
    assert found[0].limit == pytest.approx(LIMIT * 1.025)
    assert all(each.oddness > each.limit for each in found)


def test_good_images_are_rarely_suspected(rng):
    """Normally distributed scores, of few images and of many: in at most 2 of 100 sets any is."""
    for count in (8, 12, 30, 200):
        names = [str(n) for n in range(count)]
        sets = [bool(screen(np.exp(rng.normal(0, 0.1, count)), names)) for _ in range(300)]
        assert np.mean(sets) <= 0.02


def test_alike_and_few_images_are_not_suspected():
    assert screen(np.full(20, 3.0), ["a"] * 20) == ()
    assert screen(np.zeros(20), ["a"] * 20) == ()
    assert screen(np.r_[np.ones(LEAST_IMAGES - 2), 100], ["a"] * (LEAST_IMAGES - 1)) == ()
    assert limit_for(LEAST_IMAGES - 1) == np.inf
    assert len(screen(np.r_[np.ones(LEAST_IMAGES - 1), 100], ["a"] * LEAST_IMAGES)) == 1


def test_a_fit_suspects_the_defective_image(folder):
    model = fit(folder)
    assert [each.name for each in model.suspects] == ["odd/07.png"]
    assert model.dropped == ()
    score = model.calibration.scores[model.calibration.images.index("odd/07.png")]
    assert model.suspects[0].score == score
    assert fit(folder, dataclasses.replace(SMALL, calibration="none")).suspects == ()


def test_dropping_is_a_fit_without_the_image(folder, tmp_path):
    rest = [path for path in folder if path.parent.name == "good"]
    model, clean = fit(folder, dropping()), fit(rest)
    assert [each.name for each in model.dropped] == ["odd/07.png"]
    assert model.suspects == ()
    assert model.config.drop_outliers
    np.testing.assert_array_equal(model.bank.vectors, clean.bank.vectors)
    np.testing.assert_array_equal(model.calibration.scores, clean.calibration.scores)
    assert model.bank.images == tuple(f"good/{name}" for name in clean.bank.images)  # as the first fit named them
    assert model.calibration.images == model.bank.images

    model.save(tmp_path / "a")
    loaded = PatchCore.load(tmp_path / "a")
    assert loaded.dropped == model.dropped
    assert loaded.config == model.config
    assert ModelFile(tmp_path / "a").manifest["dropped"][0]["name"] == "odd/07.png"
    fit(folder, dropping()).save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    defective = cv2.imread(str(folder[7]))
    assert model.update([striped(np.random.default_rng(9), size=SIZE)]).dropped == model.dropped
    assert model.predict(defective).is_anomalous


@pytest.mark.parametrize("calibration", ["leave_one_out", "none", "holdout", "cross_fit"])
def test_dropping_with_every_calibration(folder, tmp_path, monkeypatch, calibration):
    """What fits the memory twice is embedded once; the file is the one that embedding it for each fit gives."""
    once, often = Counting(), Counting()
    model = PatchCore.fit(folder, dropping(calibration=calibration), backbone=once)
    model.save(tmp_path / "once")
    monkeypatch.setattr(PatchStream, "held_twice", lambda _: None)
    PatchCore.fit(folder, dropping(calibration=calibration), backbone=often).save(tmp_path / "often")
    assert once.seen == 24 + IMAGES  # of the self-test
    assert often.seen >= 24 + len(model.bank.images) + IMAGES
    assert (tmp_path / "once").read_bytes() == (tmp_path / "often").read_bytes()
    assert "odd/07.png" in [each.name for each in model.dropped]
    assert len(model.bank.images) == 24 - len(model.dropped)


def test_dropping_embeds_again_what_does_not_fit_twice(rng):
    """The first fit holds all patches in 7 MB, but not beside the second's."""
    images = [striped(rng, defect=number == 50, size=SIZE) for number in range(60)]
    small, large = Counting(), Counting()
    config = dropping(coreset_ratio=0.05)
    tight, wide = (
        PatchCore.fit(images, config, runtime=Runtime(memory=memory), backbone=backbone)
        for memory, backbone in (("7MB", small), ("100MB", large))
    )
    assert len(tight.calibration.images) == len(tight.bank.images)
    assert small.seen >= 60 + len(tight.bank.images) + IMAGES
    assert large.seen == 60 + IMAGES
    np.testing.assert_array_equal(tight.bank.vectors, wide.bank.vectors)


def test_nothing_to_drop_is_the_same_model(folder):
    rest = [path for path in folder if path.parent.name == "good"]
    model = fit(rest, dropping())
    assert model.dropped == ()
    np.testing.assert_array_equal(model.bank.vectors, fit(rest).bank.vectors)


def test_dropping_under_a_memory_budget(rng):
    """The images come in chunks, of which calibration keeps a sample; all of them are screened."""
    images = [striped(rng, defect=number == 50, size=SIZE) for number in range(60)]
    model = fit(images, dropping(coreset_ratio=0.05), runtime=Runtime(memory="1MB"))
    assert len(model.calibration.images) < 40
    assert "image 50" in [each.name for each in model.dropped]
    assert "image 51" in model.bank.images  # numbers stay those of the sequence that was given


def test_dropping_leaves_unreadable_images_to_skipping(folder, tmp_path):
    (tmp_path / "good/00.png").write_bytes(b"no image")
    with pytest.raises(ImageError):
        fit(folder, dropping())
    model = fit(folder, dropping(), skip_unreadable=True)
    assert [each.name for each in model.skipped] == [str(folder[0])]
    assert [each.name for each in model.dropped] == ["odd/07.png"]
    assert model.bank.images[0] == "good/01.png"


def test_dropping_goes_on_after_an_interruption(folder, tmp_path):
    class StopError(Exception):
        pass

    def stop(stage, done, total):
        if stage == "embed" and done == 15:
            raise StopError

    checkpoint = tmp_path / "partial"
    with pytest.raises(StopError):
        fit(folder, dropping(), checkpoint=checkpoint, progress=stop)
    seen = []
    model = fit(folder, dropping(), checkpoint=checkpoint, progress=lambda *about: seen.append(about))
    assert ("embed", 3, 24) not in seen
    assert ("embed", 20, 24) in seen
    np.testing.assert_array_equal(model.bank.vectors, fit(folder, dropping()).bank.vectors)
    assert not checkpoint.exists()


def test_dropping_needs_images_that_can_be_read_again(folder):
    with pytest.raises(ConfigError, match="a list"):
        fit(iter(folder), dropping())


def test_a_file_with_impossible_dropped_images_is_refused(folder, tmp_path):
    from patchbank.model_file import archive as artifact
    from patchbank.model_file import contents as packing

    manifest, entries = packing.packed(fit(folder, dropping()))
    for wrong in (
        [{"name": 3, "score": 1.0, "oddness": 1.0, "limit": 1.0}],
        [{"name": "a"}],
        "a",
        [{"name": "a", "score": "x", "oddness": 1.0, "limit": 1.0}],
    ):
        artifact.write(tmp_path / "bad", manifest | {"dropped": wrong}, entries)
        with pytest.raises(ModelFileError):
            PatchCore.load(tmp_path / "bad")
    artifact.write(tmp_path / "old", {k: v for k, v in manifest.items() if k != "dropped"}, entries)
    assert PatchCore.load(tmp_path / "old").dropped == ()
