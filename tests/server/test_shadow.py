"""A version that only watches: it sees what is decided, changes nothing of it, and never keeps a part waiting."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from patchbank.server import shadowing
from patchbank.server.registering import described
from patchbank.store import models, streams
from patchbank.store.values import Actor
from patchbank.util.uuid7 import uuid7
from server.conftest import calling, service_of
from server.people import add_person, token

PATH = "/api/v1/inspections"
BY = Actor("test")


@pytest.fixture
def service(model, tmp_path):
    """The model decides, without reviews; a version that sends all good parts to review watches."""
    service = service_of(model)
    strict = model.with_threshold(max_false_alarms=0.5, time="2026-01-01T00:00:00+00:00")
    strict.save(tmp_path / "strict.patchbank")
    digest = service.store.models.put_file(tmp_path / "strict.patchbank")

    def deploy(connection):
        part = models.by_name(connection, "part")
        second = models.add_version(connection, part.id, described(strict, digest, 1), by=BY)
        stream = streams.by_name(connection, "part")
        first = streams.current(connection, stream.id).model_version_id
        streams.deploy(connection, stream.id, first, review_rate=0.0, by=BY, reason="test")
        streams.deploy(connection, stream.id, second.id, kind="shadow", review_rate=1.0, by=BY, reason="test")

    service.store.write(deploy)
    return service


@pytest.fixture
def call(service):
    with calling(service) as caller:
        yield caller


def post(call, content):
    answer = call.post(PATH, content=content, headers={"Content-Type": "image/png"})
    assert answer.status_code == 201, answer.text
    return answer.json()


def watched(call):
    return call.get("/api/v1/versions/2/shadow").json()


def until(call, true):
    for _ in range(1500):
        if true():
            return
        call._runner.run(asyncio.sleep(0.02))
    raise AssertionError("it did not become true within half a minute")


def outcomes(service, outcome):
    return service.metrics.shadows.labels("part", outcome)._value.get()


def test_it_says_what_it_would_have_said(call, service, files, model):
    first, second = post(call, files[0]), post(call, files[1])
    until(call, lambda: watched(call)["parts"] == 2)
    assert second["verdict"] == "ng"
    assert (first["model"]["version"], first["threshold"]) == (1, model.threshold)
    said = watched(call)
    assert said["changes"] == [{"decided": "ok", "watching": "review", "parts": 1}]
    (changed,) = said["items"]
    assert changed["inspection"]["id"] == first["id"]
    assert (changed["verdict"], changed["score"]) == ("review", first["score"])
    assert changed["threshold"] < model.threshold
    assert outcomes(service, "done") == 2
    assert call.get("/api/v1/versions/77/shadow").status_code == 404


def test_a_delivered_part_is_watched_too(call, service, files):
    add_person(service, "anna", "admin")
    at, digest = datetime.now(UTC), hashlib.sha256(files[1]).hexdigest()
    record = {"id": str(uuid7(at)), "at": at.isoformat(), "stream": "part", "verdict": "review", "reason": "r",
              "image": {"sha256": digest, "width": 128, "height": 96}}  # fmt: skip
    parts = [("records", (None, json.dumps({"records": [record]}))), (digest, ("a", files[1]))]
    for outcome in ("created", "known"):
        answer = call.post(f"{PATH}:ingest", files=parts, headers=token(service, "ingest"))
        assert answer.json()["records"][0]["outcome"] == outcome
    until(call, lambda: outcomes(service, "done") == 1)
    assert len(service.shadows._waiting) == 0, "what was known is not watched again"


def test_it_waits_until_nobody_waits_for_a_verdict(call, service, files, monkeypatch):
    busy = True
    monkeypatch.setattr(type(service.models), "is_busy", lambda _: busy)
    post(call, files[0])
    call._runner.run(asyncio.sleep(0.2))
    assert watched(call)["parts"] == 0
    busy = False
    until(call, lambda: watched(call)["parts"] == 1)


def test_what_is_too_much_is_dropped_and_counted(call, service, files, monkeypatch):
    """The line does not wait, and nothing piles up."""
    monkeypatch.setattr(type(service.models), "is_busy", lambda _: True)
    monkeypatch.setattr(shadowing, "MOST_WAITING", 2)
    for _ in range(4):
        post(call, files[0])
    assert (len(service.shadows._waiting), outcomes(service, "dropped")) == (2, 2)
    late = [replace(each, until=0.0) for each in service.shadows._waiting]
    service.shadows._waiting.clear()
    service.shadows._waiting.extend(late)
    until(call, lambda: outcomes(service, "dropped") == 4)
    assert watched(call)["parts"] == 0


def test_one_that_fails_keeps_nobody_from_anything(call, service, files, monkeypatch):
    until(call, lambda: service.stations.by_id(1).shadow is not None)
    shadow = service.stations.by_id(1).shadow
    submit = shadow.inspector.submit

    def broken(image):
        raise RuntimeError("a bug")

    monkeypatch.setattr(shadow.inspector, "submit", broken)
    post(call, files[0])
    until(call, lambda: outcomes(service, "failed") == 1)
    monkeypatch.setattr(shadow.inspector, "submit", submit)
    post(call, files[0])
    until(call, lambda: outcomes(service, "done") == 1)


def test_a_slow_one_delays_no_verdict(call, service, files, monkeypatch):
    until(call, lambda: service.stations.by_id(1).shadow is not None)
    shadow, go = service.stations.by_id(1).shadow, threading.Event()
    submit = shadow.inspector.submit

    def slow(image):
        future = submit(image)
        begun.set()
        hold = type(future)()
        threading.Thread(target=lambda: (go.wait(60), hold.set_result(future.result()))).start()
        return hold

    begun = threading.Event()
    monkeypatch.setattr(shadow.inspector, "submit", slow)
    post(call, files[0])
    until(call, begun.is_set)
    for _ in range(3):
        post(call, files[1])
    assert outcomes(service, "done") == 0
    go.set()
    until(call, lambda: outcomes(service, "done") == 4)
