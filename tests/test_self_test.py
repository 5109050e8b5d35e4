"""The self-test: a model keeps some of its training images, as the network gets them, with the scores that it gives
them; on a machine, or with a file, that computes otherwise it refuses to work."""

from __future__ import annotations

import dataclasses
import json
import zipfile

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from parts import striped
from patchbank import Config, PatchCore, Runtime, SelfTestError
from patchbank.backbones.fake import FakeBackbone
from patchbank.backbones.session import OnnxBackbone
from patchbank.errors import ImageError
from patchbank.features.extract import resized
from patchbank.fit import self_test as keeping
from patchbank.fit.self_test import IMAGES, ImageSample
from patchbank.imaging import lossless
from patchbank.inspection.self_test import TOLERANCE
from patchbank.model_file import archive
from patchbank.model_file.contents import packed
from patchbank.search.searcher import build_searcher

SMALL = Config(image_size=64, coreset_ratio=0.3, thumbnail_size=0)
KINDS = {
    "colour": {},
    "region": {"include": "0,0 0.6,0 0.6,1 0,1"},
    "tiles": {"image_size": 192, "tile_size": 128, "tile_overlap": 32},
    "exactly that size": {"image_size": (64, 96)},
    "five channels": {"channels": 5},
    "twelve bits": {"white": 4095.0},
    "reference embedding": {"embedding": "reference", "pretrain_embed_dim": 32, "target_embed_dim": 24},
    "three neighbours": {"num_neighbours": 3},
    "mean of the top": {"image_score": "top_fraction"},
    "re-weighted": {"image_score": "reweighted"},
    "plain distances": {"distance_scaling": 0.0},
    "every patch": {"sampler": "identity"},
    "set aside": {"calibration": "holdout"},
    "no calibration": {"calibration": "none"},
}


@pytest.fixture
def good(rng):
    return [striped(rng) for _ in range(12)]


@pytest.fixture
def by_name(good):
    return {f"image {number}": image for number, image in enumerate(good)}


@pytest.fixture
def model(good):
    return PatchCore.fit(good, SMALL, backbone=FakeBackbone())


def of_kind(kind, good):
    if kind == "five channels":
        return [np.concatenate([image, image[::-1, :, :2]], axis=2) for image in good]
    return [image.astype(np.uint16) * 16 for image in good] if kind == "twelve bits" else good


def numbers(model):
    return [each.image for each in model.self_test_images]


# --- what is kept ---


@pytest.mark.parametrize("kind", KINDS)
def test_the_pictures_are_what_the_network_gets_and_their_scores_those_of_predict(good, kind):
    """To the bit, for every kind of image and option."""
    images = of_kind(kind, good)
    model = PatchCore.fit(images, dataclasses.replace(SMALL, **KINDS[kind]), backbone=FakeBackbone())
    assert len(model.self_test_images) == IMAGES
    for each in model.self_test_images:
        image, result = images[each.image], model.predict(images[each.image])
        wanted = resized(image_of(model, image), model.backbone, model.config, model.roi)
        picture = lossless.decoded(each.picture, model.config.groups)
        assert picture.dtype == wanted.dtype
        np.testing.assert_array_equal(picture, wanted)
        np.testing.assert_array_equal(each.distances, result.distances)
        assert each.score == (float(result.patch_scores.max()) if kind == "re-weighted" else result.score)


def image_of(model, image):
    from patchbank.imaging.images import read_image

    return read_image(image, model.config.image_format)


def test_the_highest_and_the_lowest_left_out_score_are_among_them(model):
    """All twelve images were candidates."""
    scores = model.calibration.scores
    assert {int(scores.argmax()), int(scores.argmin())} <= set(numbers(model))


def test_an_iterator_of_the_same_images_keeps_the_same(model, good):
    again = PatchCore.fit(iter(good), SMALL, backbone=FakeBackbone())
    assert [(each.image, each.picture, each.score) for each in again.self_test_images] == [
        (each.image, each.picture, each.score) for each in model.self_test_images
    ]


def test_another_seed_keeps_others(good):
    kept = {
        tuple(numbers(PatchCore.fit(good, dataclasses.replace(SMALL, seed=seed), backbone=FakeBackbone())))
        for seed in range(4)
    }
    assert len(kept) > 1


def test_fewer_images_than_that_are_all_kept(good):
    assert numbers(PatchCore.fit(good[:2], SMALL, backbone=FakeBackbone())) == [0, 1]


def test_copies_of_one_picture_are_kept_once(good):
    model = PatchCore.fit([good[0]] * 5 + good[1:2], SMALL, backbone=FakeBackbone())
    assert len(model.self_test_images) == 2


def test_dropped_outliers_are_not_kept(good, rng):
    """The images are known from the first fit, and not read again."""
    odd = striped(rng, defect=True)
    model = PatchCore.fit([*good, odd], dataclasses.replace(SMALL, drop_outliers=True), backbone=FakeBackbone())
    assert [each.name for each in model.dropped] == ["image 12"]
    assert len(model.self_test_images) == IMAGES
    for each in model.self_test_images:
        np.testing.assert_array_equal(
            lossless.decoded(each.picture, 1), resized(good[each.image], model.backbone, model.config, None)
        )
    model.run_self_test()


def test_pictures_take_a_bounded_part_of_the_file(good, monkeypatch):
    """But for the first: a model should have a self-test."""
    monkeypatch.setattr(keeping, "FILE_BYTES", 1)
    assert len(PatchCore.fit(good, SMALL, backbone=FakeBackbone()).self_test_images) == 1


def test_a_model_of_pictures_that_are_too_large_has_none_and_says_so(good, monkeypatch, caplog):
    monkeypatch.setattr(lossless, "MAX_BYTES", 1)
    model = PatchCore.fit(good, SMALL, backbone=FakeBackbone())
    assert model.self_test_images == ()
    assert "has no self-test" in caplog.text
    with pytest.raises(SelfTestError, match="has no self-test"):
        model.run_self_test()


def test_a_very_long_image_is_not_kept(good, rng):
    """It comes out larger than images that are inspected, and so much is not read from a file."""
    long = striped(rng, size=(8, 4000))
    model = PatchCore.fit([*good[:3], long], SMALL, backbone=FakeBackbone())
    assert numbers(model) == [0, 1, 2]


@settings(max_examples=50)
@given(order=st.permutations(range(20)), most=st.integers(0, 8), budget=st.sampled_from([0, 10**12]))
def test_the_sample_does_not_depend_on_the_order_and_is_bounded(order, most, budget):
    """A resumed fit, and one without some images, keep what a plain one keeps."""
    pictures = [np.full((16, 16, 3), number, np.uint8) for number in range(20)]

    def sampled(order):
        sample = ImageSample(0, budget, most)
        keep = sample.keeping(lambda image: image)
        for number in order:
            sample.offer(number, keep(pictures[number]))
        return sample

    sample = sampled(order)
    assert list(sample.pictures()) == list(sampled(range(20)).pictures())
    assert len(sample.pictures()) == (most if budget else min(most, IMAGES))
    again = ImageSample(0, budget, most)
    again.restore(sample.state(), 20)
    assert list(again.pictures()) == list(sample.pictures())
    assert again.state()["sampled"][0].tolist() == sample.state()["sampled"][0].tolist()


# --- what is noticed ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_passes_its_self_test(good, tmp_path, kind):
    """Its network runs in another program than the fit's here: the scores differ by rounding."""
    images = of_kind(kind, good)
    PatchCore.fit(images, dataclasses.replace(SMALL, **KINDS[kind]), backbone=FakeBackbone()).save(tmp_path / "m")
    found = PatchCore.load(tmp_path / "m", self_test=True).run_self_test()
    assert 0 < found.difference < TOLERANCE / 10
    assert [each.image for each in found.images] == [
        f"image {each}" for each in numbers(PatchCore.load(tmp_path / "m"))
    ]
    PatchCore.load(tmp_path / "m").save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


def with_vectors(model, vectors):
    bank = dataclasses.replace(model.bank, vectors=vectors)
    return dataclasses.replace(model, bank=bank, searcher=build_searcher(vectors, model.config))


def a_vector(model):
    """One vector, the nearest of a patch of the pictures: moved by a hundredth of its length."""
    each = model.self_test_images[0]
    picture = lossless.decoded(each.picture, 1)
    nearest = model.predict(picture).nearest[0, 0]
    vectors = model.bank.vectors.copy()
    vectors[nearest] *= 1.01
    return with_vectors(model, vectors)


def network(model, info=None, weights=1.0):
    graph = onnx.load_from_string(model.backbone.to_onnx())
    for each in graph.graph.initializer:
        values = numpy_helper.to_array(each)
        if values.dtype == np.float32 and values.ndim > 1:
            each.CopyFrom(numpy_helper.from_array((values * np.float32(weights)).astype(np.float32), each.name))
    return dataclasses.replace(model, backbone=OnnxBackbone(graph.SerializeToString(), info or model.backbone.info))


def configured(**options):
    return lambda model: dataclasses.replace(model, config=dataclasses.replace(model.config, **options))


FAULTS = {
    "one vector of the bank": a_vector,
    "the whole bank": lambda model: with_vectors(model, model.bank.vectors * np.float32(1.001)),
    "the network's weights": lambda model: network(model, weights=1.001),
    "half a grey level": lambda model: network(
        model, dataclasses.replace(model.backbone.info, mean=tuple(m - 0.5 for m in model.backbone.info.mean))
    ),
    "another patch size": configured(patch_size=5),
    "another stride": configured(patch_stride=2),
    "another scaling": lambda model: dataclasses.replace(
        model,
        bank=dataclasses.replace(
            model.bank, expected=dataclasses.replace(model.bank.expected, power=model.bank.expected.power + 0.5)
        ),
    ),
    "another score": configured(image_score="top_fraction", top_fraction=0.5),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_noticed(model, fault):
    with pytest.raises(SelfTestError, match="does not score its own images as it did"):
        FAULTS[fault](model).run_self_test()


def test_a_picture_that_cannot_be_decoded_is_no_self_test_passed(model):
    first, *others = model.self_test_images
    damaged = dataclasses.replace(first, picture=first.picture[:-40])
    with pytest.raises(SelfTestError, match="cannot be used"):
        dataclasses.replace(model, self_test_images=(damaged, *others)).run_self_test()


def test_numbers_that_are_none_do_not_pass(model):
    first, *others = model.self_test_images
    for damaged in (
        dataclasses.replace(first, score=float("nan")),
        dataclasses.replace(first, length=0.0),
        dataclasses.replace(first, distances=first.distances[:-1]),
    ):
        with pytest.raises(SelfTestError):
            dataclasses.replace(model, self_test_images=(damaged, *others)).run_self_test()


def test_black_pictures_whose_patches_have_no_length_pass():
    """Nothing is divided by it."""
    images = [np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 1, np.uint8)]
    assert PatchCore.fit(images, SMALL, backbone=FakeBackbone()).run_self_test().difference == 0


# --- changes of the model ---


def test_the_picture_of_a_removed_image_leaves(model, by_name, tmp_path):
    """And what takes its place, from the other images, has the new bank's scores."""
    gone = model.bank.images[numbers(model)[0]]
    before = {each.image: each.picture for each in model.self_test_images}
    new = model.update(remove=[gone], images=by_name)
    assert before.keys() - set(numbers(new)) == {numbers(model)[0]}
    assert len(new.self_test_images) == IMAGES
    new.save(tmp_path / "m")
    with zipfile.ZipFile(tmp_path / "m") as file:
        pictures = [file.read(name) for name in file.namelist() if name.startswith("self_test/")]
    assert len(pictures) == IMAGES
    assert before[numbers(model)[0]] not in pictures
    PatchCore.load(tmp_path / "m", self_test=True)
    assert numbers(model.update(remove=[gone], recalibrate=False)) == sorted(before.keys() - {numbers(model)[0]})


def test_an_update_measures_them_with_the_new_bank(model, rng):
    new = model.update([striped(rng, stain=True)])
    assert numbers(new) == numbers(model)
    new.run_self_test()
    for each in new.self_test_images:
        assert new.predict(lossless.decoded(each.picture, 1)).score == each.score
    back = new.rollback()
    assert [(each.image, each.score) for each in back.self_test_images] == [
        (each.image, each.score) for each in model.self_test_images
    ]
    assert back.with_threshold(max_false_alarms=0.3).self_test_images == back.self_test_images


def test_a_rollback_keeps_no_picture_of_an_image_that_its_version_lacks(good, rng):
    model = PatchCore.fit(good[:3], SMALL, backbone=FakeBackbone())
    new = model.update([striped(rng, stain=True)])
    assert numbers(new) == [0, 1, 2, 3]
    new.run_self_test()
    assert numbers(new.rollback()) == [0, 1, 2]


def test_a_model_of_an_older_patchbank_has_none_and_can_get_one(model, by_name, tmp_path, monkeypatch):
    manifest, entries = packed(model)
    del manifest["self_test"]
    monkeypatch.setattr(archive, "FORMAT_VERSION", 2)
    others = {name: data for name, data in entries.items() if not name.startswith("self_test")}
    archive.write(tmp_path / "old", manifest, others)
    monkeypatch.undo()
    old = PatchCore.load(tmp_path / "old")
    assert old.self_test_images == ()
    with pytest.raises(SelfTestError, match="has no self-test"):
        PatchCore.load(tmp_path / "old", self_test=True)
    new = old.update(images=by_name)
    assert len(new.run_self_test().images) == IMAGES
    assert len(old.update([by_name["image 0"] // 2]).self_test_images) == 1  # what was added is all that it has


def test_a_self_test_says_what_it_found_as_json(model):
    found = model.run_self_test()
    assert json.loads(json.dumps(found.to_dict()))["images"][0].keys() == {"image", "expected", "score", "difference"}
    assert found.to_dict()["tolerance"] == TOLERANCE


# --- pictures without loss ---


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pictures_come_back_to_the_bit(rng, groups, dtype):
    picture = (rng.random((32, 48, 3 * groups)) * 255).astype(dtype)
    data = lossless.encoded(picture)
    assert lossless.check(data, groups) == (32, 48)
    np.testing.assert_array_equal(lossless.decoded(data, groups), picture)


def test_other_files_are_no_such_pictures(rng):
    for data in (
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0" + bytes(40),
        lossless.encoded(np.zeros((9, 9, 3), "u1")),
    ):
        with pytest.raises(ImageError):
            lossless.decoded(data, 2)


# --- real images ---


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_real_model_passes_with_one_thread_and_without_the_compiled_part(data_root, tmp_path, monkeypatch, precision):
    paths = sorted((data_root / "bottle" / "train" / "good").iterdir())[:8]
    PatchCore.fit(paths, Config(image_size=160, precision=precision)).save(tmp_path / "m")
    monkeypatch.setenv("PATCHBANK_NATIVE", "0")
    model = PatchCore.load(tmp_path / "m", runtime=Runtime(threads=1), self_test=True)
    info = model.backbone.info
    brighter = dataclasses.replace(info, mean=tuple(value - 1 for value in info.mean))
    with pytest.raises(SelfTestError):
        dataclasses.replace(model, backbone=OnnxBackbone(model.backbone.to_onnx(), brighter)).run_self_test()
