"""A GPIO line as the output that accepts a part (Linux, libgpiod). It says reject at the start, after each pulse, on
close, and when the process ends: a small process of its own holds the line (`gpio_guard.py`)."""

from __future__ import annotations

import importlib.util
import sys
import threading

from patchbank import ConfigError, MissingExtraError, OutputError
from patchbank.line.plc.child import Child

_COMMAND = (sys.executable, "-m", "patchbank.line.plc.gpio_guard")
_START_SECONDS = 20.0


class GpioOutput:
    """Implements `Output`.

    chip: the device, such as /dev/gpiochip0. line: the line's number on it. pulse_ms: for so long an accepted part sets
    the line; the next part's answer ends it, too. active_low: accept is the low level.
    """

    def __init__(self, *, chip: str, line: int, pulse_ms: int = 500, active_low: bool = False) -> None:
        if importlib.util.find_spec("gpiod") is None:
            raise MissingExtraError(
                "an output of kind gpio needs gpiod, which is not installed: pip install 'patchbank[gpio]' (Linux)"
            )
        self._options = {"chip": chip, "line": line, "pulse_ms": pulse_ms, "active_low": active_low}
        self._child: Child | None = None
        self._closed, self._lock = False, threading.Lock()
        self._starting: threading.Thread | None = None

    def open(self) -> None:
        """Takes the line and sets it to reject. Raises ConfigError if that is not possible."""
        problem = self._start()
        if problem:
            where = f"line {self._options['line']} of {self._options['chip']}"
            raise ConfigError(f"the output on {where} cannot be used: {problem}")

    def accept(self, accepted: bool) -> None:
        """Sets the line, or ends its pulse. Raises OutputError if the process that holds the line has ended; it is
        started again meanwhile."""
        child = self._child
        if child is None or child.code is not None:
            self._start_aside()
            raise OutputError("the process that holds the output has ended; it is started again")
        child.send({"accept": accepted})

    def close(self) -> None:
        """Sets the line to reject and lets go of it. May be called twice."""
        with self._lock:
            self._closed = True
        if self._child:
            self._child.stop(3.0)

    def _start(self) -> str:
        """Starts the process; returns what is wrong, or ''."""
        child = Child(_COMMAND)
        child.send(self._options)
        message = child.message(_START_SECONDS) or {}
        if "ready" not in message:
            child.stop()
            return str(message.get("error", f"no sign of life within {_START_SECONDS:g} s"))[:500]
        with self._lock:
            closed = self._closed
            self._child = child
        if closed:
            child.stop(3.0)
        return ""

    def _start_aside(self) -> None:
        """Without keeping the answer waiting."""
        if self._starting is None or not self._starting.is_alive():
            self._starting = threading.Thread(target=self._start, name="patchbank-gpio", daemon=True)
            self._starting.start()
