"""Images in, verdicts out, kept before they are answered: once, whole, and with a named refusal where there is none."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import httpx
import numpy as np
import pytest

from patchbank.errors import StoreFullError
from patchbank.results.heat import anomaly_map
from patchbank.server import inspecting
from patchbank.store import heats, inspections, models, preferences, streams
from patchbank.store.engine import open_store
from patchbank.store.listing import Filter, page
from patchbank.store.values import Actor
from server.conftest import calling, deploy, png, running, service_of
from server.people import add_person, token

PATH = "/api/v1/inspections"
PNG = {"Content-Type": "image/png"}
BY = Actor("test")


@pytest.fixture
def service(model):
    return service_of(model)


@pytest.fixture
def call(service):
    with calling(service) as caller:
        yield caller


def kept(service) -> list[inspections.Inspection]:
    """All that is in the store, the oldest first."""
    return service.store.read(page, Filter(), oldest_first=True, limit=200).items


def post(call, content, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return call.post(PATH, content=content, headers=PNG | headers)


def test_what_is_answered_is_what_predict_says_and_what_is_kept(call, service, files, model):
    expected = model.predict(files[1])
    answer = post(call, files[1], X_Serial="S-7", X_Batch="B 2")
    assert answer.status_code == 201
    said = answer.json()
    assert answer.headers["location"] == f"{PATH}/{said['id']}"
    about = {"stream": "part", "model": {"name": "part", "version": 1}, "serial": "S-7", "batch": "B 2"}
    assert {name: said[name] for name in about} == about
    numbers = {name: getattr(expected, name) for name in ("score", "threshold", "p_value", "reason")}
    assert {name: said[name] for name in numbers} == numbers
    assert said["verdict"] == "ng"
    assert [each["box"] for each in said["regions"]] == [list(each.box) for each in expected.regions]
    assert said["image"]["sha256"] == hashlib.sha256(files[1]).hexdigest()
    assert (said["image"]["width"], said["image"]["height"], said["image"]["format"]) == (128, 96, "png")
    (row,) = kept(service)
    assert str(row.id) == said["id"]
    assert row.score == expected.score
    assert service.store.blobs.get(row.image_sha256) == files[1]


def test_the_map_of_what_is_kept_is_the_results_map(call, service, files, model):
    """It is made of the distances before they were scaled for the image's score. A grid of scaled ones is another map,
    whose colours do not fit the pixel threshold."""
    expected = model.predict(files[1])
    assert np.abs(expected.patch_scores - expected.distances).max() > 0.1, "here the two must differ"
    post(call, files[1])
    (row,) = kept(service)
    heat = service.store.read(inspections.heat_of, row.id)
    grid, counted = heats.decode(heat)
    again = anomaly_map(
        grid,
        image_size=(row.height, row.width),
        input_size=(heat.input_h, heat.input_w),
        smoothing_sigma=heat.sigma,
        counted=counted,
    )
    np.testing.assert_allclose(again, expected.anomaly_map, rtol=0, atol=5e-4 * expected.distances.max())
    assert counted is None


def test_what_was_answered_is_there_after_the_end(model, files, tmp_path):
    service = service_of(model, data=tmp_path / "data")
    with calling(service) as call:
        said = post(call, files[0]).json()
    with open_store(tmp_path / "data") as store:
        assert store.read(inspections.get, UUID(said["id"])).verdict == said["verdict"]
        assert store.blobs.get(said["image"]["sha256"]) == files[0]


def test_a_form_is_the_same(call, files):
    form = {"serial": "S-7", "batch": "B", "stream": "part"}
    said = call.post(PATH, files={"image": ("a.png", files[1])}, data=form).json()
    raw = post(call, files[1], X_Serial="S-7", X_Batch="B", X_Stream="part").json()
    same = ("score", "verdict", "serial", "batch", "stream", "regions", "image")
    assert {name: said[name] for name in same} == {name: raw[name] for name in same}


def test_a_key_makes_a_repetition_the_same_inspection(call, service, files):
    """A client that has lost the answer asks again: once more inspected would be counted twice."""
    first = post(call, files[0], Idempotency_Key="k 1", X_Serial="1")
    again = post(call, files[0], Idempotency_Key="k 1", X_Serial="1")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert len(kept(service)) == 1
    for content, serial in ((files[1], "1"), (files[0], "2")):
        other = post(call, content, Idempotency_Key="k 1", X_Serial=serial)
        assert other.status_code == 409
        assert "used for another request" in other.json()["detail"]
    assert post(call, files[0], Idempotency_Key="k 2", X_Serial="1").status_code == 201
    assert len(kept(service)) == 2


def test_keys_of_two_machines_are_two(model, service, files):
    add_person(service, "anna", "admin")
    machines = [token(service, "inspect") for _ in range(2)]
    with calling(service) as call:
        for machine in machines:
            assert post(call, files[0], Idempotency_Key="1", **machine).status_code == 201
    assert len(kept(service)) == 2


def test_a_key_that_is_under_way_is_told_to_come_again(service, files, monkeypatch):
    """Two requests at the same time with one key are one inspection, not two."""
    begun, go = threading.Event(), threading.Event()
    described = inspecting._described

    def slow(*args):
        begun.set()
        assert go.wait(60)
        return described(*args)

    monkeypatch.setattr(inspecting, "_described", slow)
    with running(service) as address, ThreadPoolExecutor(1) as pool:
        headers = PNG | {"Idempotency-Key": "k"}
        first = pool.submit(httpx.post, address + PATH, content=files[0], headers=headers, timeout=60)
        assert begun.wait(60)
        second = httpx.post(address + PATH, content=files[0], headers=headers, timeout=60)
        go.set()
        assert first.result().status_code == 201
        assert second.status_code == 409
        assert second.headers["retry-after"] == "1"
        assert second.json()["type"] == "urn:patchbank:problem:in-flight"
        third = httpx.post(address + PATH, content=files[0], headers=headers, timeout=60)
        assert third.status_code == 200
        assert third.json()["id"] == first.result().json()["id"]


@pytest.mark.parametrize(
    ("content", "headers", "status", "said"),
    [
        (b"", {}, 422, "0 bytes"),
        (b"no image at all", {}, 422, "not an image of a known format"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), {}, 422, "image"),
        (b"x" * 1_000_001, {}, 413, "at most 1,000,000 bytes"),
        (b"x", {"Content-Type": "text/plain"}, 415, "text/plain"),
        (b"x", {"Content-Type": "application/json"}, 415, "application/json"),
        (b"x", {"Content-Encoding": "gzip"}, 415, "content encoding"),
        (b"x", {"Content-Type": "multipart/form-data"}, 400, "form"),
        (b"x", {"Content-Type": "multipart/form-data; boundary=a"}, 400, "form"),
        (b"x", {"X-Stream": "other"}, 404, "no stream 'other'; there is part"),
        (b"x", {"X-Serial": "x" * 201}, 422, "x-serial"),
        (b"x", {"Idempotency-Key": "x" * 501}, 422, "idempotency-key"),
    ],
)
def test_refusals_are_named_and_nothing_is_kept(model, content, headers, status, said):
    service = service_of(model, max_body_mb=1)
    with calling(service) as call:
        answer = call.post(PATH, content=content, headers=PNG | headers)
        assert answer.status_code == status, answer.text
        assert said in answer.json()["detail"]
        assert kept(service) == []
        assert list(service.store.blobs.digests()) == []


@pytest.mark.parametrize(
    ("files_", "data", "said"),
    [
        ({}, {"serial": "1"}, "the file 'image'"),
        ({"picture": b"x"}, {}, "the file 'image'"),
        ({"image": b""}, {}, "0 bytes"),
        ({"image": b"x"}, {"colour": "red"}, "expected the fields image, serial, batch, stream; got 'colour'"),
        ({"image": b"x"}, {"serial": "x" * 300}, "serial: expected at most 200"),
    ],
)
def test_forms_that_are_wrong(call, files_, data, said):
    sent = {name: ("a.png", content) for name, content in files_.items()} or {"nothing": ("", b"")}
    answer = call.post(PATH, files=sent, data=data)
    assert answer.status_code == 422, answer.text
    assert said in answer.json()["detail"]


def test_a_form_may_not_be_endless(call, files):
    many = {f"f{n}": "x" for n in range(50)}
    assert call.post(PATH, files={"image": files[0]}, data=many).status_code == 400
    two = [("image", ("a.png", files[0])), ("image", ("b.png", files[0]))]
    assert call.post(PATH, files=two).status_code == 400


def test_which_stream(call, service, files, model):
    """The only one, the one that is named, or the token's; never a guess."""
    assert post(call, files[0]).json()["stream"] == "part"
    deploy(service.store, model, "second")
    wait(call, lambda: len(service.stations.models()) == 2)
    assert post(call, files[0], X_Stream="second").json()["stream"] == "second"
    unnamed = post(call, files[0])
    assert unnamed.status_code == 422
    assert "one of part, second" in unnamed.json()["detail"]
    second = service.store.read(streams.by_name, "second")
    add_person(service, "anna", "admin")
    own = token(service, "inspect", stream_id=second.id)
    assert post(call, files[0], **own).json()["stream"] == "second"
    assert post(call, files[0], X_Stream="second", **own).status_code == 201
    assert post(call, files[0], X_Stream="part", **own).status_code == 403


def test_a_stream_without_a_model_and_a_paused_one(call, service, files):
    service.store.write(streams.add, "empty")
    stream = service.store.read(streams.by_name, "part")
    wait(call, lambda: len(service.stations.all()) == 2)
    answer = post(call, files[0], X_Stream="empty")
    assert answer.status_code == 409
    assert "No model is deployed" in answer.json()["detail"]
    service.store.write(streams.pause, stream.id, by=BY, reason="cleaning")
    wait(call, lambda: post(call, files[0], X_Stream="part").status_code == 503)
    paused = post(call, files[0], X_Stream="part")
    assert "paused" in paused.json()["detail"]
    assert paused.headers["retry-after"] == "5"
    service.store.write(streams.resume, stream.id, by=BY, reason="clean")
    wait(call, lambda: post(call, files[0], X_Stream="part").status_code == 201)


def test_another_version_takes_over_between_two_parts(service, files, model, tmp_path):
    """Deployed while parts come: each part is decided by one version, none is refused, and the old one goes."""
    changed = model.with_threshold(max_false_alarms=0.4, time="2026-01-01T00:00:00+00:00")
    changed.save(tmp_path / "changed.patchbank")
    digest = service.store.models.put_file(tmp_path / "changed.patchbank")
    from patchbank.server.registering import described

    def deploy_second(connection):
        part = models.by_name(connection, "part")
        second = models.add_version(connection, part.id, described(changed, digest, 1), by=BY)
        models.approve(connection, second.id, by=BY, reason="test")
        return streams.deploy(connection, streams.by_name(connection, "part").id, second.id, by=BY, reason="test")

    with running(service) as address, httpx.Client(timeout=60) as client:
        said = [client.post(address + PATH, content=files[0], headers=PNG).json()]
        service.store.write(deploy_second)
        while said[-1]["model"]["version"] == 1:
            answer = client.post(address + PATH, content=files[0], headers=PNG)
            assert answer.status_code == 201
            said.append(answer.json())
            assert len(said) < 500
        assert said[0]["threshold"] == model.threshold
        assert said[-1]["threshold"] == changed.threshold
        assert said[-1]["score"] == said[0]["score"]
        about = client.get(f"{address}/v2/models/part").json()
        assert about["versions"] == ["2"]


def test_a_damaged_model_file_is_not_used(model, files, tmp_path):
    """The others go on; this one's parts are refused, and nobody takes a number from it."""
    service = service_of(model, data=tmp_path / "data")
    deploy(service.store, model.with_threshold(max_false_alarms=0.3), "second")
    version = service.store.read(models.versions, service.store.read(models.by_name, "second").id)[0]
    path = service.store.models.path(version.file_sha256)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with calling(service) as call:
        assert call.get("/readyz").status_code == 200
        answer = post(call, files[0], X_Stream="second")
        assert answer.status_code == 503
        assert "cannot be used" in answer.json()["detail"]
        assert post(call, files[0], X_Stream="part").status_code == 201
        assert call.get("/v2/models/second/ready").status_code == 404


def test_the_deployment_says_how_many_reviews(call, service, files):
    """An OK part becomes a REVIEW, if the deployment asks for more reviews than the model."""
    before = post(call, files[0]).json()
    stream = service.store.read(streams.by_name, "part")
    version = service.store.read(streams.current, stream.id).model_version_id
    for rate, verdict in ((1.0, "review"), (0.0, "ok")):
        service.store.write(streams.deploy, stream.id, version, review_rate=rate, by=BY, reason="test")
        wait(call, lambda verdict=verdict: post(call, files[0]).json()["verdict"] == verdict)
    assert before["score"] == post(call, files[0]).json()["score"]
    found = {each.verdict: each.needs_review for each in kept(service)}
    assert found["review"] is True


@pytest.mark.parametrize(("rate", "chosen"), [(1.0, True), (0.0, False)])
def test_ok_parts_go_to_review_by_chance(call, service, files, rate, chosen):
    service.store.write(preferences.put, "review.sample_rate", rate, by=BY)
    stream = service.store.read(streams.by_name, "part")
    version = service.store.read(streams.current, stream.id).model_version_id
    service.store.write(streams.deploy, stream.id, version, review_rate=0.0, by=BY, reason="test")
    wait(call, lambda: service.preference("review.sample_rate") == rate)
    wait(call, lambda: post(call, files[0]).json()["verdict"] == "ok")
    said = post(call, files[0]).json()
    assert (said["sample"], said["needs_review"]) == (chosen, chosen)


def test_a_full_disk_is_503_and_the_next_one_is_kept(call, service, files, monkeypatch):
    put = service.store.blobs.put
    monkeypatch.setattr(service.store.blobs, "put", raising(StoreFullError("the disk is full")))
    answer = post(call, files[0])
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "30"
    assert answer.json()["detail"] == "the disk is full"
    assert kept(service) == []
    monkeypatch.setattr(service.store.blobs, "put", put)
    assert post(call, files[0]).status_code == 201


def test_a_result_of_no_number_is_ng(service, files, model, monkeypatch):
    """NaN is no reason for OK, and no reason for a crash."""
    inspect = type(model)._inspect
    monkeypatch.setattr(
        type(model), "_inspect", lambda self, *about: dataclasses.replace(inspect(self, *about), score=float("nan"))
    )
    with calling(service) as call:
        said = post(call, files[0])
    assert said.status_code == 201, said.text
    assert said.json()["verdict"] == "ng"
    assert said.json()["score"] is None


def test_all_formats_of_images_are_taken(call, pictures):
    import cv2

    for ending, name in ((".jpg", "jpeg"), (".bmp", "bmp"), (".tiff", "tiff"), (".webp", "webp"), (".ppm", "pnm")):
        data = cv2.imencode(ending, pictures[0])[1].tobytes()
        said = call.post(PATH, content=data, headers={"Content-Type": "application/octet-stream"})
        assert said.status_code == 201, said.text
        assert said.json()["image"]["format"] == name


def test_many_at_a_time_are_all_answered_or_told_to_come_again(service, pictures):
    """16 clients, and room for ten images: every answer is a verdict or a 503 with a time to wait; nothing is lost, and
    nothing is kept twice."""
    rng = np.random.default_rng(5)
    images = [png(np.clip(pictures[0] + rng.integers(-3, 4), 0, 255).astype(np.uint8)) for _ in range(16)]
    with running(service) as address, ThreadPoolExecutor(16) as pool:

        def client(number):
            done = []
            with httpx.Client(timeout=60) as http:
                while len(done) < 6:
                    key = {"Idempotency-Key": f"{number}/{len(done)}"}
                    answer = http.post(address + PATH, content=images[number], headers=PNG | key)
                    if answer.status_code == 503:
                        assert int(answer.headers["retry-after"]) >= 1
                    else:
                        assert answer.status_code == 201
                        done.append(answer.json()["id"])
            return done

        ids = [each for done in pool.map(client, range(16)) for each in done]
        assert len(set(ids)) == 96
        assert {str(each.id) for each in kept(service)} == set(ids)


def raising(error):
    def function(*_, **__):
        raise error

    return function


def wait(call, true) -> None:
    """Lets the service's own tasks run until it is true."""
    import asyncio

    for _ in range(1500):
        if true():
            return
        call._runner.run(asyncio.sleep(0.02))
    raise AssertionError("it did not become true within half a minute")
