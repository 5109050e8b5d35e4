"""Relays: nothing leaves the outbox that its sink has not confirmed, and no sink is in another one's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from recording import Recording
from tests.line.made import record

from patchbank import OutputError
from patchbank.line.journal import Journal
from patchbank.line.relay import Relay, Relays
from patchbank.line.sinks.base import Outcome, Unreachable


class Alarms:
    """What was told: open alarms, and all that there ever were."""

    def __init__(self) -> None:
        self.open: dict[str, str] = {}
        self.ever: list[str] = []

    def __call__(self, what: str, why: str | None) -> None:
        if why is None:
            self.open.pop(what, None)
        else:
            self.open[what] = why
            self.ever.append(f"{what}: {why}")


@pytest.fixture
def alarms() -> Alarms:
    return Alarms()


@pytest.fixture
def sinks() -> tuple[Recording, Recording]:
    return Recording("first"), Recording("second")


@contextmanager
def relays(journal: Journal, sinks, alarms: Alarms, **options: float) -> Iterator[Relays]:
    made = Relays(sinks, journal, alarms)
    made._relays = [Relay(sink, journal, alarms, first_wait=0.02, **options) for sink in sinks]
    made.start()
    try:
        yield made
    finally:
        made.close()


def added(journal: Journal, count: int) -> list[str]:
    made = [record() for _ in range(count)]
    for future in [journal.add(each) for each in made]:
        future.result(10)
    return [each.id for each in made]


def soon(condition, what: str, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


def test_every_record_comes_to_every_sink_once_and_in_order(journal, sinks, alarms):
    before = added(journal, 25)
    with relays(journal, sinks, alarms) as running:
        after = added(journal, 25)
        assert running.drain(20)
        assert [each.delivered for each in running.states()] == [50, 50]
    assert [sink.got for sink in sinks] == [before + after] * 2
    assert alarms.ever == []


def test_a_sink_that_is_down_or_hangs_holds_up_no_other_one(journal, sinks, alarms):
    down, fine = sinks
    hang = threading.Event()
    down.before = lambda records: hang.wait(30)
    with relays(journal, sinks, alarms) as running:
        ids = added(journal, 30)
        soon(lambda: fine.got == ids, "the other sink gets nothing")
        soon(lambda: [state.pending for state in running.states()] == [30, 0], "nothing is struck out")
        hang.set()
        assert running.drain(20)


def test_a_failure_is_an_alarm_until_it_is_over_and_nothing_is_lost(journal, sinks, alarms):
    first, _ = sinks
    tries = []

    def fail(records):
        tries.append([each.id for each in records])
        raise Unreachable("the cable is out")

    first.before = fail
    with relays(journal, sinks, alarms) as running:
        ids = added(journal, 3)
        soon(lambda: len(tries) >= 3, "it is not tried again")
        state = running.states()[0]
        assert (state.pending, state.refused, state.error) == (3, 0, "the cable is out")
        assert state.since is not None
        assert alarms.open == {"sink first": "the cable is out"}
        first.before = lambda records: None
        assert running.drain(20)
        soon(lambda: alarms.open == {}, "the alarm stays")
        assert running.states()[0].error is None
    assert first.got == ids


def test_waits_grow_and_have_a_limit(journal, sinks, alarms, monkeypatch):
    waits = []
    relay = Relay(sinks[0], journal, alarms, first_wait=1.0, longest_wait=8.0)
    monkeypatch.setattr(relay._ending, "wait", waits.append)
    for _ in range(6):
        relay._failed("down")
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, [1, 2, 4, 8, 8, 8], strict=True))
    relay._failed("too many requests", 40.0)
    relay._failed("come back in a year", 3e7)
    assert waits[-2:] == [40.0, 300.0]


def test_what_is_refused_is_set_aside_with_its_reason_and_the_rest_goes_on(journal, sinks, alarms):
    first, _ = sinks
    ids = added(journal, 5)
    first.refuse = {ids[2]: "no such station"}
    with relays(journal, sinks, alarms) as running:
        assert running.drain(20)
        assert [each.refused for each in running.states()] == [1, 0]
    assert first.got == ids[:2] + ids[3:]
    assert alarms.ever == [f"sink first: refused: record {ids[2]} was refused, and is set aside: no such station"]
    assert journal.find(ids[2]) is not None
    first.refuse = {}
    with relays(journal, sinks, alarms) as again:  # whoever has put it right starts the line anew
        soon(lambda: first.got[-1] == ids[2], "it is not tried again")
        soon(lambda: again.states()[0].refused == 0, "it is still set aside")


def test_a_record_that_breaks_its_sink_is_set_aside_alone(journal, sinks, alarms):
    """An error that nobody foresaw must neither lose the others nor stop the sink for good."""
    first, _ = sinks
    ids = added(journal, 12)

    def break_on_one(records):
        if ids[4] in [each.id for each in records]:
            raise ZeroDivisionError("one bad field")

    first.before = break_on_one
    with relays(journal, sinks, alarms, longest_wait=0.05) as running:
        assert running.drain(20)
        assert running.states()[0].refused == 1
    assert sorted(first.got) == sorted(ids[:4] + ids[5:])
    assert "ZeroDivisionError: one bad field" in alarms.ever[-1]


def test_a_sink_that_confirms_nothing_is_not_asked_without_end(journal, sinks, alarms, monkeypatch):
    first, _ = sinks
    calls = []
    monkeypatch.setattr(first, "deliver", lambda records, images: calls.append(1) or Outcome())
    with relays(journal, sinks[:1], alarms):
        added(journal, 1)
        soon(lambda: "sink first" in alarms.open, "no alarm")
    assert len(calls) < 10


def test_while_the_journal_cannot_note_it_nothing_is_delivered_again(journal, sinks, alarms, monkeypatch):
    first, _ = sinks
    real, failed = journal.delivered, []

    def full(sink, ids):
        if len(failed) < 3:
            failed.append(sink)
            raise OutputError("the disk is full")
        real(sink, ids)

    monkeypatch.setattr(journal, "delivered", full)
    with relays(journal, sinks[:1], alarms):
        ids = added(journal, 1)
        soon(lambda: not journal.pending("first", 1), "it is not noted")
    assert first.got == ids
    assert any("the disk is full" in each for each in alarms.ever)


def test_states_go_to_every_sink_even_if_one_fails(journal, sinks, alarms, monkeypatch):
    monkeypatch.setattr(sinks[0], "state", lambda *_: 1 / 0)
    with relays(journal, sinks, alarms) as running:
        running.tell("cap", {"state": "ready"})
    assert sinks[1].states == [("cap", {"state": "ready"})]


def test_close_ends_quickly_and_leaves_the_rest_for_the_next_start(journal, sinks, alarms):
    first, second = sinks
    first.before = second.before = lambda records: (_ for _ in ()).throw(Unreachable("down"))
    with relays(journal, sinks, alarms, longest_wait=60.0):
        ids = added(journal, 4)
        soon(lambda: len(alarms.open) == 2, "no alarm")
    assert first.closed.is_set()
    first.before = second.before = lambda records: None
    with relays(journal, sinks, alarms) as running:
        assert running.drain(20)
    assert first.got == second.got == ids


KILLED = """
import sys
from pathlib import Path
from tests.line.made import record
from patchbank.line.journal import Journal
from patchbank.line.relay import Relays
from patchbank.line.sinks.csv import CsvSink

root = Path(sys.argv[1])
journal = Journal(root / "data", ["table"])
relays = Relays([CsvSink(name="table", path=str(root / "out"))], journal, lambda what, why: None)
relays.start()
while True:
    made = record()
    journal.add(made).result()
    print(made.id, flush=True)
"""
KILLS = int(os.environ.get("PATCHBANK_KILLS", "1"))


def test_after_kills_every_journaled_record_is_in_the_table_once(tmp_path, alarms):
    """The promise of the outbox, with a real sink: nothing lost, nothing doubled."""
    from patchbank.line.sinks.csv import CsvSink

    root, journaled = Path(__file__).parents[3], []
    for _ in range(KILLS):
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout
            journaled += [child.stdout.readline().strip() for _ in range(40)]
            child.send_signal(signal.SIGKILL)
            journaled += [line.strip() for line in child.stdout if line.endswith("\n")]
    journal = Journal(tmp_path / "data", ["table"])
    with relays(journal, [CsvSink(name="table", path=str(tmp_path / "out"))], alarms) as running:
        assert running.drain(20)
    journal.close()
    (table,) = (tmp_path / "out").glob("*.csv")
    ids = [line.split(",")[0] for line in table.read_text().splitlines()[1:]]
    assert len(ids) == len(set(ids))
    assert set(journaled) <= set(ids)
