"""Log lines on stderr: for people, or one JSON object a line. Texts from outside cannot forge a line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from patchbank.server.context import request_id
from patchbank.util.wording import printable

logger = logging.getLogger("patchbank.server")
access = logging.getLogger("patchbank.access")
_OURS = ("patchbank", "uvicorn")


def event(level: int, message: str, to: logging.Logger = logger, **facts: Any) -> None:
    """Logs a message with facts that a program can read."""
    to.log(level, message, extra={"facts": facts})


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if known := request_id():
            line["request_id"] = known
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """A line that people read; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        facts = getattr(record, "facts", {})
        words = [
            _time(record),
            record.levelname,
            record.getMessage(),
            *(f"{k}={v}" for k, v in facts.items() if v != ""),
        ]
        if (known := request_id()) and "request_id" not in facts:
            words.append(f"request_id={known}")
        line = printable(" ".join(words))
        if record.exc_info:
            trace = self.formatException(record.exc_info).splitlines()
            line = "\n".join([line, *(f"  {printable(each)}" for each in trace)])
        return line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


@contextmanager
def logging_to_stderr(format: str, level: str) -> Iterator[None]:
    """While the block runs, patchbank's and uvicorn's loggers write there, and nowhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if format == "json" else TextLines())
    before = [(logging.getLogger(name), *_state(logging.getLogger(name))) for name in _OURS]
    for log, *_ in before:
        log.handlers[:], log.propagate = [handler], False
        log.setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, getattr(logging, level.upper())))
    try:
        yield
    finally:
        for log, handlers, propagate, was in before:
            log.handlers[:], log.propagate = handlers, propagate
            log.setLevel(was)


def _state(log: logging.Logger) -> tuple[list[logging.Handler], bool, int]:
    return list(log.handlers), log.propagate, log.level
