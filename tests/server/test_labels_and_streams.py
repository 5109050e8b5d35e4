"""What people do with inspections and streams: label, take back, pause; settings; what a line reports and is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from patchbank.store import audit_log
from server.conftest import calling, service_of
from server.people import add_person, signed_in, token
from server.test_inspections import wait

PATH = "/api/v1/inspections"
PNG = {"Content-Type": "image/png"}


@pytest.fixture
def service(model):
    service = service_of(model)
    for name, role in (("anna", "admin"), ("otto", "operator"), ("eva", "engineer")):
        add_person(service, name, role)
    return service


@pytest.fixture
def call(service):
    with calling(service) as caller:
        yield caller


@pytest.fixture
def part(call, service, files) -> str:
    """The id of a part that waits for a review."""
    said = call.post(PATH, content=files[1], headers=PNG | token(service, "inspect")).json()
    service.store.write(ask, said["id"])
    return said["id"]


def ask(connection, inspection_id):
    from uuid import UUID

    from patchbank.store import inspections

    inspections.ask_for_review(connection, UUID(inspection_id))


def queue(call, headers):
    return [each["id"] for each in call.get("/api/v1/reviews/queue", headers=headers).json()["items"]]


def test_a_part_is_labelled_relabelled_and_taken_back(call, service, part):
    otto = signed_in(service, "otto")
    path = f"{PATH}/{part}/reviews"
    assert queue(call, otto) == [part]
    first = call.post(path, json={"label": "defect", "kind": "scratch", "comment": "deep"}, headers=otto)
    assert first.status_code == 201
    assert first.json()["by"] == "otto"
    assert queue(call, otto) == []
    seen = first.json()["id"]
    second = call.post(path, json={"label": "good", "supersedes": seen, "check": True}, headers=otto).json()
    assert second["supersedes_id"] == seen
    late = call.post(path, json={"label": "unsure", "supersedes": seen, "check": True}, headers=otto)
    assert late.status_code == 409, "nobody overrules what they have not seen"
    assert call.post(f"{path}:undo", headers=otto).json()["label"] == "defect"
    whole = call.get(f"{PATH}/{part}", headers=otto).json()
    assert whole["label"] == "defect"
    assert [each["label"] for each in whole["reviews"]] == ["defect", "good", "defect"]


def test_undo_puts_a_part_back_into_the_queue(call, service, part):
    otto = signed_in(service, "otto")
    call.post(f"{PATH}/{part}/reviews", json={"label": "good"}, headers=otto)
    assert call.post(f"{PATH}/{part}/reviews:undo", headers=otto).json()["label"] == "withdrawn"
    assert queue(call, otto) == [part]
    assert call.post(f"{PATH}/{part}/reviews:undo", headers=otto).status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {"label": "bad"},
        {"label": "withdrawn"},
        {},
        {"label": "good", "note": "x"},
        {"label": "good", "kind": "x" * 201},
        {"label": "good", "comment": "\0"},
        {"label": "good", "supersedes": 2**70},
    ],
)
def test_reviews_that_are_wrong(call, service, part, body):
    answer = call.post(f"{PATH}/{part}/reviews", json=body, headers=signed_in(service, "otto"))
    assert answer.status_code == 422
    assert queue(call, signed_in(service, "otto")) == [part]


def test_an_operator_pauses_a_stream_with_a_reason(call, service, files):
    otto, machine = signed_in(service, "otto"), token(service, "inspect")
    assert call.post("/api/v1/streams/part:pause", json={"reason": ""}, headers=otto).status_code == 422
    paused = call.post("/api/v1/streams/part:pause", json={"reason": "cleaning"}, headers=otto)
    assert paused.json()["state"] == "paused"
    wait(call, lambda: call.post(PATH, content=files[0], headers=PNG | machine).status_code == 503)
    assert call.post("/api/v1/streams/part:resume", json={"reason": "clean"}, headers=otto).status_code == 200
    wait(call, lambda: call.post(PATH, content=files[0], headers=PNG | machine).status_code == 201)
    assert call.post("/api/v1/streams/part:resume", json={"reason": "again"}, headers=otto).status_code == 409
    log = service.store.read(audit_log.page, about="stream/part", limit=2)
    assert [(each.actor, each.new, each.reason) for each in log] == [
        ("otto", "unknown", "clean"),
        ("otto", "paused", "cleaning"),
    ]


def test_streams_say_what_decides_there(call, service, model):
    eva = signed_in(service, "eva")
    assert call.post("/api/v1/streams", json={"name": "L3 cap", "site": "plant 1"}, headers=eva).status_code == 201
    assert call.post("/api/v1/streams", json={"name": "L3 cap"}, headers=eva).status_code == 409
    assert call.post("/api/v1/streams", json={"name": "../etc"}, headers=eva).status_code == 422
    new, part = call.get("/api/v1/streams", headers=eva).json()
    assert (new["name"], new["active"]) == ("L3 cap", None)
    assert part["active"]["model"] == {"name": "part", "version": 1}
    assert part["active"]["reason"] == "given to patchbank serve"
    assert part["failure"] == ""
    history = call.get("/api/v1/streams/part/deployments", headers=eva).json()
    assert [each["by"] for each in history["items"]] == ["command line"]
    assert history["next"] is None
    assert call.get("/api/v1/streams/nowhere", headers=eva).status_code == 404


def test_a_line_reports_and_is_told_what_to_use(call, service):
    """The line must not depend on the service; what it is told is enough to load the same version."""
    machine = token(service, "ingest")
    said = call.post("/api/v1/streams/part:report", json={"state": "ready", "about": {"queue": 2}}, headers=machine)
    assert said.json()["state"] == "ready"
    assert len(said.json()["active"]["sha256"]) == 64
    seen = call.get("/api/v1/streams/part", headers=signed_in(service, "otto")).json()
    assert seen["state_json"] == {"queue": 2}
    assert datetime.now(UTC) - datetime.fromisoformat(seen["last_seen_at"]) < timedelta(minutes=1)
    eva = signed_in(service, "eva")
    call.post("/api/v1/streams", json={"name": "other"}, headers=eva)
    own = token(service, "ingest", stream_id=seen["id"])
    assert call.post("/api/v1/streams/other:report", json={"state": "ready"}, headers=own).status_code == 403
    assert call.post("/api/v1/streams/part:report", json={"state": "paused"}, headers=own).status_code == 422


def test_counts_by_the_hour(call, service, files):
    machine, otto = token(service, "inspect"), signed_in(service, "otto")
    for picture in (0, 1, 1):
        call.post(PATH, content=files[picture], headers=PNG | machine)
    since = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    found = call.get("/api/v1/streams/part/hours", params={"since": since}, headers=otto).json()
    assert sum(each["ng"] for each in found) == 2
    assert sum(each["ok"] + each["review"] for each in found) == 1
    naive = call.get("/api/v1/streams/part/hours", params={"since": "2026-01-01T00:00:00"}, headers=otto)
    assert naive.status_code == 422


def test_settings_take_effect_at_once_and_stand_in_the_audit_log(call, service):
    anna = signed_in(service, "anna")
    found = {each["key"]: each for each in call.get("/api/v1/settings", headers=anna).json()}
    assert found["review.sample_rate"]["value"] == found["review.sample_rate"]["default"] == 0.01
    change = {"value": 0.5, "reason": "trial"}
    assert call("PUT", "/api/v1/settings/review.sample_rate", json=change, headers=anna).json()["value"] == 0.5
    wait(call, lambda: service.preference("review.sample_rate") == 0.5)
    for value in (2, "much", None, True, -1, 1e308):
        answer = call("PUT", "/api/v1/settings/review.sample_rate", json={"value": value}, headers=anna)
        assert answer.status_code == 422, value
    assert call("PUT", "/api/v1/settings/review.hide_scores", json={"value": False}, headers=anna).status_code == 200
    assert call("PUT", "/api/v1/settings/unknown", json={"value": 1}, headers=anna).status_code == 422
    back = call("DELETE", "/api/v1/settings/review.sample_rate", headers=anna).json()
    assert (back["value"], back["at"]) == (0.01, None)
    entry = service.store.read(audit_log.page, about="setting/review.sample_rate", limit=2)[1]
    assert (entry.actor, entry.old, entry.new, entry.reason) == ("anna", 0.01, 0.5, "trial")


def test_the_length_of_sessions_is_a_setting(call, service):
    anna = signed_in(service, "anna")
    call("PUT", "/api/v1/settings/session.hours", json={"value": 2.5}, headers=anna)
    wait(call, lambda: service.preference("session.hours") == 2.5)
    from server.test_logging_in import sign_in

    assert "Max-Age=9000;" in sign_in(call).headers["set-cookie"]
