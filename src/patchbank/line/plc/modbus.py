"""A station on Modbus TCP: the registers of docs/reference/modbus.md, served to the PLC."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from patchbank.line.plc import modbus_registers as at
from patchbank.line.plc.modbus_server import CONNECTIONS, IDLE_SECONDS, ModbusServer
from patchbank.line.plc.modbus_wire import FAILURE, ILLEGAL_ADDRESS, READ_HOLDING, Refused
from patchbank.line.plc.protocol import Answer, Commands, Reason, Shown, State
from patchbank.util.log import logger

HEARTBEAT_SECONDS = 1.0
_FAREWELL_SECONDS = 0.3  # for which the last picture can still be read


class ModbusPlc:
    """Implements `Plc`.

    listen: address and port; beyond loopback `peers` (addresses or networks) must name who may connect.
    heartbeat_seconds: after so long without a change of the PLC's heartbeat it is lost; this is watched from its first
    change on. 0 = not watched. connections, idle_seconds: limits of the server.
    """

    def __init__(
        self,
        listen: str,
        *,
        peers: Sequence[str] = (),
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        connections: int = CONNECTIONS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._listen, self._peers = listen, tuple(peers)
        self._connections, self._idle_seconds = connections, idle_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._shown = Shown()
        self._memory: _Memory | None = None
        self._server: ModbusServer | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, once it is open."""
        assert self._server, "open() comes first"
        return self._server.address

    def open(self, commands: Commands) -> None:
        """Listens. Raises ConfigError if the address cannot be used, or if peers are missing."""
        self._memory = _Memory(commands, self._heartbeat_seconds)
        self._server = ModbusServer(
            self._listen,
            self._memory,
            peers=self._peers,
            connections=self._connections,
            idle_seconds=self._idle_seconds,
            on_tick=self._memory.watch,
        )

    def show(self, shown: Shown) -> None:
        """Replaces all input registers but the heartbeat, at once."""
        self._shown = shown
        if self._memory:
            self._memory.show(shown)

    def beat(self) -> None:
        """Counts the heartbeat up."""
        if self._memory:
            self._memory.beat()

    def close(self) -> None:
        """Shows ERROR and FAULT, gives those who are connected a moment to read it, and closes the connections."""
        if not self._server or not self._memory:
            return
        last = replace(self._shown, state=State.FAULT, verdict=Answer.ERROR, reason=Reason.stopping)
        self._memory.show(last)
        if self._server.connected:
            time.sleep(_FAREWELL_SECONDS)
        self._server.close()
        self._server = self._memory = None


class _Memory:
    """The registers. Requests come from the server's thread; `show` and `beat` from the station's."""

    def __init__(self, commands: Commands, heartbeat_seconds: float) -> None:
        self._commands, self._heartbeat_seconds = commands, heartbeat_seconds
        self._lock = threading.Lock()  # of those who replace `_inputs`; readers take whatever object is there
        self._inputs = at.encoded(Shown(), 0)
        self._holding = bytes(2 * at.HOLDINGS)
        self._beat_at: float | None = None  # when the PLC's heartbeat changed last
        self._lost = False

    def show(self, shown: Shown) -> None:
        with self._lock:
            (heartbeat,) = struct.unpack_from(">H", self._inputs)
            self._inputs = at.encoded(shown, heartbeat)

    def beat(self) -> None:
        with self._lock:
            self._inputs = at.beaten(self._inputs)

    def read(self, function: int, address: int, count: int) -> bytes:
        """The input registers can be read as holding registers, too: some PLCs read no others."""
        if address + count <= at.INPUTS:
            return self._inputs[2 * address : 2 * (address + count)]
        first = address - at.HOLDING
        if function == READ_HOLDING and first >= 0 and first + count <= at.HOLDINGS:
            return self._holding[2 * first : 2 * (first + count)]
        raise Refused(ILLEGAL_ADDRESS)

    def write(self, address: int, values: bytes) -> None:
        first, before = 2 * (address - at.HOLDING), self._holding
        if first < 0 or first + len(values) > len(before):
            raise Refused(ILLEGAL_ADDRESS)
        self._holding = before[:first] + values + before[first + len(values) :]
        try:
            self._command(before)
        except Exception as error:  # the PLC must know, and may try again
            logger.exception("Modbus: a command of the PLC failed")
            self._holding = before
            raise Refused(FAILURE) from error

    def watch(self) -> None:
        """Tells when the PLC's heartbeat stops, and when it is back."""
        if self._beat_at is None or not self._heartbeat_seconds:
            return
        lost = time.monotonic() - self._beat_at > self._heartbeat_seconds
        if lost != self._lost:
            self._lost = lost
            self._commands.plc_lost(lost)

    def _command(self, before: bytes) -> None:
        """What has changed is a command. The trigger comes last: its part id and its recipe are there already."""

        def changed(register: int) -> int | None:
            (old,) = struct.unpack_from(">H", before, 2 * (register - at.HOLDING))
            (new,) = struct.unpack_from(">H", self._holding, 2 * (register - at.HOLDING))
            return new if new != old else None

        if changed(at.PLC_HEARTBEAT) is not None:
            self._beat_at = time.monotonic()
        if (acknowledged := changed(at.ACK_SEQ)) is not None:
            self._commands.acknowledge(acknowledged)
        if (recipe := changed(at.RECIPE)) is not None:
            self._commands.recipe(recipe)
        if trigger := changed(at.TRIGGER_SEQ):  # 0 is none: a PLC that starts again may write it
            first = 2 * (at.PLC_PART_ID - at.HOLDING)
            self._commands.trigger(trigger, at.text_of(self._holding[first : first + at.TEXT]))
