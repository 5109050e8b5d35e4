"""The journal: what was acknowledged is there, and owed to every sink until it has confirmed it, whatever happens."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.line.made import record

from patchbank import ConfigError, ImageError, OutputError
from patchbank.line import retention
from patchbank.line.journal import Journal
from patchbank.line.journal_reader import JournalReader
from patchbank.line.record import Record
from patchbank.line.retention import Policy
from patchbank.util.uuid7 import uuid7


def ids(owed: list) -> list[str]:
    return [each.record.id for each in owed]


def test_a_record_survives_json():
    made = record(triggered_at=datetime.now(UTC), heat={"h": 1}, regions=[{"area": 3}], late=True)
    assert Record.from_dict(made.to_dict()) == made
    with pytest.raises(ValueError, match="schema: expected 1; got 2"):
        Record.from_dict({**made.to_dict(), "schema": 2})
    assert Record.from_dict({**made.to_dict(), "of_tomorrow": 1}) == made


def test_a_record_is_owed_to_every_sink_until_it_confirms(journal):
    made = [record(part_id=str(number)) for number in range(3)]
    for each in made:
        journal.add(each).result(10)
    assert ids(journal.pending("first")) == ids(journal.pending("second")) == [each.id for each in made]
    journal.delivered("first", [made[0].id, made[1].id])
    assert [each.record for each in journal.pending("first")] == [made[2]]
    assert len(journal.pending("second", 2)) == 2
    assert journal.backlogs() == {"first": (1, 0), "second": (3, 0)}


def test_the_same_record_twice_is_kept_and_owed_once(journal):
    made = record()
    journal.add(made).result(10)
    journal.add(replace(made, reason="another one")).result(10)
    assert list(journal.records()) == [made]
    assert ids(journal.pending("first")) == [made.id]


def test_what_a_sink_refuses_for_good_blocks_nothing_and_comes_back(journal):
    made = [record(), record()]
    for each in made:
        journal.add(each).result(10)
    journal.failed("first", made[0].id, "not now")
    assert [each.attempts for each in journal.pending("first")] == [1, 0]
    journal.failed("first", made[0].id, "never", final=True)
    assert ids(journal.pending("first")) == [made[1].id]
    assert journal.backlogs()["first"] == (1, 1)
    journal.retry("first")
    assert ids(journal.pending("first")) == [made[0].id, made[1].id]


def test_a_relay_is_woken(journal):
    assert not journal.wait_pending("first", 0.01)
    threading.Timer(0.05, lambda: journal.add(record())).start()
    assert journal.wait_pending("first", 10)


def test_images_are_kept_by_digest_and_proven(journal):
    made = record()
    journal.add(made, b"an image", "png").result(10)
    kept = journal.find(made.id)
    assert kept.image_format == "png"
    assert journal.images.get(kept.image_sha256) == b"an image"
    journal.images.path(kept.image_sha256).write_bytes(b"another one")
    with pytest.raises(ImageError, match="is damaged"):
        journal.images.get(kept.image_sha256)
    with pytest.raises(ImageError, match="expected a SHA-256"):
        journal.images.get("../journal.sqlite3")


def test_everything_is_there_after_it_was_opened_again(tmp_path):
    made = record(source_key="a.png|1")
    with_sink = Journal(tmp_path, ["first"])
    with_sink.add(made)
    with_sink.close()
    reader = JournalReader(tmp_path)  # without a line that runs
    assert [*reader.records()] == [made]
    assert ids(reader.pending("first")) == [made.id]
    reader.close()
    again = Journal(tmp_path, ["second"])
    assert ids(again.pending("first")) == [made.id]
    assert again.pending("second") == []
    assert again.knows_source("cap", "a.png|1")
    assert not again.knows_source("cap", "b.png|1")
    again.close()


def test_one_line_has_a_journal(journal):
    with pytest.raises(OutputError, match="used by another line"):
        Journal(journal.folder)
    assert JournalReader(journal.folder).find("none") is None  # reading is free


def test_no_journal_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="data: expected the data folder of a line"):
        JournalReader(tmp_path)


def test_images_go_by_age_and_verdict_but_not_while_they_are_owed(tmp_path):
    then = datetime.now(UTC) - timedelta(days=10)
    made = {verdict: record(id=str(uuid7(then)), at=then, verdict=verdict) for verdict in ("ok", "ng")}
    owed = Journal(tmp_path, ["first"], policy=Policy({"ok": 7, "ng": 365}, min_free=0))
    for verdict, each in made.items():
        owed.add(each, verdict.encode()).result(10)
    digest = owed.find(made["ok"].id).image_sha256
    owed._tidied = 0.0
    owed.flush()
    assert owed.images.path(digest).is_file(), "it is owed"
    owed.delivered("first", [made["ok"].id])
    owed._tidied = 0.0
    owed.flush()
    assert not owed.images.path(digest).is_file()
    assert owed.images.path(owed.find(made["ng"].id).image_sha256).is_file()
    assert owed.find(made["ok"].id) is not None, "the record stays"
    owed.close()


def test_a_full_disk_takes_the_oldest_ok_images_first_and_then_says_so(tmp_path, monkeypatch):
    alarms: dict[str, str | None] = {}
    free = [10_000]
    monkeypatch.setattr(retention, "free_bytes", lambda folder: free[0])
    monkeypatch.setattr("patchbank.line.journal.free_bytes", lambda folder: free[0])
    monkeypatch.setattr(retention, "_TOGETHER", 1)
    full = Journal(tmp_path, policy=Policy(min_free=1000), alarm=alarms.__setitem__)
    made = [record(verdict=verdict) for verdict in ("ng", "ok", "ok")]
    for number, each in enumerate(made):
        full.add(each, b"%d" % number).result(10)
    removed = []
    monkeypatch.setattr(full.images, "remove", lambda digest: (removed.append(digest), free.__setitem__(0, 2000)))
    free[0] = 500
    full._tidied = 0.0
    full.flush()
    assert removed == [full.find(made[1].id).image_sha256]
    assert alarms["disk"] is None
    monkeypatch.setattr(full.images, "remove", removed.append)
    free[0] = 500
    full._tidied = 0.0
    full.flush()
    assert removed[1:] == [full.find(made[2].id).image_sha256, full.find(made[0].id).image_sha256]
    assert "no more are kept" in alarms["disk"]
    last = record()
    full.add(last, b"more").result(10)
    assert full.find(last.id).image_sha256 is None
    full.close()


class Failing:
    """A connection whose writes fail for a while."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection, self.broken = connection, True

    def execute(self, query: str, *values: object) -> object:
        if self.broken and query.startswith("INSERT"):
            raise sqlite3.OperationalError("database or disk is full")
        return self.connection.execute(query, *values)

    def __getattr__(self, name: str) -> object:
        return getattr(self.connection, name)


def test_records_wait_for_a_disk_that_is_full_and_can_be_withdrawn(journal, monkeypatch):
    alarms: dict[str, str | None] = {}
    monkeypatch.setattr("patchbank.line.journal._RETRY", 0.05)
    journal.alarm = alarms.__setitem__
    failing = journal._writing = Failing(journal._writing)
    made = [record(), record()]
    futures = [journal.add(each) for each in made]
    end = time.monotonic() + 10
    while not alarms.get("journal") and time.monotonic() < end:
        time.sleep(0.01)
    assert "disk is full" in alarms["journal"]
    assert not journal.healthy
    assert not futures[0].done()
    while not journal.withdraw(futures[1]) and time.monotonic() < end:
        time.sleep(0.01)  # it is being tried just now
    failing.broken = False
    futures[0].result(10)
    assert [*journal.records()] == made[:1]
    assert journal.healthy
    assert alarms["journal"] is None


def test_what_cannot_be_kept_at_all_goes_to_the_log(journal, caplog, monkeypatch):
    monkeypatch.setattr("patchbank.line.journal.MOST_WAITING", 0)
    made = record(part_id="P-17")
    with caplog.at_level(logging.ERROR), pytest.raises(OutputError, match="was not kept"):
        journal.add(made).result(10)
    assert "P-17" in caplog.text
    assert journal.lost == 1


def test_a_record_that_no_json_holds_takes_no_other_one_with_it(journal, monkeypatch):
    monkeypatch.setattr(journal, "_tidied", time.monotonic())
    with journal._changed:  # so that they are one group
        bad, good = journal.add(record(score=float("nan"))), journal.add(made := record())
    good.result(10)
    with pytest.raises(OutputError, match="not kept"):
        bad.result(10)
    assert [*journal.records()] == [made]


KILLED = """
import sys, itertools
from pathlib import Path
from patchbank.line.journal import Journal
from tests.line.made import record
journal = Journal(Path(sys.argv[1]), ["first"])
for number in itertools.count():
    made = record()
    journal.add(made, made.id.encode()).result()
    print(made.id, flush=True)
"""


def test_what_was_acknowledged_survives_kills(tmp_path):
    """SIGKILL in the middle of writing: every acknowledged record is there, with its image, and owed."""
    root = Path(__file__).parents[2]
    acknowledged: list[str] = []
    for kill in range(int(os.environ.get("PATCHBANK_KILLS", "2"))):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env=os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}"},
        )
        acknowledged += [process.stdout.readline().strip() for _ in range(5 + kill)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().split()
        process.wait()
    journal = Journal(tmp_path)
    found = {each.id: each for each in journal.records()}
    assert set(acknowledged) <= found.keys()
    assert len(ids(journal.pending("first", 10_000))) == len(found)
    assert all(journal.images.get(each.image_sha256) == id.encode() for id, each in found.items())
    journal.close()
