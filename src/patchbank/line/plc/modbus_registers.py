"""Which register means what (docs/reference/modbus.md). Numbers of two registers have the high word first. Text is
UTF-8, two bytes a register, the first in the high byte, filled up with zeros."""

from __future__ import annotations

import math
import struct

from patchbank.line.plc.protocol import Shown

# Input registers: what the station tells.
HEARTBEAT, STATE, RESULT_SEQ, VERDICT, REASON, SCORE, P_VALUE, LATENCY, PART_ID, COUNTERS = (
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    25,
)
INPUTS = 41
# Holding registers: what the PLC tells.
TRIGGER_SEQ, ACK_SEQ, RECIPE, PLC_PART_ID, PLC_HEARTBEAT = 100, 101, 102, 103, 119
HOLDING, HOLDINGS = 100, 20
TEXT = 32  # bytes of a part id
NO_SCORE, NO_P_VALUE = 0xFFFF_FFFF, 0xFFFF  # without a result

# heartbeat, state, result_seq, verdict, reason | score | p, latency | part id | triggers, ok, ng, review, error | late,
# missed, times, recipe
_LAYOUT = struct.Struct(f">HHHHHIHH{TEXT}sIIIIIHHHHHH")


def encoded(shown: Shown, heartbeat: int) -> bytes:
    """All input registers as bytes. Counters of two registers run over at 2^32, those of one at 65536; a score or a
    time that is too large is the largest one."""
    counters = shown.counters
    counts = (counters.triggers, counters.ok, counters.ng, counters.review, counters.error)
    return _LAYOUT.pack(
        heartbeat & 0xFFFF,
        shown.state,
        shown.result_seq & 0xFFFF,
        shown.verdict,
        shown.reason,
        _scaled(shown.score, 1000, NO_SCORE),
        _scaled(shown.p_value, 10_000, NO_P_VALUE),
        _whole(shown.latency_ms),
        text_bytes(shown.part_id),
        *(count & 0xFFFF_FFFF for count in counts),
        counters.late & 0xFFFF,
        counters.missed & 0xFFFF,
        _whole(counters.min_ms),
        _whole(counters.max_ms),
        _whole(counters.mean_ms),
        shown.recipe & 0xFFFF,
    )


def beaten(registers: bytes) -> bytes:
    """The same registers, the heartbeat one further."""
    (heartbeat,) = struct.unpack_from(">H", registers)
    return struct.pack(">H", (heartbeat + 1) & 0xFFFF) + registers[2:]


def text_bytes(text: str) -> bytes:
    """The first 32 bytes of a text, without half a character at the end."""
    return text.encode()[:TEXT].decode(errors="ignore").encode()


def text_of(registers: bytes) -> str:
    """The text up to the first zero. What cannot be printed, or is no UTF-8, becomes '?'; spaces at both ends go."""
    text = registers.partition(b"\0")[0].decode(errors="replace")
    return "".join(sign if sign.isprintable() and sign != "\N{REPLACEMENT CHARACTER}" else "?" for sign in text).strip()


def _scaled(value: float | None, factor: int, missing: int) -> int:
    """The value times the factor, from 0 to the largest number before `missing`, which says that there is none."""
    if value is None or math.isnan(value):
        return missing
    return round(min(max(value * factor, 0), missing - 1))


def _whole(milliseconds: float) -> int:
    return round(min(max(milliseconds, 0), 0xFFFF))
