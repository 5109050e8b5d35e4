"""Looking closer: the map of what was kept, why a part was judged so, and the same verdict again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import cv2
import numpy as np
import pytest
from sqlalchemy import update

from patchbank import PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.reports.explanation_pictures import inspected_crop, normal_crop
from patchbank.server.registering import described
from patchbank.store import inspections, models, retention, streams
from patchbank.store.inspections import NewInspection
from patchbank.store.schema import inspections as table
from patchbank.store.values import Actor
from patchbank.util.uuid7 import uuid7
from server.conftest import SMALL, calling, service_of

PATH = "/api/v1/inspections"
BY = Actor("test")


@pytest.fixture(scope="module")
def call(model):
    with calling(service_of(model)) as caller:
        yield caller


@pytest.fixture(scope="module")
def store(call):
    return call.app.state.service.store


def post(call, content) -> str:
    answer = call.post(PATH, content=content, headers={"Content-Type": "image/png", "X-Stream": "part"})
    assert answer.status_code == 201
    return answer.json()["id"]


@pytest.fixture(scope="module")
def defect(call, files):
    return post(call, files[1])


def picture(answer):
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)[:, :, [2, 1, 0]]


def heat(call, name, **look):
    return picture(call.get(f"{PATH}/{name}/heat.png", params=look))


def close(one, other, share=0.01):
    """The same picture, but for a level of colour where float16 was rounded, and few pixels at a contour."""
    return (np.abs(one.astype(int) - other).max(axis=2) > 3).mean() <= share


def test_the_heat_map_is_that_of_the_result(call, defect, model, pictures):
    result = model.predict(pictures[1])
    assert close(heat(call, defect), result.overlay())
    assert not close(heat(call, defect), pictures[1], 0.02)
    assert close(heat(call, defect, colours="blue"), result.overlay("blue"))


def test_how_it_looks_is_the_callers_choice(call, defect, pictures):
    none = heat(call, defect, opacity=0, contours=False)
    np.testing.assert_array_equal(none, pictures[1])
    half, full = heat(call, defect, opacity=0.5, contours=False), heat(call, defect, contours=False)
    middle = (pictures[1].astype(int) + full) / 2
    assert np.abs(half - middle).max() <= 1
    assert not np.array_equal(full, heat(call, defect))
    assert heat(call, defect, size=64).shape == (48, 64, 3)
    assert heat(call, defect, size=4096).shape == pictures[1].shape


def test_a_layer_laid_over_the_image_is_the_heat_map(call, defect, pictures):
    answer = call.get(f"{PATH}/{defect}/heat.png", params={"only": "layer"})
    layer = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert layer.shape == (96, 128, 4)
    assert layer[0, 0, 3] == 0
    weight = layer[:, :, 3:].astype(float) / 255
    laid = pictures[1] * (1 - weight) + layer[:, :, [2, 1, 0]] * weight
    assert close(laid, heat(call, defect, contours=False))


@pytest.mark.parametrize(
    "look", [{"opacity": 2}, {"opacity": "nan"}, {"size": 5}, {"size": 100_000}, {"colours": "green"}, {"only": "x"}]
)
def test_looks_that_there_are_not(call, defect, look):
    assert call.get(f"{PATH}/{defect}/heat.png", params=look).status_code == 422


def test_the_map_is_there_when_the_image_is_gone(model, files):
    service = service_of(model)
    with calling(service) as call:
        name = post(call, files[1])
        alone = heat(call, name, only="map")
        assert not np.array_equal(heat(call, name), alone)
        retention.run(service.store, now=datetime.now(UTC) + timedelta(days=4000), grace=0)
        np.testing.assert_array_equal(heat(call, name), alone)
        for path in ("/explain", "/explain/0/part.png"):
            assert call.get(f"{PATH}/{name}{path}").status_code == 410
        assert call.post(f"{PATH}/{name}:replay").status_code == 410


def test_a_result_without_a_grid_has_no_map(call, store):
    at = datetime.now(UTC)
    new = NewInspection(id=uuid7(at), at=at, stream_id=1, verdict="error", reason="no frame")
    store.write(inspections.insert_one, new)
    for path in ("heat.png", "explain"):
        assert call.get(f"{PATH}/{new.id}/{path}").status_code == 404


def test_the_map_keeps_to_the_region_of_interest(pictures, files, tmp_path):
    """Outside of it nothing is shown, also by a version that is not deployed any more."""
    from parts import striped

    rng = np.random.default_rng(0)
    mask = np.zeros((96, 128), np.uint8)
    mask[:, 64:] = 255
    cv2.imwrite(str(tmp_path / "roi.png"), mask)
    config = replace(SMALL, include=str(tmp_path / "roi.png"))
    model = PatchCore.fit([striped(rng) for _ in range(12)], config, backbone=FakeBackbone())
    service = service_of(model)
    with calling(service) as call:
        name = post(call, files[1])
        expected = model.predict(pictures[1]).overlay()
        assert close(heat(call, name), expected)
        service.models.drop_all_but(set())
        assert close(heat(call, name, size=1000), expected)


def test_why(call, defect, model, pictures):
    said = call.get(f"{PATH}/{defect}/explain")
    assert said.status_code == 200, said.text
    said, expected = said.json(), model.explain(model.predict(pictures[1]))
    assert said["model"] == {"name": "part", "version": 1}
    assert said["score"] == expected.score
    wanted = expected.to_dict()["findings"]
    assert [each["patch"] for each in said["findings"]] == [each["patch"] for each in wanted]
    normals = said["findings"][0]["nearest_normal"]
    assert [each["image"] for each in normals] == [each["image"] for each in wanted[0]["nearest_normal"]]
    first = expected.findings[0]
    np.testing.assert_array_equal(
        picture(call.get(said["findings"][0]["pictures"]["part"])), inspected_crop(expected, first)
    )
    np.testing.assert_array_equal(picture(call.get(normals[1]["picture"])), normal_crop(first.neighbours[1]))


@pytest.mark.parametrize(("path", "status"), [
    ("4/part.png", 404), ("5/part.png", 422), ("-1/part.png", 422), ("0/normal/3.png", 422), ("0/normal/x.png", 422),
])  # fmt: skip
def test_pictures_that_there_are_not(call, defect, path, status):
    assert call.get(f"{PATH}/{defect}/explain/{path}").status_code == status


def test_the_version_that_decided_explains(model, files, tmp_path):
    """Also when another one is deployed now, and its file alone is left."""
    service = service_of(model)
    changed = model.with_threshold(max_false_alarms=0.4, time="2026-01-01T00:00:00+00:00")
    changed.save(tmp_path / "changed.patchbank")
    digest = service.store.models.put_file(tmp_path / "changed.patchbank")

    def deploy_second(connection):
        part = models.by_name(connection, "part")
        second = models.add_version(connection, part.id, described(changed, digest, 1), by=BY)
        models.approve(connection, second.id, by=BY, reason="test")
        return streams.deploy(connection, streams.by_name(connection, "part").id, second.id, by=BY, reason="test")

    with calling(service) as call:
        name = post(call, files[1])
        service.store.write(deploy_second)
        call._runner.run(service.stations.refresh())
        assert service.stations.model("part").number == 2
        said = call.get(f"{PATH}/{name}/explain").json()
        assert said["threshold"] == model.threshold != changed.threshold
        assert said["model"]["version"] == 1
        again = call.post(f"{PATH}/{name}:replay").json()
        assert again["identical"] is True
        (service.store.models.path(model.made_by.sha256)).unlink()
        service.archive._kept.clear()
        lost = call.post(f"{PATH}/{name}:replay")
        assert lost.status_code == 409
        assert "model file" in lost.json()["detail"]


def test_a_replay_says_what_differs(call, store, defect, files):
    assert call.post(f"{PATH}/{defect}:replay").json()["identical"] is True
    name = post(call, files[0])
    changes = {"score": 0.25, "verdict": "ng"}
    store.write(lambda connection: connection.execute(update(table).where(table.c.id == UUID(name)).values(changes)))
    said = call.post(f"{PATH}/{name}:replay").json()
    assert said["identical"] is False
    assert set(said["differences"]) == {"score", "verdict"}
    assert said["kept"]["score"] == 0.25


def test_a_replay_knows_the_rate_of_reviews_of_that_time(model, files):
    """What a deployment asked for then, and not what it asks for now."""
    service = service_of(model)

    def deploy(connection, rate):
        stream = streams.by_name(connection, "part")
        version = streams.current(connection, stream.id).model_version_id
        streams.deploy(connection, stream.id, version, review_rate=rate, by=BY, reason="test")

    with calling(service) as call:
        service.store.write(deploy, 1.0)
        call._runner.run(service.stations.refresh())
        name = post(call, files[0])
        service.store.write(deploy, 0.0)
        call._runner.run(service.stations.refresh())
        said = call.post(f"{PATH}/{name}:replay").json()
        assert said["kept"]["verdict"] == "review"
        assert said["identical"] is True


def test_a_result_of_an_unregistered_model_cannot_be_explained(call, store, defect):
    row = store.read(inspections.get, UUID(defect))
    at = datetime.now(UTC)
    new = NewInspection(
        id=uuid7(at), at=at, stream_id=1, verdict="ng", reason="r", image_sha256=row.image_sha256, image_format="png"
    )
    store.write(inspections.insert_one, new)
    assert call.get(f"{PATH}/{new.id}/explain").status_code == 409
    assert "not registered" in call.post(f"{PATH}/{new.id}:replay").json()["detail"]


def test_too_many_are_told_to_come_again(call, defect):
    """Explanations take a processor from the line: one at a time, and no long queue."""
    explanations = call.app.state.service.explanations
    explanations._waiting = 8
    try:
        answer = call.get(f"{PATH}/{defect}/explain")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
    finally:
        explanations._waiting = 0
