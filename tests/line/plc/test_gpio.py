"""The digital output rejects at the start, after a pulse, on close, and when the line's process is killed. The chip is
a fake one, which notes each level in a file; the process that holds it is the real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from patchbank import ConfigError, MissingExtraError, OutputError
from patchbank.line.plc.gpio import GpioOutput

FAKE = {
    "gpiod/__init__.py": """
import json
from gpiod.line import Value

class LineSettings:
    def __init__(self, direction, output_value, active_low):
        self.direction, self.output_value, self.active_low = direction, output_value, active_low

class Request:
    def __init__(self, path, number, settings):
        self.path, self.number, self.low = path, number, settings.active_low
        self.note(direction=settings.direction, value=settings.output_value)
    def note(self, **what):
        with open(self.path, "a") as file:
            file.write(json.dumps({"line": self.number, "low": self.low, **what}) + "\\n")
    def set_value(self, number, value):
        assert number == self.number
        self.note(value=value)
    def release(self):
        self.note(released=True)

def request_lines(path, config, consumer):
    open(path).close()
    assert consumer == "patchbank"
    ((number, settings),) = config.items()
    return Request(path, number, settings)
""",
    "gpiod/line.py": """
class Direction:
    OUTPUT = "output"
class Value:
    INACTIVE, ACTIVE = 0, 1
""",
}


@pytest.fixture
def chip(tmp_path: Path, monkeypatch) -> Path:
    for name, text in FAKE.items():
        path = tmp_path / "fake" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "fake"), *sys.path]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    (tmp_path / "chip").touch()
    return tmp_path / "chip"


def noted(chip: Path) -> list[dict]:
    return [json.loads(line) for line in chip.read_text().splitlines()]


def values(chip: Path) -> list[int]:
    return [each["value"] for each in noted(chip) if "value" in each]


def soon(condition, what: str) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


def test_it_rejects_at_the_start_and_on_close(chip):
    output = GpioOutput(chip=str(chip), line=17, pulse_ms=60_000, active_low=True)
    output.open()
    assert noted(chip) == [{"line": 17, "low": True, "direction": "output", "value": 0}]
    output.accept(True)
    soon(lambda: values(chip) == [0, 1], "it does not accept")
    output.close()
    output.close()
    assert values(chip) == [0, 1, 0]
    assert noted(chip)[-1].get("released")


def test_an_accept_is_a_pulse_and_a_reject_ends_it(chip):
    """Else the accept of one part would let the next one pass."""
    output = GpioOutput(chip=str(chip), line=1, pulse_ms=50)
    output.open()
    output.accept(True)
    soon(lambda: values(chip) == [0, 1, 0], "the pulse does not end")
    output.close()
    long = GpioOutput(chip=str(chip), line=1, pulse_ms=60_000)
    long.open()
    long.accept(True)
    long.accept(False)
    soon(lambda: values(chip)[-3:] == [0, 1, 0], "the reject does not come through")
    long.close()


KILLED = """
import sys, time
from patchbank.line.plc.gpio import GpioOutput
output = GpioOutput(chip=sys.argv[1], line=2, pulse_ms=60_000)
output.open()
output.accept(True)
time.sleep(60)
"""


def test_it_rejects_when_the_program_is_killed(chip):
    """Not even SIGKILL leaves an accept on the line."""
    with subprocess.Popen([sys.executable, "-c", KILLED, str(chip)]) as child:
        soon(lambda: values(chip) == [0, 1], "it does not accept")
        child.send_signal(signal.SIGKILL)
    soon(lambda: values(chip) == [0, 1, 0], "the accept stands")


def test_a_guard_that_ends_is_an_error_and_comes_back(chip):
    output = GpioOutput(chip=str(chip), line=3, pulse_ms=60_000)
    output.open()
    os.kill(output._child.pid, signal.SIGKILL)
    soon(lambda: output._child.code is not None, "it lives on")
    with pytest.raises(OutputError, match="started again"):
        output.accept(True)
    soon(lambda: output._child.code is None, "it does not come back")
    output.accept(True)
    soon(lambda: values(chip)[-1] == 1, "it does not accept")
    output.close()


def test_a_chip_that_is_not_there_is_a_clear_error(chip):
    with pytest.raises(ConfigError, match="line 4 of /nowhere cannot be used: FileNotFoundError"):
        GpioOutput(chip="/nowhere", line=4).open()


def test_without_gpiod_the_message_holds_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'patchbank\[gpio\]'"):
        GpioOutput(chip="/dev/gpiochip0", line=1)
