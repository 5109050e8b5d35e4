"""A whole line with a real field bus: a PLC's program triggers, and gets what is journaled and what the sinks get."""

from __future__ import annotations

import csv
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.line.conftest import fake_line

from patchbank import ConfigError
from patchbank.line.config import parsed
from patchbank.line.runner import Runner

pytest.importorskip("pymodbus.client", reason="pymodbus, the test client, is not installed")
from modbus_ladder import Ladder


def test_a_plc_gets_each_parts_answer_and_sinks_the_same(tmp_path, model_file, pictures):
    written = fake_line(tmp_path, model_file, pictures, plc=False)
    tables = {
        "data": "data",
        "station": {
            "cap": {
                "model": str(written.stations[0].model),
                "deadline_ms": 20_000,
                "camera": {"kind": "fake", "images": "parts"},
                "plc": {"kind": "modbus", "listen": "127.0.0.1:0"},
            }
        },
        "sink": [{"kind": "csv", "path": "out"}],
    }
    with Runner(parsed(tables, tmp_path / "line.toml")) as runner:
        with closing(Ladder(*runner.plcs["cap"].address, timeout=30.0)) as ladder:
            answers = {}
            for n in range(8):
                accepted, part = ladder.inspect(f"part {n}")
                assert part == f"part {n}"
                answers[part] = "ok" if accepted else "ng"
        assert "ok" in answers.values()
        until = time.monotonic() + 30  # a PLC has its answer before the journal has the record
        while len(list(runner.journal.records())) < len(answers) and time.monotonic() < until:
            time.sleep(0.05)
        assert runner.journal.flush()
        assert runner.relays.drain(30)
        records = {each.part_id: each.output for each in runner.journal.records()}
    (table,) = (tmp_path / "out").glob("*.csv")
    with table.open(encoding="utf-8", newline="") as file:
        rows = {row["part_id"]: row["output"] for row in csv.DictReader(file)}
    assert answers == records == rows


OPCUA = {"kind": "opcua", "cert_file": "c", "key_file": "k", "users_file": "u", "trusted_clients": "t"}


def line_with(root: Path, **station: object):
    cap = {"model": "cap.patchbank", "camera": {"kind": "folder", "path": "inbox"}, **station}
    return parsed({"data": "data", "station": {"cap": cap}}, root / "line.toml").stations[0]


def test_tables_of_opcua_and_gpio_are_understood(tmp_path):
    station = line_with(tmp_path, plc=OPCUA, output={"kind": "gpio", "line": 17})
    assert station.plc.options.trusted_clients == str(tmp_path / "t")
    assert (station.output.options.chip, station.output.options.pulse_ms) == ("/dev/gpiochip0", 500)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"plc": {**OPCUA, "users_file": ""}}, "users_file"),
        ({"plc": {**OPCUA, "listen": "everywhere"}}, "an address and a port"),
        ({"plc": {**OPCUA, "password": "x"}}, "a secret does not stand in this file"),
        ({"output": {"kind": "gpio"}}, "number of the line"),
        ({"output": {"kind": "gpio", "line": 1, "pulse_ms": 0}}, "pulse_ms: expected at least 1"),
    ],
)
def test_what_cannot_be_is_an_error_before_anything_starts(tmp_path, tables, says):
    with pytest.raises(ConfigError, match=says):
        line_with(tmp_path, **tables)
