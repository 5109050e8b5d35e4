"""Holds one GPIO line for a station, in a process of its own: it sets the line to reject when the station's process
ends, however that ends. It is run as `python -m patchbank.line.plc.gpio_guard`; `gpio.py` is the other end of the pipe.

What comes in, as JSON lines: first the options; then {"accept": yes}. What goes out: {"ready": true} or {"error":
words}.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any


def main() -> None:
    """Serves until the pipe is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the station, whose end is told by the pipe
    options = json.loads(sys.stdin.buffer.readline())
    try:
        line = _Line(options)
    except Exception as error:  # noqa: BLE001  (the station says it)
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        sys.exit(1)
    try:
        print(json.dumps({"ready": True}), flush=True)
        _serve(line, options["pulse_ms"] / 1000)
    finally:
        line.set(False)
        line.release()


def _serve(line: _Line, pulse: float) -> None:
    descriptor, received, end = sys.stdin.fileno(), b"", 0.0
    while True:
        wait = max(end - time.monotonic(), 0.0) if end else None
        if not select.select([descriptor], [], [], wait)[0]:
            end = 0.0
            line.set(False)
            continue
        data = os.read(descriptor, 4096)
        if not data:
            return
        *lines, received = (received + data).split(b"\n")
        for each in lines:
            accepted = json.loads(each)["accept"] is True
            line.set(accepted)
            end = time.monotonic() + pulse if accepted else 0.0


class _Line:
    """A line that was requested as an output. It rejects from the first moment."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        import gpiod
        from gpiod.line import Direction, Value

        self._values, self._number = (Value.INACTIVE, Value.ACTIVE), int(options["line"])
        settings = gpiod.LineSettings(
            direction=Direction.OUTPUT, output_value=Value.INACTIVE, active_low=bool(options["active_low"])
        )
        self._request = gpiod.request_lines(options["chip"], {self._number: settings}, consumer="patchbank")

    def set(self, accepted: bool) -> None:
        self._request.set_value(self._number, self._values[accepted])

    def release(self) -> None:
        self._request.release()


if __name__ == "__main__":
    main()
