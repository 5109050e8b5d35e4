"""The Modbus server against pymodbus, against a PLC's program that was written from the page alone, and against clients
that want to do harm."""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plc_station import Station, verdict_of

from patchbank import ConfigError
from patchbank.line.plc import modbus_registers as at
from patchbank.line.plc.modbus import ModbusPlc
from patchbank.line.plc.modbus_server import ModbusServer, networks
from patchbank.line.plc.modbus_wire import FrameError, Refused, answer, next_frame
from patchbank.line.plc.protocol import Answer, Counters, Reason, Shown, State

pymodbus = pytest.importorskip("pymodbus.client", reason="pymodbus, the test client, is not installed")
from modbus_ladder import Ladder, text_registers  # noqa: E402

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "modbus.md"
TRIGGERS = int(os.environ.get("PATCHBANK_TRIGGERS", "500"))


@pytest.fixture
def plc() -> ModbusPlc:
    return ModbusPlc("127.0.0.1:0", heartbeat_seconds=0.3)


@pytest.fixture
def station(plc: ModbusPlc) -> Iterator[Station]:
    with Station(plc) as running:
        yield running


@pytest.fixture
def client(plc: ModbusPlc, station: Station) -> Iterator[pymodbus.ModbusTcpClient]:
    with closing(pymodbus.ModbusTcpClient(plc.address[0], port=plc.address[1], timeout=3)) as connected:
        assert connected.connect()
        yield connected


def soon(condition, what: str, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


# the ladder


def test_a_program_written_from_the_page_gets_every_result_once(plc, station):
    """The promise to a PLC's programmer: no result is lost, doubled, or given to another part."""
    with closing(Ladder(*plc.address)) as ladder:
        for n in range(TRIGGERS):
            part = f"part {n}"
            accepted, answered = ladder.inspect(part, in_one_request=n % 2 == 0)
            assert (answered, accepted) == (part, verdict_of(part) == Answer.OK)
    assert station.triggers == [(n % 65535 + 1, f"part {n}") for n in range(TRIGGERS)]
    assert station.acknowledged == [seq for seq, _ in station.triggers]


def test_numbers_go_on_after_the_plc_or_the_station_starts_again(plc):
    with Station(plc) as first, closing(Ladder(*plc.address)) as ladder:
        ladder.inspect("a")
        ladder.inspect("b")
        with closing(Ladder(*plc.address)) as restarted:
            assert restarted.inspect("c")[1] == "c"
        assert [seq for seq, _ in first.triggers] == [1, 2, 3]
    with Station(plc) as second, closing(Ladder(*plc.address)) as ladder:
        assert ladder.inspect("d")[1] == "d"
        assert second.triggers == [(1, "d")]


def test_numbers_run_over_without_a_zero(plc, station):
    with closing(Ladder(*plc.address)) as ladder:
        ladder.seq = 65534
        assert [ladder.inspect(name)[1] for name in ("a", "b")] == ["a", "b"]
    assert station.triggers == [(65535, "a"), (1, "b")]


# atomic blocks


def test_a_block_is_of_one_moment_while_four_clients_read(plc):
    """A PLC that read the sequence of one part with the verdict of another one would let a defect pass."""
    plc.open(Station(plc))
    stop = threading.Event()
    torn: list[list[int]] = []
    read = [0] * 4

    def reader(n: int) -> None:
        with closing(pymodbus.ModbusTcpClient(plc.address[0], port=plc.address[1], timeout=10)) as reading:
            assert reading.connect()
            while not stop.is_set():
                block = (reading.read_input_registers if n % 2 else reading.read_holding_registers)(0, count=41)
                values = block.registers
                read[n] += 1
                seq = values[2]
                if {values[8], values[26], values[34], values[35]} != {seq} or len(set(values[9:25])) != 1:
                    torn.append(values)

    threads = [threading.Thread(target=reader, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    seq = 0
    while min(read) < 40:
        seq = seq % 60_000 + 1
        counters = Counters(triggers=seq, error=seq, late=seq)
        part = chr(33 + seq % 90) * 32
        plc.show(Shown(result_seq=seq, latency_ms=seq, part_id=part, counters=counters))
        plc.beat()
    stop.set()
    for thread in threads:
        thread.join()
    plc.close()
    # The picture before the first `show` is the only one with sequence 0.
    assert [values for values in torn if values[2]] == []


# registers


def test_registers_hold_what_the_page_says(plc, station, client):
    shown = Shown(
        state=State.READY,
        result_seq=7,
        verdict=Answer.NG,
        reason=Reason.over_threshold,
        score=70_000.25,
        p_value=0.0123,
        latency_ms=41.6,
        part_id="Teil Ä1",
        recipe=3,
        counters=Counters(70_001, 2, 3, 4, 5, 6, 7, 8.4, 90.6, 33.0),
    )
    plc.show(shown)
    values = client.read_input_registers(0, count=41).registers
    assert values[1:9] == [1, 7, 2, 2, 70_000_250 >> 16, 70_000_250 & 0xFFFF, 123, 42]
    assert values[9:25] == text_registers("Teil Ä1")
    assert values[25:] == [1, 70_001 - 65536, 0, 2, 0, 3, 0, 4, 0, 5, 6, 7, 8, 91, 33, 3]
    assert client.read_holding_registers(0, count=41).registers[1:] == values[1:]


def test_without_a_result_score_and_p_say_so(plc, station, client):
    plc.show(Shown(score=None, p_value=None))
    assert client.read_input_registers(5, count=3).registers == [0xFFFF] * 3
    plc.show(Shown(score=float("nan"), p_value=1.0))
    assert client.read_input_registers(5, count=3).registers == [0xFFFF, 0xFFFF, 10_000]
    plc.show(Shown(score=float("inf"), p_value=0.0, latency_ms=1e9, counters=Counters(triggers=1 << 40, late=65_537)))
    assert client.read_input_registers(5, count=4).registers == [0xFFFF, 0xFFFE, 0, 0xFFFF]
    assert client.read_input_registers(25, count=11).registers == [0] * 10 + [1]


def test_before_the_first_picture_every_part_is_rejected():
    """Reject until accept is proven: start is state 0 and verdict ERROR."""
    assert at.encoded(Shown(), 0)[2:10] == struct.pack(">HHHH", 0, 0, 4, 10)


def test_the_page_lists_every_register_and_every_reason():
    page = PAGE.read_text(encoding="utf-8")
    named = {}
    for first, last, name in re.findall(r"^\| (\d+)(?:-(\d+))? \| ([^|]+) \|", page, re.MULTILINE):
        named.update(dict.fromkeys(range(int(first), int(last or first) + 1), name))
    assert set(named) >= {*range(at.INPUTS), *range(at.HOLDING, at.HOLDING + at.HOLDINGS)}
    reasons = page.partition("## Reasons")[2].partition("\n## ")[0]
    assert {int(each) for each in re.findall(r"^\| (\d+) \|", reasons, re.MULTILINE)} == {*Reason} - {0}


@given(st.text("aÄ€\N{GRINNING FACE}", max_size=60))
def test_a_part_id_is_never_half_a_character(text):
    raw = at.text_bytes(text)
    assert len(raw) <= 32
    assert text.encode().startswith(raw)
    assert len(raw) > 28 or raw == text.encode()
    raw.decode()


@given(st.binary(max_size=32))
def test_a_part_id_from_outside_can_be_printed(raw):
    text = at.text_of(raw)
    assert text.isprintable() or text == ""
    assert len(text) <= 32


# commands


def test_commands_of_one_request_come_in_order(plc, client, station):
    order = []
    for name in ("acknowledge", "recipe", "trigger"):
        setattr(station, name, lambda *args, name=name: order.append((name, *args)))
    client.write_registers(100, [5, 4, 2, *text_registers("A-17")])
    assert order == [("acknowledge", 4), ("recipe", 2), ("trigger", 5, "A-17")]


def test_only_a_change_is_a_trigger_and_zero_is_none(client, station):
    for value in (1, 1, 0, 2, 0):
        client.write_register(100, value)
    soon(lambda: station.shown.result_seq == 2, "no result")
    assert [seq for seq, _ in station.triggers] == [1, 2]


def test_write_and_read_in_one_request(client, station):
    """Function 23: the write comes first."""
    reply = client.readwrite_registers(read_address=100, read_count=3, address=100, values=[9, 8, 7])
    assert reply.registers == [9, 8, 7]
    assert station.triggers == [(9, "")]


def test_a_command_that_fails_is_answered_so_and_can_be_tried_again(client, station, monkeypatch):
    real = station.trigger
    monkeypatch.setattr(station, "trigger", lambda *_: 1 / 0)
    assert client.write_register(100, 1).exception_code == 4
    monkeypatch.setattr(station, "trigger", real)
    assert not client.write_register(100, 1).isError()
    assert station.triggers == [(1, "")]


def test_the_plcs_heartbeat_is_watched_from_its_first_change_on(client, station):
    time.sleep(0.5)
    assert station.lost == []
    client.write_register(119, 1)
    soon(lambda: station.lost == [True], "the loss was not told")
    client.write_register(119, 2)
    soon(lambda: station.lost[:2] == [True, False], "the return was not told")


def test_the_heartbeat_counts_and_runs_over(plc, station, client):
    first = client.read_input_registers(0, count=1).registers
    soon(lambda: client.read_input_registers(0, count=1).registers != first, "it stands still")
    assert at.beaten(at.encoded(Shown(), 65535))[:2] == b"\0\0"


def test_close_leaves_error_and_fault(plc, monkeypatch):
    """A PLC that polls sees the end, and whoever reads afterwards gets no connection."""
    monkeypatch.setattr("patchbank.line.plc.modbus._FAREWELL_SECONDS", 1.0)
    with Station(plc):
        client = pymodbus.ModbusTcpClient(plc.address[0], port=plc.address[1], timeout=3)
        assert client.connect()
        plc.show(Shown(State.READY, 5, Answer.OK, Reason.ordinary))
        assert client.read_input_registers(1, count=3).registers == [1, 5, 1]
        thread = threading.Thread(target=plc.close)
        thread.start()
        soon(lambda: client.read_input_registers(1, count=4).registers == [3, 5, 4, 22], "no ERROR", 1.0)
        thread.join()
        plc.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", client.comm_params.port), timeout=1)
    client.close()


# the standard's exceptions


@pytest.mark.parametrize(
    ("pdu", "code"),
    [
        ("01 0000 0001", 1),  # coils: there are none
        ("2b 0e 01 00", 1),
        ("00", 1),
        ("83 0000 0001", 1),
        ("03 0000 0000", 3),
        ("03 0000 007e", 3),
        ("04 0000 00", 3),
        ("04 0000 0001 00", 3),
        ("04", 3),
        ("04 0000 002a", 2),
        ("04 0064 0001", 2),  # holding registers are no input registers
        ("03 0028 0002", 2),
        ("03 0063 0001", 2),
        ("03 0077 0002", 2),
        ("03 ffff 0001", 2),
        ("06 0000 0001", 2),  # what the station tells cannot be written
        ("06 0078 0001", 2),
        ("06 0064 00", 3),
        ("06 0064 0000 00", 3),
        ("10 0064 0001 02 00", 3),
        ("10 0064 0001 03 000000", 3),
        ("10 0064 0000 00", 3),
        ("10 0064 007c f8" + "00" * 248, 3),
        ("10 0077 0002 04 00000000", 2),
        ("17 0000 0000 0064 0001 02 0001", 3),
        ("17 0000 0001 0064 0000 00", 3),
        ("17 0100 0001 0064 0001 02 0001", 2),
        ("17 0000 0001 0000 0001 02 0001", 2),
    ],
)
def test_what_cannot_be_done_is_an_exception_and_writes_nothing(plc, pdu, code):
    station = Station(plc)
    plc.open(station)
    try:
        request = bytes.fromhex(pdu)
        assert answer(request, plc._memory) == bytes([request[0] | 0x80, code])
        assert answer(bytes.fromhex("03 0064 0014"), plc._memory) == bytes([3, 40]) + bytes(40)
        assert station.triggers == []
    finally:
        plc.close()


# untrusted bytes


class Echo:
    """A memory that takes any address."""

    def read(self, function: int, address: int, count: int) -> bytes:
        return bytes(2 * count)

    def write(self, address: int, values: bytes) -> None:
        assert values
        assert len(values) % 2 == 0
        if address > 1000:
            raise Refused(2)


@given(st.one_of(st.binary(min_size=1, max_size=253), st.binary(max_size=20).map(lambda tail: b"\x17" + tail)))
def test_every_request_has_an_answer_that_fits(pdu):
    reply = answer(pdu, Echo())
    assert 1 <= len(reply) <= 253
    assert reply[0] & 0x7F == pdu[0] & 0x7F


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_any_stream_of_bytes_is_frames_or_an_error(parts):
    received = bytearray()
    try:
        for part in parts:
            received += part
            while (frame := next_frame(received)) is not None:
                assert 1 <= len(frame.pdu) <= 253
    except FrameError:
        return
    assert len(received) < 260


@given(st.binary(min_size=1, max_size=253), st.integers(0, 65535), st.data())
def test_frames_come_out_as_they_went_in_however_they_are_cut(pdu, transaction, data):
    stream = struct.pack(">HHHB", transaction, 0, len(pdu) + 1, 9) + pdu
    cut = data.draw(st.integers(0, len(stream)))
    received = bytearray(stream[:cut])
    first = next_frame(received)
    received += stream[cut:] + stream
    frames = [first] if first else []
    while (frame := next_frame(received)) is not None:
        frames.append(frame)
    assert [(frame.transaction, frame.unit, frame.pdu) for frame in frames] == [(transaction, 9, pdu)] * 2
    assert frames[0].reply(pdu) == stream


# clients that do harm


READ = bytes.fromhex("0001 0000 0006 01 04 0000 0029")


def reply_to(sock: socket.socket) -> bytes:
    """One answer to READ; b"" when the connection was closed."""
    sock.sendall(READ)
    whole = b""
    while len(whole) < 9 + 82:
        data = sock.recv(4096)
        if not data:
            return b""
        whole += data
    return whole


def gone(sock: socket.socket) -> bool:
    sock.settimeout(10)
    try:
        while sock.recv(4096):
            pass
    except ConnectionError:
        return True
    return True


def test_one_client_does_not_hold_up_another(plc, station):
    """A client that sends half a frame, one that never takes its answers, and one that sends rubbish."""
    greedy = socket.socket()
    greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    greedy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    greedy.connect(plc.address)
    greedy.setblocking(False)
    half, rubbish, good = (socket.create_connection(plc.address, timeout=10) for _ in range(3))
    half.sendall(READ[:5])
    for _ in range(50_000):
        try:
            greedy.send(READ * 100)
        except BlockingIOError:
            break
    else:
        pytest.fail("the server reads on from a client that takes nothing")
    rubbish.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert gone(rubbish)
    for _ in range(20):
        assert len(reply_to(good)) == 91
    for each in (half, greedy, rubbish, good):
        each.close()
    soon(lambda: plc._server.connected == 0, "connections are left over")


def test_silent_clients_are_closed():
    plc = ModbusPlc("127.0.0.1:0", idle_seconds=0.2)
    with Station(plc), socket.create_connection(plc.address, timeout=10) as silent:
        with socket.create_connection(plc.address, timeout=10) as trickling:
            trickling.sendall(READ[:3])
            assert gone(trickling)
        assert gone(silent)


def test_connections_are_limited_and_the_plc_gets_a_place_again():
    """Dead connections of a PLC that was switched off must not keep it out."""
    plc = ModbusPlc("127.0.0.1:0", connections=2)
    with Station(plc):
        old = [socket.create_connection(plc.address, timeout=10) for _ in range(2)]
        assert [len(reply_to(each)) for each in old] == [91, 91]
        with socket.create_connection(plc.address, timeout=10) as third:
            assert gone(third)
        time.sleep(1.2)
        assert len(reply_to(old[1])) == 91
        with socket.create_connection(plc.address, timeout=10) as plc_again:
            assert len(reply_to(plc_again)) == 91
            assert gone(old[0])
            assert len(reply_to(old[1])) == 91
        for each in old:
            each.close()


def test_only_peers_may_connect(monkeypatch):
    """On loopback this machine may; elsewhere those who are named."""
    plc = ModbusPlc("127.0.0.1:0")
    with Station(plc):
        plc._server._peers = networks(["192.0.2.7"], "0.0.0.0")
        with socket.create_connection(plc.address, timeout=10) as stranger:
            assert gone(stranger)
        plc._server._peers = networks(["127.0.0.0/24"], "0.0.0.0")
        with socket.create_connection(plc.address, timeout=10) as known:
            assert len(reply_to(known)) == 91


@pytest.mark.parametrize(
    ("listen", "peers", "says"),
    [
        ("0.0.0.0:1502", [], "name who may connect"),
        ("[::]:1502", [], "name who may connect"),
        ("192.0.2.1:1502", ["somewhere"], "addresses or networks"),
        ("127.0.0.1:0", ["10.0.0.1/8"], "addresses or networks"),
        ("127.0.0.1", [], "an address and a port"),
        ("localhost:502", [], "an address and a port"),
        ("127.0.0.1:99999", [], "an address and a port"),
        ("192.0.2.1:1502", ["192.0.2.2"], "cannot listen on 192.0.2.1"),
    ],
)
def test_a_server_that_cannot_be_is_one_clear_error(listen, peers, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        ModbusServer(listen, Echo(), peers=peers)


def test_a_taken_port_is_a_clear_error(plc, station):
    with pytest.raises(ConfigError, match="in use"):
        ModbusServer(f"127.0.0.1:{plc.address[1]}", Echo())


def test_an_error_in_the_line_does_not_end_the_server(plc, station, client, monkeypatch):
    monkeypatch.setattr(station, "plc_lost", lambda lost: 1 / 0)
    client.write_register(119, 1)
    time.sleep(0.5)
    assert not client.read_input_registers(0, count=1).isError()


def test_an_error_in_the_server_does_not_end_it(plc, station, client, monkeypatch):
    """A dead server thread would look like a station that nobody triggers."""
    failures = iter([RuntimeError("never seen before")])
    real = plc._memory.read

    def read(*args):
        for failure in failures:
            raise failure
        return real(*args)

    monkeypatch.setattr(plc._memory, "read", read)
    with socket.create_connection(plc.address, timeout=10) as other:
        other.sendall(READ)
        assert gone(other)
    assert not client.read_input_registers(0, count=1).isError()


def test_the_station_may_show_before_it_opens(plc):
    """`show`, `beat` and `close` in any order are harmless."""
    plc.show(replace(Shown(), result_seq=1))
    plc.beat()
    plc.close()
