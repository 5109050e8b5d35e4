"""Modbus TCP on the wire: bytes to frames, a request to its answer. No sockets, no meaning of registers.

A frame is the header (transaction, protocol 0, length, unit; big-endian) and a PDU of 1 to 253 bytes: function code and
data. A request that cannot be done is answered with function code + 0x80 and one byte: 1 function, 2 address, 3 value,
4 failure (MODBUS Application Protocol Specification V1.1b3, Messaging on TCP/IP Implementation Guide V1.0b).
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Protocol

HEADER = 7  # bytes: transaction, protocol, length, unit
MOST_PDU = 253
MOST_FRAME = HEADER + MOST_PDU
READ_HOLDING, READ_INPUT, WRITE_ONE, WRITE_MANY, READ_WRITE = 3, 4, 6, 16, 23
MOST_READ, MOST_WRITTEN, MOST_WRITTEN_BESIDE = 125, 123, 121  # registers in one request


class FrameError(ValueError):
    """The bytes are no Modbus TCP. What follows cannot be made sense of: close the connection."""


class Refused(Exception):  # noqa: N818  (an answer of the protocol)
    """The request is answered with an exception code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE, FAILURE = 1, 2, 3, 4


class Frame(NamedTuple):
    """A request. transaction, unit: the client's, given back with the answer."""

    transaction: int
    unit: int
    pdu: bytes

    def reply(self, pdu: bytes) -> bytes:
        """The frame of the answer."""
        return struct.pack(">HHHB", self.transaction, 0, len(pdu) + 1, self.unit) + pdu


class Memory(Protocol):
    """What requests read and write. Both raise Refused."""

    def read(self, function: int, address: int, count: int) -> bytes:
        """`count` registers from `address` on: 2 * count bytes, of one moment."""
        ...

    def write(self, address: int, values: bytes) -> None:
        """Writes the registers from `address` on, all at once or none."""
        ...


def next_frame(received: bytearray) -> Frame | None:
    """Takes the first whole frame away from what was received; None if it is not whole yet. Raises FrameError."""
    if len(received) < HEADER:
        return None
    transaction, protocol, length, unit = struct.unpack_from(">HHHB", received)
    if protocol != 0 or not 2 <= length <= MOST_PDU + 1:
        raise FrameError(f"expected protocol 0 and a length of 2 to {MOST_PDU + 1}; got {protocol} and {length}")
    end = HEADER - 1 + length  # the length counts the unit, too
    if len(received) < end:
        return None
    frame = Frame(transaction, unit, bytes(received[HEADER:end]))
    del received[:end]
    return frame


def answer(pdu: bytes, memory: Memory) -> bytes:
    """The PDU of the answer. Whatever the request holds, it is an answer: exceptions are in it."""
    function = pdu[0]
    try:
        if function in (READ_HOLDING, READ_INPUT):
            return _read(pdu, memory)
        if function == WRITE_ONE:
            return _write_one(pdu, memory)
        if function == WRITE_MANY:
            return _write_many(pdu, memory)
        if function == READ_WRITE:
            return _read_write(pdu, memory)
        raise Refused(ILLEGAL_FUNCTION)
    except Refused as refused:
        return bytes([function | 0x80, refused.code])


def _read(pdu: bytes, memory: Memory) -> bytes:
    address, count = _fields(">HH", pdu)
    _check(len(pdu) == 5 and 1 <= count <= MOST_READ)
    values = memory.read(pdu[0], address, count)
    return bytes([pdu[0], len(values)]) + values


def _write_one(pdu: bytes, memory: Memory) -> bytes:
    (address,) = _fields(">H", pdu)
    _check(len(pdu) == 5)
    memory.write(address, pdu[3:])
    return pdu


def _write_many(pdu: bytes, memory: Memory) -> bytes:
    address, count, size = _fields(">HHB", pdu)
    _check(1 <= count <= MOST_WRITTEN and size == 2 * count and len(pdu) == 6 + size)
    memory.write(address, pdu[6:])
    return pdu[:5]


def _read_write(pdu: bytes, memory: Memory) -> bytes:
    """The write comes first, as the standard says."""
    address, count, written_at, written, size = _fields(">HHHHB", pdu)
    _check(1 <= count <= MOST_READ and 1 <= written <= MOST_WRITTEN_BESIDE)
    _check(size == 2 * written and len(pdu) == 10 + size)
    memory.read(READ_HOLDING, address, count)  # refused before anything is written
    memory.write(written_at, pdu[10:])
    values = memory.read(READ_HOLDING, address, count)
    return bytes([READ_WRITE, len(values)]) + values


def _fields(form: str, pdu: bytes) -> tuple[int, ...]:
    _check(len(pdu) >= 1 + struct.calcsize(form))
    return struct.unpack_from(form, pdu, 1)


def _check(fits: bool) -> None:
    if not fits:
        raise Refused(ILLEGAL_VALUE)
