"""A model can be copied and sent: deepcopy, pickle, another process, joblib. The copy gives the same bits."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from parts import striped
from patchbank import BackboneError, Config, PatchCore, Runtime
from patchbank.backbones.fake import FakeBackbone
from patchbank.imaging.images import Skipped

SMALL = Config(image_size=64, coreset_ratio=0.3, max_false_alarms=0.2, confidence=0)


@pytest.fixture(scope="module")
def good():
    rng = np.random.default_rng(0)
    return [striped(rng) for _ in range(8)]


@pytest.fixture(scope="module")
def model(good, tmp_path_factory):
    """Of a network in ONNX Runtime, with what the file does not hold: threads, and images that were skipped."""
    path = tmp_path_factory.mktemp("copies") / "part.patchbank"
    PatchCore.fit(good, SMALL, backbone=FakeBackbone()).save(path)
    loaded = PatchCore.load(path, runtime=Runtime(threads=1))
    return dataclasses.replace(loaded, skipped=(Skipped("odd.png", "odd.png: is empty"),))


def predicted(model, image):
    """At the top of the module, so that another process finds it."""
    result = model.predict(image)
    return result.score, result.anomaly_map, result.made_by


@pytest.mark.parametrize("way", ["deepcopy", *range(2, pickle.HIGHEST_PROTOCOL + 1)])
def test_a_copy_is_the_same_model(model, good, way):
    twin = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model, way))
    assert type(twin) is PatchCore
    assert twin is not model
    assert twin.config == model.config
    assert twin.skipped == model.skipped
    assert twin.backbone.runtime == model.backbone.runtime == Runtime(threads=1)
    assert twin.made_by == model.made_by
    assert twin.versions == model.versions
    assert twin.thumbnails == model.thumbnails
    image = striped(np.random.default_rng(7), defect=True)
    ours, theirs = model.predict(image), twin.predict(image)
    assert ours.score == theirs.score
    np.testing.assert_array_equal(ours.anomaly_map, theirs.anomaly_map)
    assert twin.explain(theirs).to_dict() == model.explain(ours).to_dict()


def test_a_copy_saves_the_same_file(model, tmp_path):
    model.save(tmp_path / "a")
    pickle.loads(pickle.dumps(model)).save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_copy_of_a_model_from_an_older_file_answers_for_that_file(good, tmp_path):
    """The bytes of a copy are of the present format; who made a result is still told by the file that was loaded."""
    PatchCore.fit(good, SMALL, backbone=FakeBackbone()).save(tmp_path / "a")
    loaded = PatchCore.load(tmp_path / "a")
    vars(loaded)["made_by"] = dataclasses.replace(loaded.made_by, sha256="of the old file")
    assert copy.deepcopy(loaded).made_by.sha256 == "of the old file"


def test_a_shallow_copy_costs_nothing(model):
    assert copy.copy(model) is model


def test_another_process_gets_a_session_of_its_own(model):
    """What joblib, Ray and torch's loaders do: a fresh interpreter, which unpickles the model."""
    image = striped(np.random.default_rng(7), defect=True)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        score, heat, made_by = pool.submit(predicted, model, image).result(timeout=120)
    ours = predicted(model, image)
    assert (score, made_by) == (ours[0], ours[2])
    np.testing.assert_array_equal(heat, ours[1])


def test_joblib_takes_a_model(model, tmp_path):
    joblib = pytest.importorskip("joblib")
    joblib.dump(model, tmp_path / "model.joblib")
    image = striped(np.random.default_rng(7))
    assert joblib.load(tmp_path / "model.joblib").predict(image).score == model.predict(image).score


def test_a_trusted_model_stays_what_it_is(model, monkeypatch):
    """A pickle runs code as it is: limits for files from strangers are no use there, and the model passed them, or was
    vouched for."""
    monkeypatch.setattr("patchbank.model_file.schema.MAX_PIXELS", 1)
    assert copy.deepcopy(model).backbone.runtime.trusted is False


def test_a_users_network_cannot_be_copied_and_the_error_says_what_to_do(good):
    own = PatchCore.fit(good, SMALL, backbone=FakeBackbone())
    for duplicate in (copy.deepcopy, pickle.dumps):
        with pytest.raises(BackboneError, match=r"got FakeBackbone.*save the model, and load its file"):
            duplicate(own)


def test_a_network_can_be_copied_by_itself(model):
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype=np.float32)
    twin = pickle.loads(pickle.dumps(model.backbone))
    assert twin.runtime == model.backbone.runtime
    for ours, theirs in zip(model.backbone.features(image), twin.features(image), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_damaged_bytes_are_refused(model):
    """A pickle that was cut or changed on its way must not give a model that predicts something else."""
    data = bytearray(pickle.dumps(model))
    at = data.find(model.bank.vectors.tobytes()[:64])
    data[at] ^= 1
    with pytest.raises(Exception, match="damaged"):
        pickle.loads(bytes(data))
