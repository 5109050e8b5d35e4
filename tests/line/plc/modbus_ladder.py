"""A PLC's program, written from docs/reference/modbus.md alone: nothing of patchbank is imported here."""

from __future__ import annotations

import time

from pymodbus.client import ModbusTcpClient


def text_registers(text: str) -> list[int]:
    raw = text.encode().ljust(32, b"\0")
    return [raw[n] << 8 | raw[n + 1] for n in range(0, 32, 2)]


def text_of(registers: list[int]) -> str:
    return b"".join(bytes([each >> 8, each & 255]) for each in registers).rstrip(b"\0").decode()


class Ladder:
    """The handshake of the page. `inspect` is steps 0 to 2 (or 3) for one part."""

    def __init__(self, host: str, port: int, *, timeout: float = 5.0) -> None:
        self.client = ModbusTcpClient(host, port=port, timeout=3)
        assert self.client.connect()
        self.timeout = timeout
        self.seq = self.client.read_holding_registers(100, count=1).registers[0]
        self.beat = self.ack = self.recipe = 0
        self.input: list[int] = []

    def cycle(self) -> None:
        self.input = self.client.read_input_registers(0, count=25).registers
        self.beat = (self.beat + 1) & 0xFFFF
        self.client.write_register(119, self.beat)

    def inspect(self, part: str, *, in_one_request: bool = True) -> tuple[bool, str]:
        """Whether the part is accepted, and the part id that came with the result; (False, "") after the timeout."""
        until = time.monotonic() + self.timeout
        self.cycle()
        while self.input[1] != 1:
            assert time.monotonic() < until, "never ready"
            self.cycle()
        self.seq = 1 if self.seq == 65535 else self.seq + 1
        if in_one_request:
            self.client.write_registers(100, [self.seq, self.ack, self.recipe, *text_registers(part)])
        else:
            self.client.write_registers(103, text_registers(part))
            self.client.write_register(100, self.seq)
        until = time.monotonic() + self.timeout
        while time.monotonic() < until:
            self.cycle()
            if self.input[2] == self.seq:
                self.ack = self.seq
                self.client.write_register(101, self.ack)
                return self.input[3] == 1, text_of(self.input[9:25])
        return False, ""

    def close(self) -> None:
        self.client.close()
