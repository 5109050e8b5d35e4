"""A process that is talked to in JSON lines, and trusted with nothing: it cannot hold up who talks to it."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

_MOST_WAITING = 1000  # messages to the process
_MOST_LINE = 4096  # bytes of a message of the process


class Child:
    """A running process. `stop` it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
        self._waiting: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_MOST_WAITING)
        self._said: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_MOST_WAITING)
        for work in (self._write, self._read):
            threading.Thread(target=work, name="patchbank-child", daemon=True).start()

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
        """The next message of the process. None if it has ended, says nothing for so long, or has talked nonsense."""
        with suppress(queue.Empty):
            return self._said.get(timeout=seconds)
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

    def _write(self) -> None:
        """A thread: hands messages to the process; None closes the pipe."""
        assert self._process.stdin
        with suppress(OSError, ValueError):
            while (message := self._waiting.get()) is not None:
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                self._process.stdin.flush()
        with suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        """A thread: what the process says, as far as it is messages; then None."""
        assert self._process.stdout
        with suppress(OSError, ValueError), self._process.stdout as stdout:
            while (line := stdout.readline(_MOST_LINE)).endswith(b"\n"):
                message = json.loads(line)
                if not isinstance(message, dict):
                    break
                self._said.put(message)
        self._said.put(None)
