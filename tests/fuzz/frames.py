"""Streams of a Modbus client that went wrong: whatever comes in, what goes out is answers, and only what a PLC may
write changes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from tests.fuzz import hostile

from patchbank.line.plc import modbus_registers as at
from patchbank.line.plc.modbus import _Memory
from patchbank.line.plc.modbus_wire import MOST_PDU, FrameError, answer, next_frame
from patchbank.line.plc.protocol import Idle, Shown

_FUNCTIONS = (3, 4, 6, 16, 23, 1, 43, 0, 255)
_EDGES = (0, 1, 2, 40, 41, 99, 100, 102, 119, 120, 121, 123, 125, 126, 255, 65535)


class Target:
    """Requests whose fields are at their edges, cut and mixed up."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "case.bin"

    def case(self, rng: np.random.Generator) -> Path:
        data = b"".join(_frame(rng) for _ in range(int(rng.integers(1, 6))))
        self.path.write_bytes(hostile.bytes_changed(data, rng) if rng.integers(3) == 0 else data)
        return self.path

    def run(self, path: Path) -> None:
        memory, received = _Memory(Idle(), 1.0), bytearray()
        shown = at.encoded(Shown(), 0)
        for byte in path.read_bytes():
            received.append(byte)
            try:
                while (frame := next_frame(received)) is not None:
                    reply = answer(frame.pdu, memory)
                    assert 2 <= len(reply) <= MOST_PDU
                    assert len(frame.reply(reply)) == 7 + len(reply)
            except FrameError:
                break
            assert len(received) < 260
        assert memory.read(4, 0, at.INPUTS) == shown
        assert len(memory.read(3, at.HOLDING, at.HOLDINGS)) == 2 * at.HOLDINGS


def _frame(rng: np.random.Generator) -> bytes:
    """A request; most are almost right."""
    fields = [int(rng.choice(_EDGES)) for _ in range(4)]
    function = int(rng.choice(_FUNCTIONS))
    written = bytes(rng.integers(0, 256, 2 * int(rng.integers(0, 125)), np.uint8))
    if function == 16:
        fields = [fields[0], len(written) // 2]
    elif function == 23:
        fields = [*fields[:3], len(written) // 2]
    else:
        fields, written = fields[:2], b""
    size = bytes([len(written) % 256]) if function in (16, 23) else b""
    pdu = bytes([function]) + struct.pack(f">{len(fields)}H", *fields) + size + written
    length = len(pdu) + 1 if rng.integers(9) else int(rng.choice(_EDGES))
    return struct.pack(">HHHB", int(rng.choice(_EDGES)), 0 if rng.integers(9) else 1, length, 1) + pdu
