"""OPC UA against asyncua's client: the same promises as Modbus, only for who has a password and a certificate; and a
server that dies takes nothing with it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from plc_station import Station, free_port, verdict_of

from patchbank import ConfigError, MissingExtraError
from patchbank.line.plc.child import Child
from patchbank.line.plc.opcua import OpcuaPlc, fields_of
from patchbank.line.plc.opcua_server import FIELDS, NAMESPACE, STATES
from patchbank.line.plc.protocol import Answer, Shown, State
from patchbank.line.views import OPC_STATES

asyncua = pytest.importorskip("asyncua", reason="asyncua is not installed: pip install 'patchbank[opcua]'")
from asyncua import Client, ua  # noqa: E402
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256  # noqa: E402

TRIGGERS = int(os.environ.get("PATCHBANK_TRIGGERS", "20"))
URI = "urn:test:plc"
PAGE = Path(__file__).parents[3] / "docs" / "operate" / "plc.md"


def certificate(folder: Path, name: str, uri: str) -> tuple[Path, Path]:
    """As docs/operate/plc.md makes them; one key for all, because they are slow to make."""
    key, cert = folder / "key.pem", folder / f"{name}.pem"
    new = f"-key {key}" if key.exists() else f"-newkey rsa:2048 -nodes -keyout {key}"
    make = f"openssl req -x509 {new} -days 2 -subj /CN={name} -out {cert}"
    usage = "keyUsage=digitalSignature,nonRepudiation,keyEncipherment,dataEncipherment"
    more = ["-addext", f"subjectAltName=URI:{uri},DNS:localhost", "-addext", usage]
    subprocess.run([*make.split(), *more], check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("opcua")
    certificate(folder, "server", NAMESPACE)
    (folder / "trusted").mkdir()
    cert, _ = certificate(folder, "plc", URI)
    (folder / "trusted" / "plc.pem").write_bytes(cert.read_bytes())
    certificate(folder, "stranger", URI)
    (folder / "users").touch(0o600)
    (folder / "users").write_text("plc:a long password\n")
    return folder


def plc_of(files: Path, port: int = 0, **more: object) -> OpcuaPlc:
    return OpcuaPlc(
        f"127.0.0.1:{port or free_port()}",
        cert_file=str(files / "server.pem"),
        key_file=str(files / "key.pem"),
        users_file=str(files / "users"),
        trusted_clients=str(files / "trusted"),
        **more,
    )


@pytest.fixture(scope="module")
def alarms() -> list[tuple[str, str | None]]:
    return []


@pytest.fixture(scope="module")
def plc(files, alarms) -> OpcuaPlc:
    return plc_of(files, alarm=lambda what, why: alarms.append((what, why)), heartbeat_seconds=0.3)


@pytest.fixture(scope="module")
def station(plc) -> Iterator[Station]:
    with Station(plc) as running:
        yield running


async def client_of(plc: OpcuaPlc, files: Path, who: str = "plc", password: str = "a long password") -> Client:
    client = Client(plc.address, timeout=20)
    client.application_uri = URI
    client.set_user("plc")
    client.set_password(password)
    await client.set_security(
        SecurityPolicyBasic256Sha256,
        certificate=str(files / f"{who}.pem"),
        private_key=str(files / "key.pem"),
        server_certificate=str(files / "server.pem"),
        mode=ua.MessageSecurityMode.SignAndEncrypt,
    )
    return client


class Events:
    """What the subscription brings."""

    def __init__(self) -> None:
        self.got: asyncio.Queue = asyncio.Queue()

    def event_notification(self, event) -> None:
        self.got.put_nowait(event)

    def status_change_notification(self, status) -> None:
        pass


async def node_of(client: Client, name: str):
    space = await client.get_namespace_index(NAMESPACE)
    return client.get_node(ua.NodeId(f"Station.{name}" if name else "Station", space))


async def soon(condition, what: str, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, what
        await asyncio.sleep(0.02)


def test_every_trigger_has_its_result_event_once(plc, station, files):
    """The handshake of the page: call Trigger, wait for ResultReady with that number."""

    async def drive() -> None:
        async with await client_of(plc, files) as client:
            machine, trigger = await node_of(client, ""), await node_of(client, "Trigger()")
            space = await client.get_namespace_index(NAMESPACE)
            kind = await client.nodes.base_event_type.get_child([f"{space}:ResultReadyEventType"])
            events = Events()
            subscription = await client.create_subscription(20, events)
            await subscription.subscribe_events(machine, kind, queuesize=100)
            for n in range(TRIGGERS):
                part = f"part {n}"
                seq = await machine.call_method(trigger, part)
                event = await asyncio.wait_for(events.got.get(), 20)
                assert (event.ResultSeq, event.PartId, event.Verdict) == (seq, part, int(verdict_of(part)))
                assert event.Score == seq * 65.537
                await machine.call_method(
                    await node_of(client, "Acknowledge()"), ua.Variant(seq, ua.VariantType.UInt32)
                )
            assert events.got.empty()

    asyncio.run(drive())
    assert [part for _, part in station.triggers[-TRIGGERS:]] == [f"part {n}" for n in range(TRIGGERS)]
    assert station.acknowledged[-TRIGGERS:] == [seq for seq, _ in station.triggers[-TRIGGERS:]]


def test_variables_methods_and_the_heartbeats(plc, station, files):
    async def drive() -> None:
        async with await client_of(plc, files) as client:
            machine = await node_of(client, "")
            plc.show(replace(station.shown, state=State.READY, result_seq=77, score=None, verdict=Answer.NG))
            seq = await node_of(client, "ResultSeq")
            until = time.monotonic() + 20
            while await seq.read_value() != 77:
                assert time.monotonic() < until
                await asyncio.sleep(0.02)
            values = {name: await (await node_of(client, name)).read_value() for name in FIELDS}
            assert (values["Verdict"], values["CurrentState"]) == (2, "Ready")
            assert values["Score"] != values["Score"]
            await asyncio.sleep(0.3)
            assert await (await node_of(client, "Heartbeat")).read_value() != values["Heartbeat"]
            await machine.call_method(await node_of(client, "SelectRecipe()"), ua.Variant(3, ua.VariantType.UInt16))
            await machine.call_method(await node_of(client, "Pause()"), ua.Variant(True, ua.VariantType.Boolean))
            await soon(lambda: station.recipes == [3] and station.pauses == [True], "commands are lost")
            assert station.lost == []
            await machine.call_method(await node_of(client, "Heartbeat()"))
            await soon(lambda: station.lost[:1] == [True], "the PLC's silence was not told")
            with pytest.raises(ua.UaStatusCodeError):
                await (await node_of(client, "Verdict")).write_value(ua.Variant(1, ua.VariantType.UInt16))

    asyncio.run(drive())


@pytest.mark.parametrize("wrong", ["anonymous", "password", "certificate", "no encryption", "subscription first"])
def test_nobody_gets_in_without_both_password_and_certificate(plc, station, files, wrong):
    async def drive() -> None:
        if wrong == "no encryption":
            client = Client(plc.address, timeout=5)
            client.set_user("plc")
            client.set_password("a long password")
        else:
            client = await client_of(
                plc,
                files,
                who="stranger" if wrong == "certificate" else "plc",
                password="another one" if wrong == "password" else "a long password",
            )
        if wrong == "anonymous":
            client._username = client._password = None
        if wrong == "subscription first":  # a session that was created and not activated
            await client.connect_socket()
            await client.send_hello()
            await client.open_secure_channel()
            await client.create_session()
            try:
                await client.create_subscription(100, Events())
            finally:
                client.disconnect_socket()
        else:
            await client.connect()

    with pytest.raises((ua.UaError, asyncio.TimeoutError, ConnectionError, OSError)):
        asyncio.run(drive())


def test_a_killed_server_comes_back_and_is_an_alarm(plc, station, files, alarms):
    """The line goes on meanwhile; afterwards numbers go on, and the newest picture is there."""
    seen = len(alarms)
    os.kill(plc._child.pid, signal.SIGKILL)
    asyncio.run(soon(lambda: len(alarms) > seen, "no alarm"))
    assert alarms[seen][0] == "opcua"
    assert "is started again" in alarms[seen][1]
    plc.show(replace(station.shown, result_seq=4242, state=State.READY))
    asyncio.run(soon(lambda: alarms[-1] == ("opcua", None), "it does not come back", 60))
    before = station.triggers[-1][0]

    async def drive() -> None:
        async with await client_of(plc, files) as client:
            assert await (await node_of(client, "ResultSeq")).read_value() == 4242
            machine, trigger = await node_of(client, ""), await node_of(client, "Trigger()")
            assert await machine.call_method(trigger, "after") == before + 1
            await soon(lambda: station.shown.part_id == "after", "the trigger does not come through")

    asyncio.run(drive())


def test_while_the_line_hangs_every_part_is_a_reject(plc, station, files):
    """A line that was killed or hangs must not leave an OK standing."""

    async def drive() -> None:
        async with await client_of(plc, files) as client:
            verdict, state = await node_of(client, "Verdict"), await node_of(client, "CurrentState")
            for expected in ((1, "Ready"), (4, "Error"), (1, "Ready")):
                station.beating = expected[0] == 1
                until = time.monotonic() + 20
                while (await verdict.read_value(), await state.read_value()) != expected:
                    assert time.monotonic() < until, expected
                    await asyncio.sleep(0.02)

    plc.show(replace(station.shown, verdict=Answer.OK, state=State.READY))
    asyncio.run(drive())


def test_a_port_that_is_taken_is_a_clear_error(plc, station, files):
    port = int(plc.address.rpartition(":")[2])
    with pytest.raises(ConfigError, match=r"does not start: OSError: .* in use"):
        plc_of(files, port).open(station)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("users", "plc\n", "NAME:PASSWORD"),
        ("users", "plc:short\n", "NAME:PASSWORD"),
        ("users", "", "1 to 100 users"),
        ("trusted/x.pem", "no certificate\n-----BEGIN CERTIFICATE-----", "a certificate"),
    ],
)
def test_files_that_cannot_be_are_one_clear_error(files, tmp_path, name, content, says):
    (tmp_path / "trusted").mkdir()
    (tmp_path / "users").touch(0o600)
    (tmp_path / "users").write_text("plc:a long password")
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=says):
        OpcuaPlc(
            "127.0.0.1:4840",
            cert_file=str(files / "server.pem"),
            key_file=str(files / "key.pem"),
            users_file=str(tmp_path / "users"),
            trusted_clients=str(tmp_path / "trusted"),
        )


def test_passwords_that_others_may_read_and_no_trusted_client_are_errors(files, tmp_path):
    (tmp_path / "users").write_text("plc:a long password")
    (tmp_path / "users").chmod(0o644)
    options = {"cert_file": str(files / "server.pem"), "key_file": str(files / "key.pem")}
    with pytest.raises(ConfigError, match="chmod 600"):
        OpcuaPlc("127.0.0.1:1", users_file=str(tmp_path / "users"), trusted_clients=str(tmp_path), **options)
    with pytest.raises(ConfigError, match="of the clients"):
        OpcuaPlc("127.0.0.1:1", users_file=str(files / "users"), trusted_clients=str(tmp_path), **options)
    with pytest.raises(ConfigError, match="cert_file"):
        OpcuaPlc("127.0.0.1:1", users_file="", trusted_clients="", cert_file="/nowhere", key_file="/nowhere")


def test_without_asyncua_the_message_holds_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'patchbank\[opcua\]'"):
        OpcuaPlc("127.0.0.1:1", cert_file="", key_file="", users_file="", trusted_clients="")


def test_both_ends_of_the_pipe_have_the_same_fields():
    assert {*fields_of(Shown()), "CurrentState", "Heartbeat"} == set(FIELDS)
    assert [*STATES] == [OPC_STATES[state] for state in State]
    json.dumps(fields_of(Shown()))


@pytest.mark.parametrize(
    "program", ["print('nonsense')", "print('x' * 100_000)", "print('[1]')", "import time; time.sleep(60)", "pass"]
)
def test_a_process_that_talks_nonsense_or_nothing_is_given_up(program):
    child = Child([sys.executable, "-c", program])
    assert child.message(5.0 if "sleep" not in program else 0.2) is None
    child.stop()
    assert child.code is not None


def test_a_process_that_takes_nothing_is_killed_and_nobody_waits():
    child = Child([sys.executable, "-c", "import time; time.sleep(600)"])
    began = time.monotonic()
    for _ in range(4000):
        child.send({"show": "x" * 1000})
    assert time.monotonic() - began < 20
    child.stop(10)
    assert child.code == -signal.SIGKILL


def test_a_process_that_asks_for_what_it_may_not_is_not_listened_to(files):
    """It is the part that strangers talk to: its words are checked like theirs."""
    plc = plc_of(files)
    station = plc._commands = Station(plc)
    for message in (
        {"trigger": "7"},
        {"trigger": ["7", "x"]},
        {"trigger": [7]},
        {"recipe": "1"},
        {"pause": 1},
        {"quit": True},
        {"trigger": [8, "A\n\x1b[31m\u202e "]},
    ):
        plc._command(message)
    assert station.triggers == [(8, "A??[31m?")]
    assert (station.recipes, station.pauses) == ([], [])
