"""SIGKILL in the middle of parts, with a real PLC client and a real broker: the heartbeat stops, the start rejects, and
every part that was journaled reaches every receiver once (by id). PATCHBANK_KILLS=50 for more kills."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.line.conftest import write

from parts import striped
from patchbank.line.journal_reader import JournalReader

pytest.importorskip("pymodbus.client", reason="pymodbus, the test client, is not installed")
pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")

from pymodbus.exceptions import ModbusException
from tests.line.plc.modbus_ladder import Ladder
from tests.line.sinks.broker import Broker, Subscriber, answers, free_port

ROOT = Path(__file__).parents[2]
LINE = """
data = "data"
site = "plant"
line = "L1"
[station.cap]
model = "{model}"
deadline_ms = 5000
[station.cap.camera]
kind = "fake"
images = "parts"
faults = ["exception"]
fault_rate = 0.1
[station.cap.plc]
kind = "modbus"
listen = "127.0.0.1:{plc}"
[[sink]]
kind = "mqtt"
url = "mqtt://127.0.0.1:{broker}"
[[sink]]
kind = "csv"
path = "csv"
"""


@pytest.fixture
def start():
    """Starts a line, and returns once its PLC can connect; whatever runs at the end is killed."""
    running: list[subprocess.Popen] = []

    def started(root: Path, plc: int) -> subprocess.Popen:
        command = [sys.executable, "-m", "patchbank", "run", str(root / "line.toml")]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running.append(process)
        end = time.monotonic() + 60
        while not answers(plc):
            assert process.poll() is None, "the line ended"
            assert time.monotonic() < end, "nobody listens"
            time.sleep(0.02)
        return process

    yield started
    for process in running:
        process.kill()
        process.wait()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX systems")
def test_a_killed_line_rejects_and_every_journaled_part_is_delivered(tmp_path, model_file, start):
    rng = np.random.default_rng(0)
    for number in range(4):
        write(tmp_path / "parts" / f"{number}.png", striped(rng))
    broker, plc = Broker(tmp_path / "broker").start(), free_port()
    subscriber = Subscriber(broker.port, "patchbank/plant/L1/cap/result")
    (tmp_path / "line.toml").write_text(LINE.format(model=model_file, plc=plc, broker=broker.port))
    chosen = random.Random(0)
    try:
        for _ in range(int(os.environ.get("PATCHBANK_KILLS", "1"))):
            killed_among_parts(start(tmp_path, plc), plc, chosen.uniform(0.05, 0.5))
        process = start(tmp_path, plc)
        assert Ladder("127.0.0.1", plc).inspect("last")[1] == "last"
        delivered_to_all(tmp_path, subscriber)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        subscriber.close()
        broker.kill()


def killed_among_parts(process: subprocess.Popen, plc: int, seconds: float) -> None:
    """Gives a line parts, and kills it after so many seconds."""
    ladder = Ladder("127.0.0.1", plc)
    ladder.cycle()
    assert (ladder.input[2], ladder.input[3]) == (0, 4), "at the start there is no result, and it is a reject"
    assert ladder.inspect("first")[1] == "first"
    killer = threading.Timer(seconds, lambda: process.send_signal(signal.SIGKILL))
    killer.start()
    with pytest.raises((OSError, ModbusException, AttributeError)):  # nobody answers any more
        inspect_on_and_on(ladder)
    assert process.wait(10) == -signal.SIGKILL
    assert not answers(plc), "the heartbeat cannot be read any more"
    ladder.close()


def inspect_on_and_on(ladder: Ladder) -> None:
    for number in range(10_000):
        ladder.inspect(f"part {number}")


def delivered_to_all(root: Path, subscriber: Subscriber) -> None:
    """Everything that is in the journal is at the broker, and in the table once."""
    reader, end = JournalReader(root / "data"), time.monotonic() + 60
    while any(owed for owed, _ in reader.backlogs().values()):
        assert time.monotonic() < end, reader.backlogs()
        time.sleep(0.05)
    journaled = [each.id for each in reader.records()]
    reader.close()
    while {message["id"] for _, message, _ in subscriber.got} < set(journaled) and time.monotonic() < end:
        time.sleep(0.05)
    assert {message["id"] for _, message, _ in subscriber.got} == set(journaled)
    rows = [row["id"] for path in (root / "csv").glob("*.csv") for row in csv.DictReader(path.open(newline=""))]
    assert sorted(rows) == sorted(journaled)
    assert len(journaled) == len(set(journaled)) >= 1
