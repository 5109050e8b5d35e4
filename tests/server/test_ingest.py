"""A line delivers what it has decided: kept once, however often it comes; a bad record is refused alone and by name."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import numpy as np
import pytest

from patchbank.store import heats, inspections, preferences, streams
from patchbank.store.listing import Filter, page
from patchbank.store.values import Actor
from patchbank.util import grids
from patchbank.util.uuid7 import uuid7
from server.conftest import calling, service_of
from server.people import add_person, token

PATH = "/api/v1/inspections:ingest"


@pytest.fixture(scope="module")
def service(model):
    return service_of(model)


@pytest.fixture(scope="module")
def call(service):
    with calling(service, client="192.168.1.7") as caller:
        add_person(service, "anna", "admin")
        yield caller


@pytest.fixture(scope="module")
def line(service, call):
    """The token of a line."""
    return token(service, "ingest")


def record(**changes):
    """What a line says of an OK part."""
    at = datetime.now(UTC)
    return {
        "id": str(uuid7(at)), "at": at.isoformat(), "stream": "part", "verdict": "ok", "reason": "ordinary",
        "score": 1.0, "threshold": 2.0, "p_value": 0.5,
    } | changes  # fmt: skip


def of_result(result, file: bytes, **changes):
    """What a line says of a result, with everything."""
    at = datetime.fromisoformat(result.time)
    heat = {"h": result.distances.shape[0], "w": result.distances.shape[1], "sigma": result.smoothing_sigma}
    heat |= dict(zip(("input_h", "input_w"), result.input_size, strict=True))
    heat["grid"] = base64.b64encode(grids.packed(result.distances)).decode()
    return {
        "id": str(uuid7(at)), "at": result.time, "stream": "part", "serial": "S 1", "batch": "B", "source": "camera 2",
        "verdict": str(result.verdict), "reason": result.reason, "score": result.score, "threshold": result.threshold,
        "p_value": result.p_value, "in_scene": result.in_distribution, "scene": None, "latency_ms": 12.5, "late": False,
        "model": {"sha256": result.made_by.sha256, "version": result.made_by.version},
        "image": {"sha256": hashlib.sha256(file).hexdigest(), "width": result.image_size[1],
                  "height": result.image_size[0]},
        "regions": [{"box": list(each.box), "area": each.area, "peak": list(each.peak), "peak_score": each.peak_score,
                     "contour": [each.contour.ravel().tolist()]} for each in result.regions],
        "heat": heat,
    } | changes  # fmt: skip


def deliver(call, headers, records, images=()):
    if images:
        parts = [("records", ("records", json.dumps({"records": records}), "application/json"))]
        parts += [(hashlib.sha256(each).hexdigest(), ("image", each, "image/png")) for each in images]
        return call.post(PATH, files=parts, headers=headers)
    return call.post(PATH, json={"records": records}, headers=headers)


def outcomes(answer):
    assert answer.status_code == 200, answer.text
    return [each["outcome"] for each in answer.json()["records"]]


def refused(call, headers, given, images=()):
    """The problem of one record, which is not kept; the good one beside it is."""
    good = record()
    answer = deliver(call, headers, [given, good], images)
    assert outcomes(answer) == ["refused", "created"]
    return answer.json()["records"][0]["problem"]


def get(service, name):
    return service.store.read(inspections.get, UUID(name))


def count(service):
    return len(service.store.read(page, Filter(), limit=200).items)


def test_what_a_line_delivers_is_what_the_service_would_have_kept(call, service, line, model, files):
    """All of it: the numbers, the regions, the grid, the image; by the version that decided."""
    result = model.predict(files[1])
    given = of_result(result, files[1])
    assert outcomes(deliver(call, line, [given], [files[1]])) == ["created"]
    row = get(service, given["id"])
    same = ("serial", "batch", "source", "verdict", "reason", "score", "threshold", "p_value", "latency_ms", "late")
    assert {name: getattr(row, name) for name in same} == {name: given[name] for name in same}
    assert row.model_version_id is not None
    assert (row.width, row.height, row.image_format, row.image_size) == (128, 96, "png", len(files[1]))
    assert service.store.blobs.get(row.image_sha256) == files[1]
    found = service.store.read(inspections.regions_of, row.id)
    assert [(each.x, each.y, each.w, each.h) for each in found] == [each.box for each in result.regions]
    grid, _ = heats.decode(service.store.read(inspections.heat_of, row.id))
    np.testing.assert_allclose(grid, result.distances, rtol=5e-4)


def test_what_is_delivered_again_is_known_and_kept_once(call, service, line, files):
    """An answer may get lost: a line delivers until it has one."""
    digest = hashlib.sha256(files[0]).hexdigest()
    given = [record(image={"sha256": digest, "width": 1, "height": 1}), record()]
    before = count(service)
    assert outcomes(deliver(call, line, given, [files[0]])) == ["created", "created"]
    assert outcomes(deliver(call, line, given[::-1], [files[0]])) == ["known", "known"]
    assert outcomes(deliver(call, line, [given[0] | {"late": False}, given[1], given[1]], [files[0]])) == ["known"] * 3
    assert count(service) == before + 2


def test_an_identifier_of_another_record_is_a_conflict(call, service, line):
    given = record()
    assert outcomes(deliver(call, line, [given])) == ["created"]
    problem = refused(call, line, given | {"verdict": "ng"})
    assert (problem["status"], problem["type"]) == (409, "urn:patchbank:problem:conflict")
    assert get(service, given["id"]).verdict == "ok"


def without(name):
    return {key: value for key, value in record().items() if key != name}


HEAT = {"h": 2, "w": 2, "input_h": 8, "input_w": 8, "sigma": 1.0, "grid": ""}


def heat(grid: bytes = b"", **changes):
    return {"heat": HEAT | {"grid": base64.b64encode(grid).decode()} | changes}


FOUR = zlib.compress(np.ones(4, "<f2").tobytes())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": "x"}, "/id"),
        ({"id": str(uuid4())}, "UUID of version 7"),
        ({"id": str(uuid7(datetime(2020, 1, 1, tzinfo=UTC)))}, "UUID of the time"),
        ({"at": "2026-01-01T00:00:00"}, "time zone"),
        ({"at": (datetime.now(UTC) + timedelta(days=3)).isoformat()}, "in the future"),
        ({"verdict": "good"}, "/verdict"),
        ({"score": 2.5}, "over the threshold"),
        ({"score": None}, "one of them is missing"),
        ({"p_value": None}, "one of them is missing"),
        ({"in_scene": False}, "out of scene"),
        ({"late": True}, "late"),
        ({"reason": None}, "/reason"),
        ({"serial": "x" * 201}, "/serial"),
        ({"serial": "\0"}, "NUL"),
        ({"batch": 7}, "/batch"),
        ({"colour": "red"}, "/colour"),
        ({"stream": "nowhere"}, "no stream 'nowhere'"),
        ({"stream": None}, "the token is for all"),
        ({"model": {"sha256": "x", "version": 1}}, "/model/sha256"),
        ({"image": {"sha256": "0" * 64, "width": 1, "height": 1}}, "expected a part 000"),
        ({"image": {"sha256": "../../etc/passwd", "width": 1, "height": 1}}, "/image/sha256"),
        ({"regions": [{"box": [1, 2, 3], "area": 1, "peak": [1, 2], "peak_score": 1}]}, "/regions/0/box"),
        ({"regions": [{"box": [1, 2, 3, 2**70], "area": 1, "peak": [1, 2], "peak_score": 1}]}, "/regions/0/box"),
        ({"regions": [{}] * 1001}, "at most 1000"),
        (heat(b"x"), "packed by zlib"),
        (heat(zlib.compress(bytes(100_000_000))), "packed by zlib"),
        (heat(zlib.compress(np.array([1, 1, 1, np.nan], "<f2").tobytes())), "finite"),
        (heat(FOUR, sigma=1e9), "/heat/sigma"),
        (heat(FOUR, h=1 << 20, w=1 << 20), "patches"),
        (heat(FOUR, counted="!"), "base64"),
        (heat(FOUR, counted=base64.b64encode(zlib.compress(b"\0")).decode()), "a patch that counts"),
        ({"scene": {"a": "x" * 1_100_000}}, "1000000"),
    ],
)
def test_a_bad_record_is_refused_alone(call, service, line, changes, said):
    """The others are kept: a line must not hang on one part."""
    before = count(service)
    problem = refused(call, line, record(**changes))
    assert 400 <= problem["status"] < 500
    assert said in problem["detail"]
    assert count(service) == before + 1


@pytest.mark.parametrize("given", [7, None, [], "x", {}, {"id": 7}])
def test_what_is_no_record_is_refused_alone(call, line, given):
    refused(call, line, given)


def test_an_image_is_what_its_name_says(call, service, line, files):
    digest = hashlib.sha256(files[0]).hexdigest()
    given = [record(image={"sha256": digest, "width": 1, "height": 1}), record()]
    parts = [("records", (None, json.dumps({"records": given}))), (digest, ("a", files[1]))]
    answer = call.post(PATH, files=parts, headers=line)
    assert outcomes(answer) == ["refused", "created"]
    assert answer.json()["records"][0]["problem"]["type"].endswith(":damaged-image")
    text = b"no image"
    digest = hashlib.sha256(text).hexdigest()
    assert refused(call, line, record(image={"sha256": digest, "width": 1, "height": 1}), [text])["status"] == 422
    assert not service.store.blobs.has(digest)


def test_a_result_of_an_unknown_model_is_kept_and_says_so(call, service, line):
    """Evidence is not thrown away because somebody deleted a model, or runs a file by hand."""
    given = record(model={"sha256": "ab" * 32, "version": 3}, reason="x" * 10_000)
    assert outcomes(deliver(call, line, [given])) == ["created"]
    row = get(service, given["id"])
    assert row.model_version_id is None
    assert f"version 3 of the model file {'ab' * 32}, which is not registered" in row.reason
    assert outcomes(deliver(call, line, [given])) == ["known"]


def test_a_result_without_its_image_has_a_size(call, service, line):
    given = record(image={"width": 640, "height": 480})
    assert outcomes(deliver(call, line, [given])) == ["created"]
    row = get(service, given["id"])
    assert (row.image_sha256, row.width, row.height, row.has_image) == (None, 640, 480, False)


def test_a_lines_token_speaks_for_its_stream_alone(call, service):
    other = service.store.write(streams.add, "other")
    own = token(service, "ingest", stream_id=other.id)
    mine, named, foreign = record(stream=None), record(stream="other"), record()
    answer = deliver(call, own, [mine, named, foreign])
    assert outcomes(answer) == ["created", "created", "refused"]
    assert answer.json()["records"][2]["problem"]["status"] == 403
    assert get(service, mine["id"]).stream_id == other.id


def test_what_goes_to_review(call, service, line, files):
    """Chance chooses among OK parts that have an image, alike when one is delivered again; REVIEW parts always go."""
    service.store.write(preferences.put, "review.sample_rate", 1.0, by=Actor("test"))
    while service.preference("review.sample_rate") != 1.0:
        call.get("/healthz")
    digest = hashlib.sha256(files[0]).hexdigest()
    image = {"sha256": digest, "width": 128, "height": 96}
    given = [record(image=image), record(), record(verdict="review"), record(verdict="ng", image=image)]
    assert outcomes(deliver(call, line, given, [files[0]])) == ["created"] * 4
    rows = [get(service, each["id"]) for each in given]
    assert [(row.sample, row.needs_review) for row in rows] == [
        (True, True), (False, False), (False, True), (False, False)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "kind", "status", "said"),
    [
        (b"", "application/json", 422, "JSON"),
        (b"[" * 100_000, "application/json", 422, "JSON"),
        (b'{"records": [NaN]}', "application/json", 422, "JSON"),
        (b"[]", "application/json", 422, "records"),
        (b'{"records": []}', "application/json", 422, "1 to 100"),
        (b'{"records": [1], "more": 1}', "application/json", 422, "nothing beside"),
        (json.dumps({"records": [1] * 101}).encode(), "application/json", 422, "1 to 100; got 101"),
        (b"x", "text/plain", 415, "text/plain"),
        (b"x", "multipart/form-data; boundary=a", 400, "form"),
        (b"x" * 1_000_001, "application/json", 413, "at most 1,000,000 bytes"),
    ],
)
def test_deliveries_that_are_none(model, content, kind, status, said):
    service = service_of(model, max_body_mb=1)
    add_person(service, "anna", "admin")
    with calling(service) as call:
        answer = call.post(PATH, content=content, headers={"Content-Type": kind} | token(service, "ingest"))
        assert answer.status_code == status, answer.text
        assert said in answer.json()["detail"]


@pytest.mark.parametrize("name", ["extra", "../up", "AB" * 32])
def test_a_part_that_nothing_knows_is_an_error(call, line, name):
    parts = [("records", (None, json.dumps({"records": [record()]}))), (name, ("a", b"x"))]
    answer = call.post(PATH, files=parts, headers=line)
    assert answer.status_code == 422
    assert "named by their SHA-256" in answer.json()["detail"]
