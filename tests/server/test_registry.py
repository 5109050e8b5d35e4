"""Models over HTTP: a file comes in as a candidate or not at all, and goes out as it came."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from parts import striped
from patchbank import PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.store import models, reviews
from patchbank.store.inspections import UUID
from patchbank.store.values import Actor
from server.conftest import SMALL, calling, service_of

PATH = "/api/v1/models"
FILE = {"Content-Type": "application/octet-stream"}
BY = Actor("test")


@pytest.fixture(scope="module")
def call(model):
    with calling(service_of(model)) as caller:
        yield caller


@pytest.fixture(scope="module")
def store(call):
    return call.app.state.service.store


@pytest.fixture(scope="module")
def changed(model, tmp_path_factory) -> PatchCore:
    return model.with_threshold(max_false_alarms=0.4, time="2026-01-01T00:00:00+00:00", note="fewer misses")


def data_of(model, tmp_path) -> bytes:
    model.save(tmp_path / "m.patchbank")
    return (tmp_path / "m.patchbank").read_bytes()


def upload(call, content, name="part", **params):
    return call.post(PATH, params={"name": name, **params}, content=content, headers=FILE)


def left_over(store) -> list[str]:
    """Files of models that are neither whole nor gone."""
    return [path.name for path in store.models.root.iterdir() if path.name.startswith(".")]


def test_an_uploaded_file_is_a_candidate(call, store, changed, tmp_path):
    data = data_of(changed, tmp_path)
    answer = upload(call, data, reason="from the laboratory")
    assert answer.status_code == 201, answer.text
    said = answer.json()
    about = {"model": "part", "number": 2, "status": "candidate", "bank_version": 2, "note": "fewer misses"}
    assert {name: said[name] for name in about} == about
    assert said["threshold"] == changed.threshold
    assert said["file_sha256"] == hashlib.sha256(data).hexdigest()
    assert call.get(answer.headers["location"]).json() == said
    again = upload(call, data)
    assert (again.status_code, again.json()["id"]) == (200, said["id"])
    assert [each["number"] for each in call.get(f"{PATH}/part/versions").json()] == [2, 1]
    assert store.models.get(said["file_sha256"]) == data
    assert left_over(store) == []
    assert call.get("/v2/models/part").json()["versions"] == ["1"], "it decides nowhere"


def test_a_new_name_is_a_new_model(call, model, tmp_path):
    assert upload(call, data_of(model, tmp_path), "cap 7").status_code == 201
    found = {each["name"]: each for each in call.get(PATH).json()}
    assert found["cap 7"]["latest"]["number"] == 1
    assert found["cap 7"]["used"] == []
    assert found["part"]["used"] == [{"stream": "part", "kind": "active", "version": 1}]
    assert call.get(f"{PATH}/cap 7").json() == found["cap 7"]


def broken(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("make", [lambda data: b"no model", broken, lambda data: data[:-100], lambda data: b"PK\3\4"])
def test_a_file_that_is_no_model_leaves_nothing(call, store, model, tmp_path, make):
    before = sorted(store.models.digests())
    answer = upload(call, make(data_of(model, tmp_path)), "bad")
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:patchbank:problem:unusable-model"
    assert ".part" not in answer.json()["detail"], "no path of this machine"
    assert str(store.models.root) not in answer.json()["detail"]
    assert sorted(store.models.digests()) == before
    assert left_over(store) == []
    assert call.get(f"{PATH}/bad").status_code == 404


def test_a_model_that_this_machine_scores_otherwise_is_refused(call, model, tmp_path):
    """The self-test: its own images do not score as its file says."""
    images = tuple(replace(each, score=each.score + 1) for each in model.self_test_images)
    answer = upload(call, data_of(replace(model, self_test_images=images), tmp_path), "wrong")
    assert answer.status_code == 422, answer.text
    assert call.get(f"{PATH}/wrong").status_code == 404


@pytest.mark.parametrize(
    ("params", "headers", "content", "status"),
    [
        ({"name": "../evil"}, FILE, b"x", 422),
        ({"name": ""}, FILE, b"x", 422),
        ({}, FILE, b"x", 422),
        ({"name": "a"}, FILE, b"", 422),
        ({"name": "a"}, {"Content-Type": "text/plain"}, b"x", 415),
        ({"name": "a"}, FILE | {"Content-Encoding": "gzip"}, b"x", 415),
    ],
)
def test_uploads_that_are_wrong(call, params, headers, content, status):
    assert call.post(PATH, params=params, content=content, headers=headers).status_code == status


def test_a_model_file_has_a_limit_of_its_own(model):
    """Neither that of images, nor none: it goes to the disk as it comes, and stops there."""
    service = service_of(model, max_body_mb=1, max_model_mb=2)
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 100_000
            yield bytes(100_000)

    with calling(service) as call:
        over_an_image = upload(call, bytes(1_500_000))
        assert over_an_image.status_code == 422
        answer = upload(call, endless())
        assert answer.status_code == 413
        assert "2,000,000" in answer.json()["detail"]
        assert sent <= 2_300_000
        assert upload(call, bytes(2_000_001)).status_code == 413
        assert left_over(service.store) == []
        assert service._held == 0


def test_one_upload_at_a_time(call):
    uploading = call.app.state.service.uploading
    call._runner.run(uploading.acquire())
    try:
        assert upload(call, b"x").status_code == 503
    finally:
        uploading.release()


def test_a_line_fetches_the_file(call, store, model):
    sha256 = model.made_by.sha256
    answer = call.get(f"{PATH}/part/versions/1/file")
    assert hashlib.sha256(answer.content).hexdigest() == sha256
    assert answer.headers["etag"] == f'"{sha256}"'
    same = call.get(f"{PATH}/part/versions/1/file", headers={"If-None-Match": f'"{sha256}"'})
    assert (same.status_code, same.content) == (304, b"")
    assert call.get(f"{PATH}/part/versions/77/file").status_code == 404
    assert call.get(f"{PATH}/none/versions/1/file").status_code == 404


def test_two_versions_of_one_history(call, model, changed, tmp_path):
    upload(call, data_of(changed, tmp_path))
    said = call.get(f"{PATH}/part/diff", params={"from": 1, "to": 2}).json()
    assert said["lineage"] is True
    assert (said["before"]["number"], said["after"]["number"]) == (1, 2)
    assert said["changes"] == changed.diff(1, 2).to_dict()
    back = call.get(f"{PATH}/part/diff", params={"from": 2, "to": 1}).json()
    assert back["changes"] == changed.diff(2, 1).to_dict()
    assert call.get(f"{PATH}/part/diff", params={"from": 1, "to": 9}).status_code == 404
    assert call.get(f"{PATH}/part/diff", params={"from": 1}).status_code == 422


def test_two_fits_have_no_history_in_common(call, tmp_path):
    rng = np.random.default_rng(7)
    other = PatchCore.fit([striped(rng) for _ in range(12)], SMALL, backbone=FakeBackbone())
    number = upload(call, data_of(other, tmp_path)).json()["number"]
    said = call.get(f"{PATH}/part/diff", params={"from": 1, "to": number}).json()
    assert (said["lineage"], said["changes"]) == (False, None)


def test_what_thresholds_are_worth(call, store, model, files):
    """Every promise with its threshold, as `with_threshold` would set it, and what labels say of it."""
    post = {"Content-Type": "image/png", "X-Stream": "part"}
    ids = [call.post("/api/v1/inspections", content=each, headers=post).json()["id"] for each in files]
    for name, label in zip(ids, ("good", "defect", "good"), strict=True):
        store.write(reviews.add, UUID(name), label, by=BY)
    said = call.get(f"{PATH}/part/thresholds", params={"version": 1}).json()
    assert (said["labelled_defects"], said["labelled_good"]) == (1, 2)
    assert said["images"] == len(said["good_scores"]) == model.calibration.support.n
    for each in said["choices"]:
        promise = {name: each[name] for name in ("max_false_alarms", "confidence")}
        wanted = model.with_threshold(**promise).calibration
        assert each["threshold"] == wanted.threshold
        assert (each["satisfied"], each["supported"]) == (wanted.support.satisfied, wanted.support.rate)
        assert each["defects_passed"] == 0, "the defect is far over all of them"
    assert {each["satisfied"] for each in said["choices"]} == {True, False}
    newest = call.get(f"{PATH}/part/thresholds").json()
    assert newest["version"]["number"] == max(each["number"] for each in call.get(f"{PATH}/part/versions").json())


def test_a_model_without_calibration_has_no_thresholds(call, tmp_path):
    rng = np.random.default_rng(3)
    bare = PatchCore.fit([striped(rng) for _ in range(4)], replace(SMALL, calibration="none"), backbone=FakeBackbone())
    assert upload(call, data_of(bare, tmp_path), "bare").status_code == 201
    answer = call.get(f"{PATH}/bare/thresholds")
    assert answer.status_code == 409
    assert "calibration" in answer.json()["detail"]


def test_a_model_without_versions(call, store):
    store.write(models.add, "empty", by=BY)
    assert call.get(f"{PATH}/empty").json()["latest"] is None
    assert call.get(f"{PATH}/empty/versions").json() == []
    assert call.get(f"{PATH}/empty/thresholds").status_code == 404
