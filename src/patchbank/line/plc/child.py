"""A process that is talked to in JSON lines, and trusted with nothing: it cannot hold up who talks to it."""

from __future__ import annotations

import json
import os
import queue
import selectors
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

_MOST_WAITING = 1000  # messages to the process
_MOST_LINE = 4096  # bytes of a message of the process


class Child:
    """A running process. `stop` it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)  # noqa: S603
        self._waiting: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_MOST_WAITING)
        self._received = bytearray()
        self._writer = threading.Thread(target=self._write, name="patchbank-child", daemon=True)
        self._writer.start()

    @property
    def pid(self) -> int:
        """Its number in the system."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    @property
    def waiting(self) -> int:
        """How many messages it has not taken yet."""
        return self._waiting.qsize()

    def send(self, message: Mapping[str, Any]) -> None:
        """Hands a message over, without waiting. A process that takes nothing is killed."""
        try:
            self._waiting.put_nowait(message)
        except queue.Full:
            self._process.kill()

    def message(self, seconds: float) -> Mapping[str, Any] | None:
        """The next message of the process. None if it has ended, says nothing for so long, or talks nonsense."""
        assert self._process.stdout
        until = time.monotonic() + seconds
        with suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if len(self._received) > _MOST_LINE or not selector.select(max(until - time.monotonic(), 0)):
                    return None
                data = os.read(self._process.stdout.fileno(), _MOST_LINE)
                if not data:
                    return None
                self._received += data
            line, _, rest = self._received.partition(b"\n")
            self._received = rest
            message = json.loads(line)
            return message if isinstance(message, dict) else None
        return None

    def stop(self, seconds: float = 0.0) -> None:
        """Closes the pipe to it, waits so long for its end, and kills it then. May be called from any thread, and more
        than once."""
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._writer.join(1)

    def _write(self) -> None:
        """A thread: hands messages to the process; None closes the pipe."""
        assert self._process.stdin
        with suppress(OSError, ValueError):
            while (message := self._waiting.get()) is not None:
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
        with suppress(OSError):
            self._process.stdin.close()
