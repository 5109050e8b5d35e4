"""What a job in the child process works with: its files, and the way to say how far it is."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import IO, Any

from patchbank.server.jobs.folder import JobFolder

_EVERY_S = 0.2  # between two words about progress
_MOST_LINES, _LONGEST_LINE = 2000, 2000


class Tools:
    """What a job works with. folder: its files."""

    def __init__(self, folder: JobFolder, out: IO[str]) -> None:
        self.folder = folder
        self.remarks: list[str] = []  # what the library had to say of the model
        self._out, self._lock = out, threading.Lock()
        self._stage, self._said, self._lines = "", 0.0, 0

    def progress(self, stage: str, done: int, total: int) -> None:
        """Says how far the job has come; called as often as one likes."""
        now = time.monotonic()
        if stage == self._stage and done != total and now - self._said < _EVERY_S:
            return
        self._stage, self._said = stage, now
        self.say(stage=stage, done=done, total=total)

    def log(self, line: str) -> None:
        """Adds a line to the job's log, up to a bound."""
        self._lines += 1
        if self._lines <= _MOST_LINES:
            self.say(log=line[:_LONGEST_LINE])

    def hear_the_library(self) -> None:
        """Has the library's log lines join the job's."""
        logger = logging.getLogger("patchbank")
        logger.addHandler(_Log(self))
        logger.setLevel(logging.INFO)

    def say(self, **message: Any) -> None:
        """Sends a message to the service."""
        with self._lock:
            self._out.write(json.dumps(message) + "\n")
            self._out.flush()


class _Log(logging.Handler):
    def __init__(self, tools: Tools) -> None:
        super().__init__(logging.INFO)
        self._tools = tools

    def emit(self, record: logging.LogRecord) -> None:
        """Hands the line on."""
        line = record.getMessage()
        if getattr(record, "remark", False):
            self._tools.remarks.append(line)
        self._tools.log(f"{record.levelname.lower()}: {line}")
