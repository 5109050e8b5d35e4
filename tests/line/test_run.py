"""`patchbank run` as users call it."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.line.conftest import SMALL, write
from typer.testing import CliRunner

from parts import striped
from patchbank.cli.app import app

ROOT = Path(__file__).parents[2]


@pytest.fixture
def line(tmp_path, model_file) -> Path:
    """A line's file, and four files in its folder; the second one has a defect."""
    rng = np.random.default_rng(5)
    for number in range(4):
        write(tmp_path / "inbox" / f"p{number}.png", striped(rng, defect=number == 1))
    path = tmp_path / "line.toml"
    path.write_text(
        f'data = "data"\n[station.cap]\nmodel = "{model_file}"\n[station.cap.camera]\nkind = "folder"\npath = "inbox"\n'
    )
    return path


def run(*args, code=0):
    result = CliRunner().invoke(app, ["run", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def exported(line: Path) -> list[dict]:
    return [json.loads(text) for text in run(line, "--export", "-").stdout.splitlines()]


def test_once_then_export_then_replay(line):
    lines = run(line, "--once").stdout.splitlines()
    assert sorted(text.split()[:3] for text in lines) == [
        ["cap", "p0", "OK"],
        ["cap", "p1", "NG"],
        ["cap", "p2", "OK"],
        ["cap", "p3", "OK"],
    ]
    found = exported(line)
    assert [each["id"] for each in found] == sorted(each["id"] for each in found), "in the order of the answers"
    assert {("p1.png", "p1", "ng")} < {(each["source"], each["part_id"], each["verdict"]) for each in found}
    assert all(isinstance(each["score"], float) for each in found)
    again = json.loads(run(line, "--replay", found[0]["id"]).stdout)
    assert again["identical"]
    assert again["score_now"] == found[0]["score"]
    run(line, "--export", line.parent / "out.jsonl")
    assert [json.loads(text) for text in (line.parent / "out.jsonl").read_text().splitlines()] == found


def test_once_ends_whatever_lies_in_the_folder(line):
    inbox = line.parent / "inbox"
    (inbox / "link.png").symlink_to("p0.png")
    (inbox / "folder.png").mkdir()
    (inbox / os.fsdecode(b"\xff.png")).write_bytes((inbox / "p0.png").read_bytes())
    run(line, "--once")
    assert len(exported(line)) == 5
    assert "\\udcff.png" in {each["source"] for each in exported(line)}
    for path in inbox.iterdir():
        path.rename(line.parent / path.name) if path.suffix else None
    inbox.rename(line.parent / "gone")
    assert "expected a folder" in run(line, "--once", code=10).stderr


def test_check_says_what_each_part_answers(line):
    text = run(line, "--check").stdout
    assert "self-test passed" in text
    assert "4 image files wait" in text
    (line.parent / "inbox").rename(line.parent / "gone")
    result = run(line, "--check", code=10)
    assert "failed  cap: camera: " in result.stdout
    assert "ok      cap: model" in result.stdout


def test_a_sink_that_cannot_be_made_stops_the_start(line):
    line.write_text(line.read_text() + '[[sink]]\nkind = "webhook"\nurl = "https://x.example"\nsecret_file = "none"\n')
    assert "secret_file" in run(line, "--once", code=2).stderr
    assert len(list((line.parent / "inbox").glob("*.png"))) == 4, "nothing was inspected"
    assert "failed  sink webhook: " in run(line, "--check", code=2).stdout


def test_the_demo_answers_parts_over_modbus(tmp_path, monkeypatch):
    pytest.importorskip("elpv_dataset")
    monkeypatch.setattr("patchbank.cli.line_demo.IMAGES", 12)
    monkeypatch.setattr("patchbank.cli.line_demo.CONFIG", SMALL)
    result = run("--demo", "--once", "--out", tmp_path / "demo")
    lines = [text for text in result.stdout.splitlines() if text.startswith("cell ")]
    assert len(lines) >= 10
    verdicts = {text.split()[2] for text in lines}
    assert verdicts <= {"OK", "REVIEW", "NG", "ERROR"}
    assert verdicts != {"ERROR"}
    assert "expected no file" in run("x.toml", "--demo", code=2).stderr


def test_the_page_shows_what_is_wrong_and_nothing_acts_on_the_terminal():
    from rich.console import Console

    from patchbank.cli.line_view import page
    from patchbank.line.plc.protocol import Shown, State
    from patchbank.line.views import LineView, StationView

    station = StationView("cap", Shown(State.FAULT), "", "the camera\x1b[31m fails", False, "part", 3, None)
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(page("L1", LineView((station,), {"disk": "is full"}, {"mqtt": (7, 1)}, 0)))
    text = console.export_text()
    assert "\x1b" not in text
    for words in ("fault", "alarm: disk: is full", "sink mqtt: 7 wait, 1 refused", "model part, version 3"):
        assert words in text


def test_wrong_calls_are_errors_before_anything_starts(line):
    assert "expected one of --once and --check" in run(line, "--once", "--check", code=2).stderr
    assert "cannot read the configuration file" in run(line.parent / "none.toml", code=2).stderr
    assert "expected the line's file" in run(code=2).stderr
    assert "expected the data folder of a line" in run(line, "--export", "-", code=2).stderr
    assert not (line.parent / "data").exists()


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM and SIGKILL are of POSIX systems")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_loses_nothing_and_repeats_nothing(line, number):
    """Ended while parts come: a second run takes the rest; each part has one record, its file has moved, and a sink
    has it once."""
    line.write_text(line.read_text() + '[[sink]]\nkind = "csv"\npath = "csv"\n')
    kills = int(os.environ.get("PATCHBANK_KILLS", "1")) if number == signal.SIGKILL else 1
    total, rng = 4, np.random.default_rng(6)
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-m", "patchbank", "run", str(line)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        )
        assert process.stdout.readline()
        for _ in range(5):
            write(line.parent / "inbox" / f"p{total}.png", striped(rng))
            total += 1
        time.sleep(0.02)
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(30) == (0 if number == signal.SIGTERM else -number)
    run(line, "--once")
    found = exported(line)
    assert sorted(each["source"] for each in found) == sorted(f"p{number}.png" for number in range(total))
    assert len(list((line.parent / "inbox/done").iterdir())) == total
    assert not list((line.parent / "inbox").glob("*.png"))
    rows = [row for path in (line.parent / "csv").glob("*.csv") for row in csv.DictReader(path.open(newline=""))]
    assert sorted(row["id"] for row in rows) == sorted(each["id"] for each in found)
