"""The bank's life in the model file: what is written comes back, older files begin one, and nothing impossible gets
through."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from parts import striped
from patchbank import Config, PatchCore, Runtime
from patchbank.backbones.fake import FakeBackbone
from patchbank.errors import ModelFileError
from patchbank.model_file import archive as artifact
from patchbank.model_file.archive import ModelFile
from patchbank.model_file.contents import packed, read

GOLDEN = Path(__file__).parent / "golden"
SMALL = Config(image_size=64, coreset_ratio=0.3, thumbnail_size=16, spare_ratio=0.2)


@pytest.fixture(scope="module")
def lived():
    """A model with five versions: fit, update (one image learned, one forgotten), rollback, update, threshold."""
    rng = np.random.default_rng(0)
    good = [striped(rng) for _ in range(6)]
    model = PatchCore.fit(good, SMALL, backbone=FakeBackbone())
    names = {f"image {number}": image for number, image in enumerate(good)}
    model = model.update(
        [striped(rng, stain=True)], remove=["image 2"], images=names, note="Schliff geändert", author="ö"
    )
    return model.rollback().update([striped(rng, stain=True)]).with_threshold(max_false_alarms=0.3, confidence=0)


@pytest.fixture
def path(lived, tmp_path):
    lived.save(tmp_path / "m")
    return tmp_path / "m"


def test_a_life_survives_the_file(lived, path, tmp_path):
    again = PatchCore.load(path)
    assert again.versions == lived.versions == read(path).history.versions
    assert again.training_images == lived.training_images
    np.testing.assert_array_equal(again.history.archived.vectors, lived.history.archived.vectors)
    for a, b in zip(again.history.past, lived.history.past, strict=True):
        np.testing.assert_array_equal(a.normal.cells, b.normal.cells)
        np.testing.assert_array_equal(a.scene.measures, b.scene.measures)
        assert a.scene.max_false_alarms == b.scene.max_false_alarms
        np.testing.assert_array_equal(a.members, b.members)
        np.testing.assert_array_equal(a.calibration.scores, b.calibration.scores)
        assert a.calibration.images == b.calibration.images
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_scene_that_stays_is_in_the_file_once(lived, path):
    """It is larger than all else that a version keeps."""
    assert [version["scene"] for version in ModelFile(path).manifest["versions"]] == [
        "own",
        "own",
        "next",
        "next",
        "own",
    ]
    again = PatchCore.load(path)
    assert again.history.past[2].scene is again.history.past[3].scene is again.scene
    assert again.history.past[1].scene is not again.scene


def test_the_bank_in_the_file_is_the_present_one(lived, path):
    """A reader that knows nothing of versions gets the right bank and threshold."""
    manifest = ModelFile(path).manifest
    assert manifest["bank"]["size"] == len(lived.bank)
    assert manifest["calibration"]["threshold"] == lived.calibration.threshold == manifest["versions"][-1]["threshold"]


def test_every_version_can_be_had_back_from_the_file(lived, path):
    again = PatchCore.load(path)
    for number in (1, 2, 3, 4):
        a, b = again.rollback(number), lived.rollback(number)
        np.testing.assert_array_equal(a.bank.vectors, b.bank.vectors)
        assert a.calibration.threshold == b.calibration.threshold == lived.versions[number - 1].threshold


def test_no_spares_no_history_no_entries(tmp_path):
    rng = np.random.default_rng(0)
    images = [striped(rng) for _ in range(4)]
    PatchCore.fit(images, dataclasses.replace(SMALL, spare_ratio=0), backbone=FakeBackbone()).save(tmp_path / "m")
    assert [name for name in ModelFile(tmp_path / "m").names() if name.startswith(("reserve", "versions"))] == []
    loaded = PatchCore.load(tmp_path / "m")
    assert len(loaded.history.archived) == 0
    assert loaded.update([striped(rng, stain=True)]).versions[-1].number == 2


def test_a_file_of_version_1_begins_its_life_when_it_is_read(lived, tmp_path):
    """It has one version, no spares, and can be updated, saved and rolled back."""
    rng = np.random.default_rng(0)
    fitted = PatchCore.fit([striped(rng) for _ in range(4)], SMALL, backbone=FakeBackbone())
    manifest, entries = packed(fitted)
    del manifest["versions"], entries["reserve.safetensors"]
    artifact.write(tmp_path / "old", manifest, entries)
    with zipfile.ZipFile(tmp_path / "old") as archive:
        assert "versions" not in json.loads(archive.read("manifest.json"))
    old = PatchCore.load(tmp_path / "old")
    (version,) = old.versions
    assert (version.action, version.images, version.size) == ("fit", 4, len(fitted.bank))
    new = old.update([striped(rng, stain=True)])
    new.save(tmp_path / "new")
    back = PatchCore.load(tmp_path / "new").rollback()
    np.testing.assert_array_equal(back.bank.vectors, fitted.bank.vectors)
    assert back.calibration.threshold == fitted.calibration.threshold


def test_an_unknown_covering_radius_is_null(tmp_path):
    """A random sample of more than the memory holds knows none; NaN has no place in a manifest."""
    rng = np.random.default_rng(0)
    config = Config(image_size=256, sampler="random", coreset_size=30, thumbnail_size=0, distance_scaling=0)
    images = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(12)]
    model = PatchCore.fit(images, config, backbone=FakeBackbone(), runtime=Runtime(memory="2MB"))
    assert np.isnan(model.bank.covering_radius)
    model.update([striped(rng)]).save(tmp_path / "m")
    manifest = ModelFile(tmp_path / "m").manifest
    assert manifest["bank"]["covering_radius"] is None
    assert [version["covering_radius"] for version in manifest["versions"]] == [None, None]
    loaded = PatchCore.load(tmp_path / "m")
    json.dumps(loaded.diff().to_dict(), allow_nan=False)
    assert np.isnan(loaded.bank.covering_radius)
    assert np.isnan(loaded.rollback().bank.covering_radius)


def version(which, /, **changes):
    """Changes of one version of the manifest."""

    def change(manifest, tensors):
        manifest["versions"][which - 1].update(changes)

    return change


def tensor(entry, name, values):
    """A changed tensor of an entry: a function of the old one."""

    def change(manifest, tensors):
        tensors[entry][name] = values(tensors[entry][name])

    return change


def drop_version(manifest, tensors):
    del manifest["versions"][1]


def drop_key(manifest, tensors):
    del manifest["versions"][1]["note"]


def first_set_to(value):
    def change(old):
        new = old.copy()
        new.flat[0] = value
        return new

    return change


IMPOSSIBLE = {
    "no list": lambda manifest, tensors: manifest.update(versions={"a": 1}),
    "none": lambda manifest, tensors: manifest.update(versions=[]),
    "null": lambda manifest, tensors: manifest.update(versions=None),
    "one missing": drop_version,
    "a key missing": drop_key,
    "unknown key": version(2, evil=1),
    "unknown action": version(2, action="hack"),
    "unknown calibration": version(2, calibrated="surely"),
    "no calibration": version(2, calibrated="none"),
    "wrong number": version(2, number=3),
    "text for number": version(2, images="6"),
    "true for number": version(1, refilled=True),
    "negative": version(2, refilled=-1),
    "infinite": version(2, covering_radius=float("1e999")),
    "huge": version(2, covering_radius=10**400),
    "note no text": version(2, note=["x"]),
    "fit later": version(2, action="fit"),
    "update first": version(1, action="update"),
    "back to nowhere": version(3, restored=None),
    "back to itself": version(3, restored=3),
    "back to zero": version(3, restored=0),
    "more images than names": version(1, images=9),
    "no images": version(1, images=0),
    "wrong count": version(2, images=7),
    "wrong size": version(2, size=3),
    "wrong size at last": version(5, size=3),
    "no promise": version(1, max_false_alarms=None),
    "impossible promise": version(1, max_false_alarms=2),
    "promise of text": version(1, confidence="high"),
    "no radius but text": version(1, covering_radius="large"),
    "no number": version(2, number=None),
    "added no record": version(2, added=[3]),
    "added nothing": version(2, added=[{}]),
    "removed unknown": version(2, removed=[{"image": 99, "name": "x", "vectors": 1, "uncovered": 0}]),
    "removed twice": version(2, removed=[{"image": 2, "name": "image 2", "vectors": 1, "uncovered": 0}] * 2, images=6),
    "removed under another name": version(2, removed=[{"image": 2, "name": "x", "vectors": 1, "uncovered": 0}]),
    "no calibration images": version(1, calibration_images=0),
    "calibration images text": version(1, calibration_images="6"),
    "no normal distances": version(1, normal_images=0),
    "unknown scene": version(1, scene="mine"),
    "a scene that is not there": version(3, scene="own"),
    "no scene but one there": version(1, scene="none"),
    "scene not finite": tensor("versions/000001.safetensors", "scene.measures", first_set_to(np.nan)),
    "scene of no cells": tensor("versions/000001.safetensors", "scene.kept", lambda old: old[:-1]),
    "state missing": lambda manifest, tensors: tensors.pop("versions/000002.safetensors"),
    "state of no version": lambda manifest, tensors: tensors.update(
        {"versions/000009.safetensors": tensors["versions/000001.safetensors"]}
    ),
    "member not there": tensor("versions/000001.safetensors", "members", first_set_to(10**6)),
    "member negative": tensor("versions/000001.safetensors", "members", first_set_to(-1)),
    "member twice": tensor("versions/000001.safetensors", "members", lambda old: np.zeros_like(old)),
    "members of a removed image": tensor("reserve.safetensors", "image", lambda old: np.full_like(old, 2)),
    "members too few": tensor("versions/000001.safetensors", "members", lambda old: old[:-1]),
    "image not there": tensor("versions/000001.safetensors", "calibration_image", first_set_to(99)),
    "scores not finite": tensor("versions/000001.safetensors", "scores", first_set_to(np.nan)),
    "normal distances not finite": tensor("versions/000001.safetensors", "overall", first_set_to(np.nan)),
    "scores too few": tensor("versions/000001.safetensors", "scores", lambda old: old[:-1]),
    "reserve not finite": tensor("reserve.safetensors", "vectors", first_set_to(np.nan)),
    "reserve of other width": tensor("reserve.safetensors", "vectors", lambda old: old[:, :-1].copy()),
    "reserve of no image": tensor("reserve.safetensors", "image", first_set_to(99)),
    "reserve off the grid": tensor("reserve.safetensors", "row", first_set_to(99)),
    "reserve too short": tensor("reserve.safetensors", "vectors", lambda old: old[:-1]),
    "bank of a removed image": tensor("bank.safetensors", "image", lambda old: np.full_like(old, 6)),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_life_is_refused(lived, tmp_path, case):
    """Checksums are right in all of these: whoever can write the file can write them."""
    manifest, entries = packed(lived)
    manifest = json.loads(json.dumps(manifest))
    from safetensors.numpy import load

    tensors = {name: dict(load(data)) for name, data in entries.items() if name.endswith(".safetensors")}
    IMPOSSIBLE[case](manifest, tensors)
    changed = {name: artifact.tensor_bytes(values) for name, values in tensors.items()}
    entries = {name: data for name, data in entries.items() if name in changed or not name.endswith(".safetensors")}
    try:
        artifact.write(tmp_path / "m", manifest, entries | changed)
    except ValueError:  # infinity has no place in JSON; by hand it has
        artifact.write(tmp_path / "m", {**manifest, "versions": "HERE"}, entries | changed)
        text = json.dumps(manifest["versions"]).encode()
        _rewrite(tmp_path / "m", lambda data: data.replace(b'"HERE"', text))
    for reader in (PatchCore.load, read):
        with pytest.raises(ModelFileError):
            reader(tmp_path / "m")


def _rewrite(path, change):
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["manifest.json"] = change(content["manifest.json"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def test_the_file_of_these_tests_is_possible(lived, tmp_path):
    """The test of the tests: unchanged, it is read."""
    artifact.write(tmp_path / "m", *packed(lived))
    assert PatchCore.load(tmp_path / "m").versions == lived.versions


def test_a_real_file_of_version_1_can_be_updated(tmp_path):
    """Written by the patchbank that knew no versions."""
    old = PatchCore.load(GOLDEN / "version1.patchbank")
    assert [(version.number, version.action, version.calibrated) for version in old.versions] == [(1, "fit", "exact")]
    rng = np.random.default_rng(0)
    new = old.update([rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)], note="new")
    new.save(tmp_path / "m")
    back = PatchCore.load(tmp_path / "m").rollback()
    np.testing.assert_array_equal(back.bank.vectors, old.bank.vectors)
    assert back.calibration.threshold == old.calibration.threshold
    assert len(new.bank) > len(old.bank)
