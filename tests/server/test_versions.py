"""Who lets a version decide, where, and why: approval, deployment, the way back."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from patchbank.server.registering import described
from patchbank.store import audit_log, models, preferences, streams
from patchbank.store.values import Actor
from server.conftest import calling, service_of
from server.people import PASSWORD, add_person, signed_in, token
from server.test_inspections import wait

PATH = "/api/v1/inspections"
SURE = {"reason": "fewer false alarms", "password": PASSWORD}


@pytest.fixture
def service(model):
    service = service_of(model)
    for name, role in (("anna", "admin"), ("otto", "operator"), ("eva", "engineer"), ("emil", "engineer")):
        add_person(service, name, role)
    return service


@pytest.fixture
def call(service):
    with calling(service) as caller:
        yield caller


@pytest.fixture
def eva(service):
    return signed_in(service, "eva")


def candidate(service, model, by: str = "eva") -> int:
    """The id of a further version of the model, which has a threshold of its own, and is a candidate."""
    changed = model.with_threshold(max_false_alarms=0.4)
    file = Path(tempfile.mkdtemp(prefix="patchbank-test-")) / "part.patchbank"
    changed.save(file)
    digest = service.store.models.put_file(file)
    new = described(changed, digest, file.stat().st_size, action="threshold")
    found = service.store.read(models.by_name, "part")
    return service.store.write(models.add_version, found.id, new, by=Actor(by)).id


def test_a_candidate_is_approved_deployed_and_taken_back(call, service, model, files, eva):
    version, machine = candidate(service, model), token(service, "inspect")
    deployment = {"version_id": version, **SURE}
    assert call.post("/api/v1/streams/part/deployments", json=deployment, headers=eva).status_code == 409
    approved = call.post(f"/api/v1/versions/{version}:approve", json=SURE, headers=eva)
    assert approved.status_code == 200
    assert (approved.json()["status"], approved.json()["status_by"]) == ("approved", "eva")
    assert call.post(f"/api/v1/versions/{version}:approve", json=SURE, headers=eva).status_code == 409
    made = call.post("/api/v1/streams/part/deployments", json={**deployment, "review_rate": 0.5}, headers=eva)
    assert made.status_code == 201
    assert (made.json()["version_id"], made.json()["model"]) == (version, {"name": "part", "version": 2})

    def decided_by():
        said = call.post(PATH, content=files[0], headers=machine)
        return said.status_code == 201 and said.json()["model"]["version"]

    wait(call, lambda: decided_by() == 2)
    assert call.post(f"/api/v1/versions/{version}:retire", json={"reason": "old"}, headers=eva).status_code == 409
    history = call.get("/api/v1/streams/part/deployments", headers=eva).json()["items"]
    assert [(each["by"], each["model"]["version"]) for each in history] == [("eva", 2), ("command line", 1)]
    back = {"version_id": history[1]["version_id"], "reason": "too many", "password": PASSWORD}
    assert call.post("/api/v1/streams/part/deployments", json=back, headers=eva).status_code == 201
    wait(call, lambda: decided_by() == 1)
    retired = call.post(f"/api/v1/versions/{version}:retire", json={"reason": "too many"}, headers=eva)
    assert retired.json()["status"] == "retired"
    assert call.post("/api/v1/streams/part/deployments", json=deployment, headers=eva).status_code == 409
    log = [(each.actor, each.action, each.object, each.reason) for each in service.store.read(audit_log.page, limit=4)]
    assert log == [
        ("eva", "model.retire", "model/part/2", "too many"),
        ("eva", "stream.deploy", "stream/part", "too many"),
        ("eva", "stream.deploy", "stream/part", SURE["reason"]),
        ("eva", "model.approve", "model/part/2", SURE["reason"]),
    ]


def test_a_candidate_may_watch_and_nothing_may_be_deployed(call, service, model, eva):
    version = candidate(service, model)
    shadow = {"version_id": version, "kind": "shadow", **SURE}
    assert call.post("/api/v1/streams/part/deployments", json=shadow, headers=eva).json()["kind"] == "shadow"
    wait(call, lambda: service.stations.all()[0].shadow is not None)
    nothing = {"version_id": None, "policy": {"review": "ng"}, **SURE}
    assert call.post("/api/v1/streams/part/deployments", json=nothing, headers=eva).json()["model"] is None
    told = call.get("/api/v1/streams/part", headers=eva).json()
    assert (told["active"]["version_id"], told["active"]["policy"]) == (
        None,
        {"review": "ng", "out_of_scene": "review"},
    )
    assert told["shadow"]["version_id"] == version


def test_the_password_is_asked_again(call, service, model, eva):
    """A page that was left open, or a slip, deploys nothing."""
    version = candidate(service, model)
    for path, body in (
        (f"versions/{version}:approve", {}),
        ("streams/part/deployments", {"version_id": version, "kind": "shadow"}),
    ):
        without = call.post(f"/api/v1/{path}", json={"reason": "x", **body}, headers=eva)
        assert (without.status_code, "your password" in without.json()["detail"]) == (422, True)
        wrong = call.post(f"/api/v1/{path}", json={"reason": "x", "password": "wrong", **body}, headers=eva)
        assert wrong.status_code == 401
        empty = call.post(f"/api/v1/{path}", json={"reason": " ", "password": PASSWORD, **body}, headers=eva)
        assert empty.status_code == 422
    assert service.store.read(models.version, version).status == "candidate"
    assert len(service.store.read(streams.history, 1)) == 1


def test_a_second_person_may_be_asked_for(call, service, model, eva):
    service.store.write(preferences.put, "approval.second_person", True, by=Actor("anna"))
    version = candidate(service, model, by="eva")
    path = f"/api/v1/versions/{version}:approve"
    assert "second person" in call.post(path, json=SURE, headers=eva).json()["detail"]
    assert call.post(path, json=SURE, headers=signed_in(service, "emil")).status_code == 200


def test_a_version_whose_gate_failed_is_not_approved(call, service, model, eva):
    version = candidate(service, model)
    service.store.write(models.set_gate, version, {"passed": False, "lost": ["x"]})
    refused = call.post(f"/api/v1/versions/{version}:approve", json=SURE, headers=eva)
    assert (refused.status_code, "gate" in refused.json()["detail"]) == (409, True)
    assert call.get(f"/api/v1/versions/{version}", headers=eva).json()["gate"] == {"passed": False, "lost": ["x"]}


def test_the_gate_must_be_asked_where_people_have_labelled_defects(call, service, model, files, eva):
    version = candidate(service, model)
    part = call.post(PATH, content=files[1], headers=token(service, "inspect")).json()["id"]
    call.post(f"{PATH}/{part}/reviews", json={"label": "defect"}, headers=eva)
    refused = call.post(f"/api/v1/versions/{version}:approve", json=SURE, headers=eva)
    assert (refused.status_code, "ask its gate" in refused.json()["detail"]) == (409, True)


def test_a_gate_that_has_not_seen_the_newest_defects_must_be_asked_again(call, service, model, files, eva):
    version, machine = candidate(service, model), token(service, "inspect")
    parts = [call.post(PATH, content=files[1], headers=machine).json()["id"] for _ in range(2)]
    call.post(f"{PATH}/{parts[0]}/reviews", json={"label": "defect"}, headers=eva)
    gate = {"passed": True, "at": datetime.now(UTC).isoformat()}
    service.store.write(models.set_gate, version, gate)
    call.post(f"{PATH}/{parts[1]}/reviews", json={"label": "defect"}, headers=eva)
    path = f"/api/v1/versions/{version}:approve"
    refused = call.post(path, json=SURE, headers=eva)
    assert (refused.status_code, "further defects" in refused.json()["detail"]) == (409, True)
    call.post(f"{PATH}/{parts[1]}/reviews:undo", headers=eva)  # it was a mistake
    assert call.post(path, json=SURE, headers=eva).status_code == 200


def test_before_there_is_an_administrator_this_machine_needs_no_password(model):
    service = service_of(model)
    with calling(service) as call:
        version = candidate(service, model)
        assert call.post(f"/api/v1/versions/{version}:approve", json={"reason": "trial"}).status_code == 200
