"""Server-Sent Events: told after the commit, resumed after a gap, and an end when the service ends."""

from __future__ import annotations

import asyncio
import json
import threading

import httpx
import pytest

from patchbank.server import events as hub_module
from patchbank.server.events import MOST_WAITING, Hub
from patchbank.server.problems import Problem
from patchbank.store.events import Event
from server.conftest import running, service_of

PNG = {"Content-Type": "image/png"}


def parsed(lines: str) -> list[dict]:
    """The events in a text."""
    found = []
    for block in lines.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "event" in fields:
            found.append({"id": fields["id"], "event": fields["event"], "data": json.loads(fields["data"])})
    return found


def read(address: str, count: int, begun: threading.Event, **rest) -> list[dict]:
    """The next events."""
    text = ""
    with httpx.stream("GET", f"{address}/api/v1/events", timeout=60, **rest) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for part in answer.iter_text():
            begun.set()
            text += part
            if len(parsed(text)) >= count:
                return parsed(text)
    return parsed(text)


class Reading:
    """Reads events in a thread, beginning before the block does."""

    def __init__(self, address: str, count: int, **rest) -> None:
        self.found: list[dict] = []
        begun = threading.Event()
        self._thread = threading.Thread(target=lambda: self.found.extend(read(address, count, begun, **rest)))
        self._thread.start()
        assert begun.wait(60)

    def end(self) -> list[dict]:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.found


def test_an_inspection_is_told_to_who_listens(model, files):
    with running(service_of(model)) as address:
        reading = Reading(address, 1, params={"kind": "inspection"})
        said = httpx.post(f"{address}/api/v1/inspections", content=files[1], headers=PNG, timeout=60).json()
        (event,) = reading.end()
        assert event["event"] == "inspection"
        assert event["data"]["id"] == said["id"]
        assert event["data"]["verdict"] == "ng"
        assert httpx.get(f"{address}/api/v1/inspections/{said['id']}").status_code == 200


def test_who_was_away_for_a_moment_misses_nothing(model, files):
    with running(service_of(model)) as address:
        reading = Reading(address, 1, params={"kind": "inspection"})
        post = [
            httpx.post(f"{address}/api/v1/inspections", content=files[0], headers=PNG, timeout=60).json()["id"]
            for _ in range(3)
        ]
        (first,) = reading.end()
        again = Reading(address, 2, params={"kind": "inspection"}, headers={"Last-Event-ID": first["id"]}).end()
        assert [each["data"]["id"] for each in [first, *again]] == post


@pytest.mark.parametrize("last", ["other-1", "x", "-", "1", "-5", "other-99999999999999999999"])
def test_who_was_away_for_too_long_is_told(model, last):
    with running(service_of(model)) as address:
        (event,) = Reading(address, 1, headers={"Last-Event-ID": last}).end()
    assert event["event"] == "missed"


def test_streams_of_events_end_with_the_service(model):
    """They have no end of their own, and would keep the service from stopping."""
    with running(service_of(model)) as address:
        reading = Reading(address, 10**6)
    reading.end()


def run(coroutine):
    return asyncio.run(coroutine)


async def taken(stream, count):
    return parsed("".join([(await anext(stream)).decode() for _ in range(count + 1)]))


def everything(_: Event) -> bool:
    return True


def test_a_slow_listener_is_told_that_it_has_missed_some():
    async def scene():
        hub = Hub()
        stream = await hub.stream(None, everything)
        for number in range(MOST_WAITING + 3):
            hub.hear(Event("inspection", {"n": number}))
        return await taken(stream, 3)

    found = run(scene())
    assert [(each["event"], each["data"].get("n")) for each in found] == [
        ("missed", None),
        ("inspection", MOST_WAITING + 1),
        ("inspection", MOST_WAITING + 2),
    ]


def test_only_so_many_are_kept():
    async def scene():
        hub = Hub()
        for number in range(hub_module.KEPT + 10):
            hub.hear(Event("inspection", {"n": number}))
        lost = await taken(await hub.stream(f"{hub.start_id}-5", everything), 1)
        kept = await taken(await hub.stream(f"{hub.start_id}-{hub_module.KEPT + 8}", everything), 2)
        return lost, kept

    lost, kept = run(scene())
    assert [each["event"] for each in lost] == ["missed"]
    assert [each["data"]["n"] for each in kept] == [hub_module.KEPT + 8, hub_module.KEPT + 9]


def test_listeners_are_counted_and_leave():
    async def scene():
        hub = Hub()
        streams = [await hub.stream(None, everything) for _ in range(hub_module.MOST_LISTENERS)]
        with pytest.raises(Problem) as error:
            await hub.stream(None, everything)
        assert error.value.status == 503
        await anext(streams[0])
        await streams[0].aclose()
        assert hub.listeners == hub_module.MOST_LISTENERS - 1
        await hub.stream(None, everything)

    run(scene())


def test_a_quiet_stream_says_that_it_is_there(monkeypatch):
    monkeypatch.setattr(hub_module, "PING_S", 0.01)

    async def scene():
        stream = await Hub().stream(None, everything)
        return [await anext(stream) for _ in range(2)]

    assert run(scene()) == [b"retry: 2000\n\n", b": still here\n\n"]
