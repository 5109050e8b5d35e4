"""MQTT against a real Mosquitto: nothing is lost while it is killed, and states tell the truth."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.line.made import record

from patchbank import ConfigError, MissingExtraError
from patchbank.line.images import Images
from patchbank.line.journal import Journal
from patchbank.line.relay import Relay
from patchbank.line.sinks.base import Unreachable

pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed: pip install 'patchbank[line]'")
from broker import Broker, Subscriber, answers

from patchbank.line.sinks.mqtt import MqttSink


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path / "broker").start()
    yield made
    made.kill()


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "images")


def sink_on(port: int, **options: object) -> MqttSink:
    return MqttSink(name="mqtt", url=f"mqtt://127.0.0.1:{port}", **options)


def soon(condition, what: str, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.02)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_the_systems_broker_gets_records_under_their_topic(images, protocol):
    if not answers(1883):
        pytest.skip("no Mosquitto at 127.0.0.1:1883")
    prefix = f"patchbank-test/{uuid.uuid4()}"
    sink = sink_on(1883, topic=prefix, protocol=protocol)
    with closing(Subscriber(1883, f"{prefix}/#")) as listening, closing(sink):
        assert sink.check() == "connected to 127.0.0.1:1883"
        made = [record(heat={"h": 1}, part_id="Ä1") for _ in range(250)]
        for start in range(0, 250, 100):
            batch = made[start : start + 100]
            assert set(sink.deliver(batch, images).delivered) == {each.id for each in batch}
        soon(lambda: len(listening.got) >= 250, "messages are missing")
        assert [message["id"] for _, message, _ in listening.got] == [each.id for each in made]
        topic, message, retained = listening.got[0]
        assert (topic, retained) == (f"{prefix}/plant/L1/cap/result", False)
        assert (message["schema"], message["verdict"], message["part_id"]) == (1, "ok", "Ä1")
        assert "heat" not in message


def test_nothing_is_lost_while_the_broker_is_killed_five_times(broker, tmp_path):
    """Every journaled record comes to a subscriber, and by its id once."""
    journal = Journal(tmp_path / "data", ["mqtt"])
    relay = Relay(sink_on(broker.port, timeout_s=2.0), journal, lambda what, why: None, first_wait=0.05)
    ids = []
    with closing(Subscriber(broker.port, "patchbank/#")) as listening:
        relay.start()
        for _ in range(5):
            for _ in range(30):
                made = record()
                ids.append(made.id)
                journal.add(made).result(20)
            soon(lambda: listening.got, "nothing comes")
            broker.kill()
            soon(lambda: not listening.connected.is_set(), "the kill is not noticed")
            made = record()
            ids.append(made.id)
            journal.add(made).result(20)
            broker.start()
            soon(listening.connected.is_set, "the subscriber does not come back")
        soon(lambda: not journal.pending("mqtt", 1), "not all are acknowledged", 60)
        soon(lambda: len({message["id"] for _, message, _ in listening.got}) == len(ids), "messages are lost")
        assert {message["id"] for _, message, _ in listening.got} == set(ids)
    relay.close()
    journal.close()


def test_a_broker_that_is_away_says_so_and_comes_back(broker, images):
    broker.kill()
    with closing(sink_on(broker.port, timeout_s=0.5)) as sink:
        made = [record()]
        with pytest.raises(Unreachable, match="does not answer"):
            sink.deliver(made, images)
        with pytest.raises(Unreachable, match="does not answer"):
            sink.check()
        broker.start()
        soon(lambda: delivers(sink, made, images), "it does not come back")


def delivers(sink: MqttSink, made: list, images: Images) -> bool:
    try:
        return bool(sink.deliver(made, images).delivered)
    except Unreachable:
        return False


def test_an_acknowledgement_that_comes_too_late_counts_later(broker, images):
    """Else the record would be published once more each time."""
    with closing(Subscriber(broker.port, "patchbank/#")) as listening, closing(sink_on(broker.port)) as sink:
        made = [record(), record()]
        sink.deliver(made[:1], images)
        sink._timeout = 0.0
        sink._link.wait = lambda seconds: None
        with pytest.raises(Unreachable):
            sink.deliver(made[1:], images)
        sink._timeout = 10.0
        assert sink.deliver(made[1:], images).delivered == [made[1].id]
        soon(lambda: len(listening.got) == 2, "messages are missing")
        time.sleep(0.2)
        assert [message["id"] for _, message, _ in listening.got] == [each.id for each in made]


def test_a_state_is_retained_and_the_newest_after_the_broker_was_away(broker):
    sink = sink_on(broker.port)
    where = {"site": "plant", "line": "L/1"}
    with closing(sink):
        sink.state("cap", {**where, "state": "ready"})
        with closing(Subscriber(broker.port, "patchbank/#")) as listening:
            soon(lambda: listening.got, "no state")
            broker.kill()
            sink.state("cap", {**where, "state": "busy"})
            sink.state("cap", {**where, "state": "fault"})
            broker.start()
            soon(lambda: listening.got[-1][1]["state"] == "fault", "not the newest")
            assert listening.got[-1][0] == "patchbank/plant/L_1/cap/state"
    with closing(Subscriber(broker.port, "patchbank/#")) as listening:
        soon(lambda: listening.got, "not retained")
        assert listening.got[0][1] == {"schema": 1, "station": "cap", "state": "stopped"}
        assert listening.got[0][2] is True


def test_a_state_that_was_on_its_way_does_not_replace_the_newest(broker):
    """paho sends again what was not acknowledged, after what is said first on the new connection."""
    with closing(sink_on(broker.port)) as sink:
        sink.state("cap", {"state": "ready"})
        link = sink._stations["cap"]
        soon(lambda: link.connected.is_set() and not link._flying, "not connected")
        broker._process.send_signal(signal.SIGSTOP)
        sink.state("cap", {"state": "busy"})
        time.sleep(0.1)
        broker.kill()
        soon(lambda: not link.connected.is_set(), "the kill is not noticed")
        sink.state("cap", {"state": "fault"})
        broker.start()
        soon(lambda: link.connected.is_set() and not link._flying, "not connected again")
        with closing(Subscriber(broker.port, "patchbank/#")) as listening:
            soon(lambda: listening.got, "not retained")
            assert listening.got[-1][1]["state"] == "fault"


TALKING = """
import sys, time
from patchbank.line.sinks.mqtt import MqttSink
sink = MqttSink(name="mqtt", url=sys.argv[1])
sink.state("cap", {"site": "s", "line": "l", "state": "ready"})
time.sleep(60)
"""


def test_the_broker_tells_when_the_program_is_killed(broker):
    """The last will: a screen must not show 'ready' for a line that is dead."""
    root = Path(__file__).parents[3]
    with closing(Subscriber(broker.port, "patchbank/#")) as listening:
        command = [sys.executable, "-c", TALKING, f"mqtt://127.0.0.1:{broker.port}"]
        with subprocess.Popen(command, cwd=root) as child:
            soon(lambda: listening.got, "no state")
            child.send_signal(signal.SIGKILL)
        soon(lambda: listening.got[-1][1]["state"] == "lost", "no last will")
        assert listening.got[-1][0] == "patchbank/s/l/cap/state"


def test_a_broker_that_lets_nobody_in_and_one_that_takes_nothing(tmp_path, images):
    """A password that is wrong, and a topic that is not allowed, keep the records."""
    passwords, acl, login = tmp_path / "passwords", tmp_path / "acl", tmp_path / "login"
    passwords.touch(0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), "cap", "right"], check=True, capture_output=True)
    acl.write_text("user cap\ntopic readwrite allowed/#\n")
    broker = Broker(tmp_path / "b", "allow_anonymous false", f"password_file {passwords}", f"acl_file {acl}").start()
    try:
        login.write_text("cap\nwrong\n")
        refused = pytest.raises(Unreachable, match=r"refuses the connection: Not authorized")
        with closing(sink_on(broker.port, username_file=str(login), timeout_s=1.0)) as sink, refused:
            sink.deliver([record()], images)
        login.write_text("cap\nright\n")
        refused = pytest.raises(Unreachable, match=r"refuses a message: Not authorized")
        with closing(sink_on(broker.port, username_file=str(login))) as sink, refused:
            sink.deliver([record()], images)
        with closing(sink_on(broker.port, username_file=str(login), topic="allowed")) as sink:
            assert len(sink.deliver([record()], images).delivered) == 1
    finally:
        broker.kill()


def test_tls_checks_the_brokers_name_and_issuer(tmp_path, images):
    key, cert, other = tmp_path / "key.pem", tmp_path / "cert.pem", tmp_path / "other.pem"
    for path in (other, cert):
        make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        more = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(path)]
        subprocess.run([*make.split(), *more], check=True, capture_output=True)
    broker = Broker(tmp_path / "b", "allow_anonymous true", f"certfile {cert}", f"keyfile {key}").start()
    try:
        url = f"mqtts://localhost:{broker.port}"
        with closing(MqttSink(name="mqtt", url=url, ca_file=str(cert))) as sink:
            assert len(sink.deliver([record()], images).delivered) == 1
        for wrong in (
            {"url": url, "ca_file": str(other)},
            {"url": f"mqtts://127.0.0.1:{broker.port}", "ca_file": str(cert)},
            {"url": url},
        ):
            with closing(MqttSink(name="mqtt", timeout_s=0.3, **wrong)) as sink, pytest.raises(Unreachable):
                sink.deliver([record()], images)
    finally:
        broker.kill()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"url": "http://x"}, "mqtt://HOST:PORT"),
        ({"url": "mqtt://"}, "mqtt://HOST:PORT"),
        ({"url": "mqtt://x/topic"}, "mqtt://HOST:PORT"),
        ({"url": "mqtt://me:secret@x"}, "use username_file"),
        ({"url": "mqtt://x:99999"}, "a port"),
        ({"url": "mqtt://x", "ca_file": "ca.pem"}, "mqtts://"),
        ({"url": "mqtts://x", "ca_file": "/nowhere/ca.pem"}, "certificates as PEM"),
        ({"url": "mqtt://x", "username_file": "/nowhere/login"}, "cannot read /nowhere/login"),
    ],
)
def test_options_that_cannot_be_are_one_clear_error(options, says):
    with pytest.raises(ConfigError, match=says) as error:
        MqttSink(name="mqtt", **options)
    assert "secret" not in str(error.value).replace("username_file", "")


def test_without_paho_the_message_holds_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'patchbank\[line\]'"):
        MqttSink(name="mqtt", url="mqtt://x")


def test_a_record_is_json_whatever_it_holds(images):
    from patchbank.line.sinks.mqtt import _payload

    values = json.loads(_payload(record(part_id='"\n\x00', regions=[{"area": 1}])))
    assert (values["part_id"], values["regions"]) == ('"\n\x00', [{"area": 1}])
