"""What the service removes by itself, when, and that it does not keep the service from ending."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time

import pytest

from patchbank.errors import StoreUnavailableError
from patchbank.server import housekeeping
from patchbank.server.housekeeping import IN_VAIN_S, RUN_S, SWEEP_S, Housekeeping
from patchbank.store.retention import Policy, Removed
from server.conftest import calling, service_of


class Rounds:
    """Housekeeping whose rounds are only noted, and whose time passes by hand."""

    def __init__(self, monkeypatch, store):
        self.now, self.free, self.noted, self.done = 0.0, 10**12, [], Removed()
        monkeypatch.setattr(housekeeping, "free_bytes", lambda _: self.free)
        for name in ("run", "sweep"):
            monkeypatch.setattr(housekeeping.retention, name, lambda *_, name=name, **__: self.note(name))
        self.housekeeping = Housekeeping(store, clock=lambda: self.now)

    def note(self, name):
        self.noted.append(name)
        return self.done

    def after(self, seconds):
        """What was done when so much time has passed."""
        self.now += seconds
        self.noted.clear()
        self.housekeeping.look()
        return list(self.noted)


@pytest.fixture
def rounds(monkeypatch, service):
    return Rounds(monkeypatch, service.store)


def test_every_hour_and_every_day(rounds):
    assert rounds.after(0) == ["sweep", "run"]
    assert rounds.after(RUN_S - 1) == []
    assert rounds.after(1) == ["run"]
    assert rounds.after(SWEEP_S) == ["sweep", "run"]


def test_a_short_disk_does_not_wait_for_the_hour(rounds):
    rounds.after(0)
    rounds.free = 10
    assert rounds.after(IN_VAIN_S) == ["run"]
    assert rounds.after(60) == []  # nothing may go: it is not tried every minute
    assert rounds.after(IN_VAIN_S) == ["run"]
    rounds.done = Removed(images=200, for_space=200)
    rounds.after(IN_VAIN_S)
    assert rounds.after(60) == ["run"]  # it helps: at once again


def test_what_a_backup_postpones_comes_soon(rounds):
    rounds.done = Removed(postponed=True)
    assert rounds.after(0) == ["sweep", "run"]
    assert rounds.after(60) == ["sweep", "run"]


def test_the_service_does_it(model, monkeypatch, caplog):
    """From its start on: a file that nobody names goes."""
    service = service_of(model)
    digest = service.store.blobs.put(b"orphan")
    os.utime(service.store.blobs.path(digest), (1, 1))
    caplog.set_level(logging.INFO, "patchbank.server")
    with calling(service) as call:
        for _ in range(1000):
            call.get("/healthz")
            if "were removed" in caplog.text:
                break
            time.sleep(0.02)
    assert not service.store.blobs.has(digest)
    assert [each.facts["orphans"] for each in caplog.records if "were removed" in each.message] == [1]


def test_a_fault_does_not_end_it(service, monkeypatch, caplog):
    """The database is away for a moment; something unforeseen happens: the next round comes all the same."""
    faults = [StoreUnavailableError("away"), ZeroDivisionError()]
    came = threading.Event()

    def look(self):
        if faults:
            raise faults.pop(0)
        came.set()

    monkeypatch.setattr(Housekeeping, "look", look)

    async def live():
        found = Housekeeping(service.store, look=0.01)
        found.start()
        await asyncio.to_thread(came.wait, 60)
        await found.stop()

    asyncio.run(live())
    assert came.is_set()
    assert "has to wait: away" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_a_long_round_does_not_keep_the_service(service, monkeypatch):
    """Retention asks whether to stop, again and again."""
    begun = threading.Event()

    def long(_store, *, stop):
        begun.set()
        while not stop():
            time.sleep(0.01)
        return Removed()

    monkeypatch.setattr(housekeeping.retention, "sweep", long)

    async def live():
        found = Housekeeping(service.store)
        found.start()
        await asyncio.to_thread(begun.wait, 60)
        await asyncio.wait_for(found.stop(), 60)

    asyncio.run(live())
    assert begun.is_set()


def test_a_policy_is_read_each_time(rounds, monkeypatch):
    """A change of the settings needs no restart."""
    rounds.after(0)
    monkeypatch.setattr(housekeeping.retention, "policy", lambda _: Policy({}, 10**13))
    assert rounds.after(IN_VAIN_S) == ["run"]
