"""All that the command line prints goes through here, so that no text from outside (a file name, a note in a model
file) can act on a terminal, forge a line or a spreadsheet's formula, or end the run because it cannot be shown."""

from __future__ import annotations

import csv
import io
import json
import logging
import logging.handlers
import os
import queue
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TextIO

from patchbank.errors import OutputError
from patchbank.util.log import logger
from patchbank.util.wording import printable, spreadsheet_safe


def say(text: str = "", style: str = "") -> None:
    """Prints one line of a result on stdout. style: as in `painted`. Raises OutputError where that cannot be written.

    A reader that has gone (`| head -1`) is no error: what follows is printed to nowhere, and the work goes on.
    """
    _print(painted(printable(text), style, sys.stdout))


def say_parts(*parts: tuple[str, str]) -> None:
    """As `say`: one line of parts, (text, style) each."""
    _print("".join(painted(printable(text), style, sys.stdout) for text, style in parts))


def say_json(value: Any, indent: int | None = None) -> None:
    """Prints a value as JSON, in ASCII: what a text holds is escaped, and comes back as it was."""
    _print(json.dumps(value, indent=indent, allow_nan=False))


def say_row(values: tuple[object, ...]) -> None:
    """Prints a row of CSV (RFC 4180: quotes around commas, quotes and line breaks).

    A text that a spreadsheet would take for a formula gets an apostrophe before it. Control characters are written out;
    line breaks and tabs only on a terminal.
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow([_cell(value) for value in values])
    _print(buffer.getvalue().removesuffix("\r\n"))


def note(text: str, style: str = "") -> None:
    """Says something that is not a result: on stderr, so that stdout stays machine-readable. style: as in `painted`.
    Where nobody can read it, nothing happens."""
    with suppress(OSError, ValueError):
        _write(sys.stderr, painted(printable(text), style, sys.stderr))


def painted(text: str, style: str, stream: TextIO) -> str:
    """The text in a style of rich ("bold red", "" = plain), where the stream shows colours: on a terminal, unless
    NO_COLOR is set (no-color.org); elsewhere only if FORCE_COLOR is set."""
    if not (style and text and _shows_colours(stream)):
        return text
    from rich.color import ColorSystem
    from rich.style import Style

    return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)


def _shows_colours(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    if not stream.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        return False
    if sys.platform == "win32":  # an old console shows escape codes as they are
        from rich.console import Console

        return not Console(file=stream).legacy_windows
    return True


def line_width(otherwise: int = 80) -> int:
    """The columns of the terminal that stdout is; `otherwise` where it is none."""
    try:
        return max(20, os.get_terminal_size(sys.stdout.fileno()).columns or otherwise)
    except (OSError, ValueError):
        return otherwise


def can_show(text: str) -> bool:
    """Says whether the encoding of stdout has all of these signs."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


class Notes(logging.Handler):
    """Says what the library logs (what it has left out, say) as notes, names in it made safe like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "remark") and (held := _held.get()) is not None:
            held.append(record.getMessage())
        else:
            note(record.getMessage())


_held: ContextVar[list[str] | None] = ContextVar("held", default=None)


@contextmanager
def remarks_held() -> Iterator[list[str]]:
    """The library's remarks about a model go to the list, to be noted when the model is written."""
    held: list[str] = []
    token = _held.set(held)
    try:
        yield held
    finally:
        _held.reset(token)


@contextmanager
def logged_as_notes() -> Iterator[None]:
    """While the block runs, what the logger "patchbank" is told is noted, but for its details (DEBUG)."""
    notes = Notes()
    before = logger.level
    logger.addHandler(notes)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(notes)
        logger.setLevel(before)


class _Unhurried(logging.handlers.QueueHandler):
    """Puts messages into a queue; when it is full, they are left out."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):
            self.queue.put_nowait(record)


@contextmanager
def noted_in_a_thread(most: int = 1000) -> Iterator[None]:
    """While the block runs, a thread of its own says the library's messages: who logs never waits for a terminal, or
    for a pipe that nobody reads. If more than `most` wait, the next ones are left out."""
    notes = [handler for handler in logger.handlers if isinstance(handler, Notes)]
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(most)
    unhurried, listener = _Unhurried(waiting), logging.handlers.QueueListener(waiting, *notes)
    for handler in notes:
        logger.removeHandler(handler)
    logger.addHandler(unhurried)
    listener.start()
    try:
        yield
    finally:
        logger.removeHandler(unhurried)
        for handler in notes:
            logger.addHandler(handler)
        if waiting.qsize() < most:  # else nobody reads: its thread is left behind
            listener.stop()


def note_trace(trace: str | None = None) -> None:
    """A traceback on stderr, line by line; None: the present exception's."""
    for line in (traceback.format_exc() if trace is None else trace).splitlines():
        note(line)


def open_streams() -> None:
    """Makes a closed stdin, stdout or stderr (`>&-`) lead nowhere. Otherwise the next file that is opened would take
    its number, and get what is printed."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):  # for what is printed by others: help, and usage errors
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print(line: str) -> None:
    try:
        _write(sys.stdout, line)
    except BrokenPipeError:
        drop_stdout()
    except OSError as error:
        drop_stdout()
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write the standard output: {reason}; results are missing there") from error


def _write(stream: TextIO, line: str) -> None:
    """One line, at once; what the stream's encoding does not have is written out."""
    encoding = stream.encoding or "utf-8"
    stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


def _cell(value: object) -> object:
    return spreadsheet_safe(value, "" if sys.stdout.isatty() else "\n\r\t")


def drop_stdout() -> None:
    """Sends what is still buffered, and what follows, to nowhere."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except OSError:  # stdout is no real file: nothing is buffered that could fail
        sys.stdout = io.StringIO()
