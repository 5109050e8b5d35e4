"""All that the command line prints goes through `cli/terminal.py`, which makes it safe and never fails for its form."""

from __future__ import annotations

import ast
import csv
import getpass
import io
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from patchbank.cli import options, terminal
from patchbank.errors import OutputError

from .conftest import SMALL, failure, run

CLI = Path(options.__file__).parent


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_printed_past_the_terminal_module(path):
    """One place is safe; the second one is forgotten."""
    called = [
        ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)
    ]
    printing = {
        "print",
        "typer.echo",
        "typer.secho",
        "click.echo",
        "sys.stdout.write",
        "sys.stderr.write",
        "rich.print",
    }
    assert printing.isdisjoint(called)


class Terminal(io.StringIO):
    """A stream of an encoding, that is a terminal or is not."""

    encoding = "utf-8"

    def __init__(self, encoding="utf-8", tty=False):
        super().__init__(newline="")
        type(self).encoding, self.tty = encoding, tty

    def isatty(self):
        return self.tty


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\uff1d1", "'\uff1d1"),
        (-1.5, "-1.5"),
        (7, "7"),
        ("", ""),
        ("a=b", "a=b"),
        ('a"b,c', 'a"b,c'),
        ("a\r\nb\nc", "a\r\nb\nc"),
        ("a\x1b[2J\u202e\udcfc", "a\\x1b[2J\\u202e\\udcfc"),
    ],
)
def test_cells_of_csv(monkeypatch, value, cell):
    monkeypatch.setattr(sys, "stdout", Terminal())
    terminal.say_row((value, "next"))
    assert list(csv.reader(io.StringIO(sys.stdout.getvalue(), newline=""))) == [[cell, "next"]]


def test_a_row_of_csv_is_one_line_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal(tty=True))
    terminal.say_row(("a\rb\nc", 1))
    assert sys.stdout.getvalue() == "a\\rb\\nc,1\n"


def test_what_an_encoding_does_not_have_is_written_out(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal("cp1252"))
    terminal.say("é部")
    terminal.say_json({"é": "部\udcfc\x1b"})
    assert sys.stdout.getvalue() == 'é\\u90e8\n{"\\u00e9": "\\u90e8\\udcfc\\u001b"}\n'


def test_a_stream_that_fails_is_an_output_error_once(monkeypatch):
    class Full(Terminal):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OutputError, match="standard output: No space left"):
        terminal.say("x")
    terminal.say("y")  # to nowhere: the work goes on


def test_notes_never_fail(monkeypatch):
    class Gone(Terminal):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    terminal.note("x")


def test_what_the_library_logs_is_a_note_and_safe(capsys):
    with terminal.logged_as_notes():
        logging.getLogger("patchbank").warning("left out %s", "a\x1b[2J.txt")
        logging.getLogger("patchbank.fit").debug("not this")
    assert capsys.readouterr().err == "left out a\\x1b[2J.txt\n"
    assert not any(isinstance(each, terminal.Notes) for each in logging.getLogger("patchbank").handlers)


def test_an_error_is_one_safe_line(fitted, tmp_path):
    line = failure("predict", fitted, tmp_path / "no\x1b[2J\nsuch\u202e", code=3)
    assert "no\\x1b[2J such\\u202e" in line


def test_help_and_version_need_no_unicode(monkeypatch):
    for flag in ("--help", "--version"):
        command = [sys.executable, "-m", "patchbank", flag]
        done = subprocess.run(
            command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")


def test_nobody_needs_a_name(fitted, tmp_path, monkeypatch):
    """A user id that the system does not know, as in containers: the version has no author then."""
    for error in (KeyError("uid not found"), OSError("no such user")):

        def unknown(error=error):
            raise error

        monkeypatch.setattr(getpass, "getuser", unknown)
        run("threshold", fitted, "-o", tmp_path / "m")


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs /dev/null")
def test_a_fit_into_a_device_leaves_nothing_beside_it(category):
    run("fit", category, "-o", "/dev/null", *SMALL)
    assert Path("/dev/null").is_char_device()
    assert not Path("/dev/null.partial").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_an_update_through_a_link_changes_the_model_that_it_leads_to(fitted, category, tmp_path):
    (tmp_path / "v1").write_bytes(fitted.read_bytes())
    (tmp_path / "current").symlink_to("v1")
    run("update", tmp_path / "current", "--add", category / "test/good/001.png")
    assert (tmp_path / "current").is_symlink()
    assert len(run("history", tmp_path / "v1").stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("tty", "environment", "coloured"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),  # no-color.org: only if it is not empty
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_and_can_be_forbidden(monkeypatch, tty, environment, coloured):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal(tty=tty)
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.say_parts(("NG", "bold red"), (" a\x1b[2J.png", ""))
    line = stream.getvalue()
    assert ("\x1b[1;31mNG\x1b[0m" in line) == coloured
    assert line.endswith(" a\\x1b[2J.png\n")  # what a name holds never acts on a terminal


def test_results_for_machines_have_no_colours(fitted, good, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for kind in ("--json", "--csv"):
        assert "\x1b" not in run("predict", fitted, good, kind).stdout
    assert "\x1b[32mOK" in run("predict", fitted, good).stdout


def test_who_logs_never_waits_for_a_terminal_that_stands_still(monkeypatch):
    """A line's threads log; nobody may read its stderr."""
    go, said = threading.Event(), []

    def stuck(text, style=""):
        go.wait(20)
        said.append(text)

    monkeypatch.setattr(terminal, "note", stuck)
    with terminal.logged_as_notes(), terminal.noted_in_a_thread(most=3):
        for number in range(10):
            logging.getLogger("patchbank.line").warning("message %d", number)
        assert said == []
        go.set()
    end = time.monotonic() + 20
    while len(said) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    assert said[:3] == ["message 0", "message 1", "message 2"]
    assert len(said) < 10
