"""Models, streams, deployments: only what was approved decides, and everything that happened stays known."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from patchbank import StoreConflictError, StoreNotFoundError, StoreValueError
from patchbank.store import audit_log, models, streams
from patchbank.store.engine import Store
from patchbank.store.models import ModelVersion, NewVersion
from patchbank.store.values import Actor
from store import made

ANNA, BERT = Actor("anna"), Actor("bert")


def new(file: str = "first", **others: Any) -> NewVersion:
    row: dict[str, Any] = {
        "file_sha256": made.digest(file),
        "file_size": 1000,
        "bank_version": 1,
        "action": "fit",
        "calibrated": "exact",
        "images": 20,
        "size": 300,
        "time": made.NOON,
        "threshold": 2.0,
    }
    return NewVersion(**(row | others))


def candidate(store: Store, file: str = "first", **others: Any) -> ModelVersion:
    model = store.write(models.ensure, "cap")
    return store.write(models.add_version, model.id, new(file, **others), by=ANNA)


def test_versions_count_up_and_the_same_file_is_one_version(store: Store) -> None:
    first, second = candidate(store), candidate(store, "second", note="new supplier", threshold=float("nan"))
    assert (first.number, second.number) == (1, 2)
    assert second.threshold is None
    assert candidate(store) == first
    assert candidate(store, bank_version=2).number == 3
    model = store.read(models.by_name, "cap")
    assert [each.number for each in store.read(models.versions, model.id)] == [3, 2, 1]
    assert store.read(models.numbered, model.id, 2) == second
    assert store.read(models.that_made, made.digest("second"), 1) == second
    assert store.read(models.that_made, made.digest("second"), 9) is None
    with pytest.raises(StoreNotFoundError):
        store.read(models.numbered, model.id, 4)
    with pytest.raises(StoreConflictError, match="already"):
        store.write(models.add, "cap")
    with pytest.raises(StoreValueError, match="upload, fit, update"):
        candidate(store, "third", action="guess")


def test_versions_that_come_at_once_have_different_numbers(store: Store) -> None:
    model = store.write(models.add, "cap")
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(store.write, models.add_version, model.id, new(f"file {n}"), by=ANNA) for n in range(16)]
    assert sorted(call.result().number for call in calls) == list(range(1, 17))


def test_only_an_approved_version_decides(store: Store) -> None:
    stream, version = store.write(streams.add, "line 1"), candidate(store)
    with pytest.raises(StoreConflictError, match="only an approved one may decide"):
        store.write(streams.deploy, stream.id, version.id, by=ANNA, reason="try")
    store.write(streams.deploy, stream.id, version.id, kind="shadow", by=ANNA, reason="watch")
    store.write(models.approve, version.id, by=BERT, reason="looks right")
    deployed = store.write(streams.deploy, stream.id, version.id, review_rate=0.05, by=BERT, reason="go")
    assert store.read(streams.current, stream.id) == deployed
    assert store.read(streams.where_deployed, version.id) != []
    with pytest.raises(StoreConflictError, match="deployed"):
        store.write(models.retire, version.id, by=ANNA, reason="old")
    with pytest.raises(StoreConflictError, match="deployed"):
        store.write(models.archive, version.model_id, by=ANNA, reason="old")
    for kind in ("active", "shadow"):
        store.write(streams.deploy, stream.id, None, kind=kind, by=ANNA, reason="end")
    store.write(models.retire, version.id, by=ANNA, reason="old")
    with pytest.raises(StoreConflictError, match="retired"):
        store.write(streams.deploy, stream.id, version.id, kind="shadow", by=ANNA, reason="again")
    store.write(models.archive, version.model_id, by=ANNA, reason="old")
    assert store.read(models.listed) == []
    assert len(store.read(models.listed, archived=True)) == 1


def test_the_gate_blocks_and_a_second_person_approves(store: Store) -> None:
    version = candidate(store)
    store.write(models.set_gate, version.id, {"passed": False, "lost": ["a"]})
    with pytest.raises(StoreConflictError, match="gate was not passed"):
        store.write(models.approve, version.id, by=BERT, reason="anyway")
    store.write(models.set_gate, version.id, {"passed": True})
    with pytest.raises(StoreConflictError, match="second person"):
        store.write(models.approve, version.id, by=ANNA, reason="mine", second_person=True)
    with pytest.raises(StoreValueError, match="reason"):
        store.write(models.approve, version.id, by=BERT, reason=" ")
    approved = store.write(models.approve, version.id, by=BERT, reason="fine", second_person=True)
    assert (approved.status, approved.status_by, approved.gate_json) == ("approved", "bert", {"passed": True})
    with pytest.raises(StoreConflictError, match="only a candidate"):
        store.write(models.approve, version.id, by=BERT, reason="twice")
    with pytest.raises(StoreConflictError, match="no candidate"):
        store.write(models.set_gate, version.id, {"passed": False})
    told = [(each.action, each.actor, each.reason) for each in store.read(audit_log.page)]
    assert told[0] == ("model.approve", "bert", "fine")


def test_deployments_are_a_history(store: Store) -> None:
    """To go back is to deploy the version of before; who, when and why stays known."""
    stream, other = store.write(streams.add, "line 1"), store.write(streams.add, "line 2")
    first, second = candidate(store), candidate(store, "second")
    for version in (first, second):
        store.write(models.approve, version.id, by=BERT, reason="fine")
    for version, reason in ((first, "start"), (second, "better"), (first, "back")):
        store.write(streams.deploy, stream.id, version.id, by=ANNA, reason=reason)
    store.write(streams.deploy, other.id, second.id, by=ANNA, reason="start")
    history = store.read(streams.history, stream.id)
    assert [each.reason for each in history] == ["back", "better", "start"]
    assert [each.previous_id for each in history] == [history[1].id, history[2].id, None]
    assert [each.reason for each in store.read(streams.history, stream.id, before=history[1].id)] == ["start"]
    current = {each.stream_id: each.model_version_id for each in store.read(streams.all_current)}
    assert current == {stream.id: first.id, other.id: second.id}
    with pytest.raises(StoreValueError, match="0 to 1"):
        store.write(streams.deploy, stream.id, first.id, review_rate=1.5, by=ANNA, reason="x")
    with pytest.raises(StoreNotFoundError):
        store.write(streams.deploy, stream.id, 999, by=ANNA, reason="x")


def test_a_line_reports_and_a_person_pauses(store: Store) -> None:
    stream = store.write(streams.ensure, "line 1")
    assert store.write(streams.ensure, "line 1") == stream
    store.write(streams.report, stream.id, "ready", state_json={"queue": 0}, config_sha256=made.digest("toml"))
    seen = store.read(streams.by_name, "line 1")
    assert (seen.state, seen.state_json, seen.last_seen_at is not None) == ("ready", {"queue": 0}, True)
    store.write(streams.pause, stream.id, by=ANNA, reason="cleaning")
    store.write(streams.report, stream.id, "busy")
    assert store.read(streams.by_id, stream.id).state == "paused"
    store.write(streams.resume, stream.id, by=ANNA, reason="clean")
    with pytest.raises(StoreConflictError, match="not paused"):
        store.write(streams.resume, stream.id, by=ANNA, reason="again")
    with pytest.raises(StoreValueError, match="unknown, start, ready"):
        store.write(streams.report, stream.id, "dancing")
    store.write(streams.archive, stream.id, by=ANNA, reason="sold")
    assert store.read(streams.listed) == []
    assert [each.name for each in store.read(streams.listed, archived=True)] == ["line 1"]


def test_values_of_versions_are_checked(store: Store) -> None:
    model = store.write(models.ensure, "cap")
    for wrong in ({"file_sha256": "../x"}, {"calibrated": "maybe"}, {"note": "x" * 10_001}, {"author": "\0"}):
        with pytest.raises(StoreValueError):
            store.write(models.add_version, model.id, replace(new(), **wrong), by=ANNA)
    assert store.read(models.versions, model.id) == []
