"""A line that is killed while it delivers: the service and the broker have every journaled record, once by its id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from patchbank.line.journal import Journal
from patchbank.line.relay import Relays
from patchbank.line.sinks.server import ServerSink

pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed: pip install 'patchbank[line]'")
pytest.importorskip("fastapi", reason="the service is not installed: pip install 'patchbank[serve]'")
from broker import Broker, Subscriber

from patchbank.line.sinks.mqtt import MqttSink
from patchbank.store import inspections, streams
from server.conftest import running, service_of
from server.people import token

KILLS = int(os.environ.get("PATCHBANK_KILLS", "2"))
LINE = """
import sys
from pathlib import Path
from tests.line.made import record
from patchbank.line.journal import Journal
from patchbank.line.relay import Relays
from patchbank.line.sinks.mqtt import MqttSink
from patchbank.line.sinks.server import ServerSink

data, broker, service, token = sys.argv[1:]
journal = Journal(Path(data), ["mqtt", "server"])
sinks = [MqttSink(name="mqtt", url=broker), ServerSink(name="server", url=service, token_file=token)]
relays = Relays(sinks, journal, lambda what, why: None)
relays.start()
while True:
    made = record()
    journal.add(made).result()
    print(made.id, flush=True)
"""


def test_after_kills_service_and_broker_have_every_record_once(tmp_path):
    service = service_of()
    service.store.write(streams.add, "cap")
    secret = tmp_path / "token"
    secret.write_text(token(service, "ingest")["Authorization"].removeprefix("Bearer "))
    broker = Broker(tmp_path / "broker").start()
    url, journaled = f"mqtt://127.0.0.1:{broker.port}", []
    try:
        with running(service) as where, closing(Subscriber(broker.port, "patchbank/#")) as listening:
            command = [sys.executable, "-c", LINE, str(tmp_path / "data"), url, where, str(secret)]
            for _ in range(KILLS):
                with subprocess.Popen(
                    command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True
                ) as line:
                    assert line.stdout
                    journaled += [line.stdout.readline().strip() for _ in range(60)]
                    line.send_signal(signal.SIGKILL)
                    journaled += [each.strip() for each in line.stdout if each.endswith("\n")]
            journal = Journal(tmp_path / "data", ["mqtt", "server"])
            sinks = [MqttSink(name="mqtt", url=url), ServerSink(name="server", url=where, token_file=str(secret))]
            relays = Relays(sinks, journal, lambda what, why: None)
            relays.start()
            try:
                assert relays.drain(120)
                assert [state.refused for state in relays.states()] == [0, 0]
            finally:
                relays.close()
            kept = [each.id for each in journal.records()]
            journal.close()
            assert set(journaled) <= set(kept)
            # The service has one row an id by its primary key: what is asked is whether each is there.
            assert all(service.store.read(inspections.get, UUID(name)) for name in kept)
            until = time.monotonic() + 60
            while len(got := {message["id"] for _, message, _ in listening.got}) < len(kept):
                assert time.monotonic() < until, "messages are lost"
                time.sleep(0.05)
            assert got == set(kept)
    finally:
        broker.kill()
