"""Backups over HTTP: made while the service works, fetched, restored, removed; and what keeps them from doing harm."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from patchbank.server import backups
from patchbank.store import audit_log, listing
from patchbank.store.engine import open_store
from patchbank.store.restore import restore
from patchbank.store.values import Actor
from server.conftest import calling, service_of

PATH = "/api/v1/backup"


@pytest.fixture
def call(model):
    with calling(service_of(model)) as caller:
        yield caller


def done(call) -> dict:
    """The newest backup, once it is no longer made."""
    for _ in range(3000):
        call.get("/healthz")  # the loop runs while a request is answered
        (newest, *_) = call.get(PATH).json()
        if newest["state"] != "running":
            return newest
        time.sleep(0.02)
    raise AssertionError("the backup was not done within a minute")


def test_what_is_fetched_can_be_restored(call, files, tmp_path):
    answer = call.post("/api/v1/inspections", content=files[1], headers={"Content-Type": "image/png"})
    begun = call.post(PATH, params={"reason": "before the update"})
    assert (begun.status_code, begun.json()["state"]) == (202, "running")
    made = done(call)
    assert (made["name"], made["state"], made["error"]) == (begun.json()["name"], "done", "")
    content = call.get(f"{PATH}/{made['name']}")
    assert content.headers["content-type"] == "application/x-tar"
    assert len(content.content) == made["size"]
    (tmp_path / "fetched.tar").write_bytes(content.content)
    restore(tmp_path / "fetched.tar", tmp_path / "again", by=Actor("test"))
    with open_store(tmp_path / "again") as store:
        (inspection,) = store.read(listing.page, listing.Filter()).items
        assert str(inspection.id) == answer.json()["id"]
        assert store.blobs.get(inspection.image_sha256) == files[1]
    assert call("DELETE", f"{PATH}/{made['name']}").status_code == 204
    assert call.get(f"{PATH}/{made['name']}").status_code == 404
    assert call.get(PATH).json() == []
    entries = call.app.state.service.store.read(audit_log.page, about=f"backup/{made['name']}")
    assert [each.action for each in entries] == ["backup.remove", "backup.fetch", "backup.make"]
    assert entries[-1].reason == "before the update"


def test_names_lead_nowhere_else(call):
    for name in ("..%2Fpatchbank.sqlite", "patchbank.sqlite", "patchbank-20260101T000000Z.tar%00"):
        assert call.get(f"{PATH}/{name}").status_code in (404, 422)


def test_one_at_a_time_and_a_failure_is_said(call, monkeypatch):
    go, real = threading.Event(), backups.make

    def slow(*args, **named):
        assert go.wait(60)
        return real(*args, **named)

    monkeypatch.setattr(backups, "make", slow)
    assert call.post(PATH).status_code == 202
    assert call.post(PATH).status_code == 409
    go.set()
    assert done(call)["state"] == "done"
    time.sleep(1.1)  # another second, another name
    monkeypatch.setattr("patchbank.store.backup.LEFT_FREE", 10**18)
    call.post(PATH)
    failed = done(call)
    assert failed["state"] == "failed"
    assert "would fill the disk" in failed["error"]
    assert call.get(f"{PATH}/{failed['name']}").status_code == 404


def test_a_stop_does_not_wait_for_it(model, monkeypatch):
    """And leaves no half of a backup."""
    service, begun = service_of(model), threading.Event()

    def endless(store, target: Path, *, stop):
        begun.set()
        while not stop():
            time.sleep(0.01)
        raise backups.StoreConflictError("stopped")

    monkeypatch.setattr(backups, "make", endless)
    with calling(service) as call:
        call.post(PATH)
        call.get("/healthz")
        assert begun.wait(60)
    assert not service.store.folder.backups.exists()
