"""A batch always ends: a verdict or a named refusal for every image, whatever one of them is, and whatever happens to
the disk, the terminal or the reader of the results. The exit code never hides a found anomaly."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from patchbank import PatchCore, errors
from patchbank.cli import output_folder
from patchbank.errors import OutputError
from patchbank.evaluation.datasets import read_dataset
from patchbank.evaluation.evaluate import evaluate
from patchbank.features import extract as collect
from patchbank.imaging import images
from patchbank.results.result import Result
from patchbank.scoring import scores as scoring

from .conftest import SMALL, run

PATCHBANK = [sys.executable, "-m", "patchbank"]
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX names, pipes and descriptors")


@pytest.fixture
def batch(tmp_path, good, scratched):
    """Three good images and, last, a scratched one."""
    folder = tmp_path / "batch"
    folder.mkdir()
    for number in range(3):
        shutil.copy(good, folder / f"{number}.png")
    shutil.copy(scratched, folder / "z.png")
    return folder


def verdicts(result) -> list[str]:
    return [Path(json.loads(line)["path"]).name for line in result.stdout.splitlines()]


# --- whatever an image raises ---


@pytest.fixture
def odd(monkeypatch):
    """Makes reading one image raise."""

    def break_in(where, error, name="1.png"):
        real = where.read_image

        def read(source, *format):
            if Path(source).name == name:
                raise error
            return real(source, *format)

        monkeypatch.setattr(where, "read_image", read)

    return break_in


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("surprise\n in two lines"), 70),
        (MemoryError("no room"), 70),
        (errors.BackboneError("cannot run"), 4),
        (errors.ImageError("1.png: is odd"), 3),
        (OSError(errno.EIO, "Input/output error"), 70),
    ],
)
def test_an_image_that_raises_anything_is_named_and_the_rest_goes_on(fitted, batch, odd, error, code):
    odd(sys.modules["patchbank.model"], error)
    result = run("predict", fitted, batch, "--json", code=code)
    assert verdicts(result) == ["0.png", "2.png", "z.png"]
    assert "1 image could not be used:" in result.stderr
    refusal = next(line for line in result.stderr.splitlines() if "1.png" in line)
    assert " ".join(str(error).split()) in refusal
    if code == 70:
        assert f"internal error ({type(error).__name__}: " in refusal
        assert "please report" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    run("predict", fitted, batch, "--fail-on-anomaly", code=1)


def test_debug_shows_where_an_image_failed(fitted, batch, odd):
    odd(sys.modules["patchbank.model"], RuntimeError("surprise"))
    result = run("predict", fitted, batch, "--debug", code=70)
    assert "Traceback (most recent call last)" in result.stderr
    assert "RuntimeError: surprise" in result.stderr


def test_an_interrupt_is_no_refusal(fitted, batch, monkeypatch):
    """Ctrl-C must end the run, not be taken for a fault of one image."""

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "patch_scores", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(PatchCore.load(fitted).predict_each([batch / "0.png"]))


def test_predict_of_a_list_still_raises_what_happened(fitted, batch, monkeypatch):
    """Who asks for all results, and gets no refusals, gets the error itself."""

    def broken(*args):
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(scoring, "patch_scores", broken)
    model = PatchCore.load(fitted)
    with pytest.raises(ZeroDivisionError):
        model.predict([batch / "0.png", batch / "1.png"])
    (refusal,) = model.predict_each([batch / "0.png"])
    assert refusal.kind is ZeroDivisionError
    assert refusal.reason == f"{batch / '0.png'}: internal error (ZeroDivisionError: surprise)"
    assert "patch_scores" in refusal.trace


def test_a_result_that_cannot_be_shown_is_a_refusal_and_its_verdict_counts(fitted, batch, monkeypatch):
    real = Result.to_dict

    def broken(result):
        if Path(result.path).name == "z.png":
            raise ValueError("no map")
        return real(result)

    monkeypatch.setattr(Result, "to_dict", broken)
    assert verdicts(run("predict", fitted, batch, "--json", code=70)) == ["0.png", "1.png", "2.png"]
    run("predict", fitted, batch, "--json", "--fail-on-anomaly", code=1)


def test_an_odd_training_image_is_left_out_by_name(category, tmp_path, odd):
    odd(collect, RuntimeError("surprise"), "001.png")
    result = run("fit", category, "-o", tmp_path / "m", *SMALL)
    assert "7 images" in result.stdout
    assert "001.png: internal error (RuntimeError: surprise)" in result.stderr


def test_an_odd_test_image_is_left_out_of_an_evaluation_by_name(fitted, category, odd):
    odd(sys.modules["patchbank.model"], RuntimeError("surprise"), "001.png")
    evaluation = evaluate(PatchCore.load(fitted), read_dataset(category))
    assert evaluation.n_test == 6
    assert [each.path.name for each in evaluation.skipped] == ["001.png"] * 2
    assert all("001.png: internal error (RuntimeError: surprise)" in each.reason for each in evaluation.skipped)


# --- pictures that cannot be written ---


def full_for(monkeypatch, ending, error=None):
    real = images.write_png

    def write(path, picture):
        if path.name.endswith(ending):
            raise error or OutputError(f"cannot write {path}: No space left on device")
        real(path, picture)

    monkeypatch.setattr(images, "write_png", write)


def test_a_full_disk_names_each_picture_and_keeps_all_verdicts(fitted, batch, tmp_path, monkeypatch):
    full_for(monkeypatch, output_folder.OVERLAY)
    result = run("predict", fitted, batch, "--json", "--out", tmp_path / "out", code=7)
    assert verdicts(result) == ["0.png", "1.png", "2.png", "z.png"]
    named = [line for line in result.stderr.splitlines() if ".overlay.png: No space left on device" in line]
    assert len(named) == 4
    assert (tmp_path / "out/z.png.mask.png").is_file()  # what can be written is
    assert "z.png" in (tmp_path / "out/report.html").read_text()
    run("predict", fitted, batch, "--out", tmp_path / "out", "--fail-on-anomaly", code=1)


def test_a_report_that_cannot_be_written_keeps_all_verdicts(fitted, batch, tmp_path):
    (tmp_path / "out/report.html").mkdir(parents=True)
    result = run("predict", fitted, batch, "--json", "--out", tmp_path / "out", code=7)
    assert len(verdicts(result)) == 4
    assert "cannot write" in result.stderr
    run("predict", fitted, batch, "--out", tmp_path / "out", "--fail-on-anomaly", code=1)


def test_the_verdict_is_printed_before_the_picture_is_drawn(fitted, batch, tmp_path, monkeypatch):
    """Whoever waits for the line must not wait for the disk, and a crash in drawing must not take the line along."""

    def killed(result, *more):
        raise KeyboardInterrupt

    monkeypatch.setattr(Result, "overlay", killed)
    result = run("predict", fitted, batch, "--json", "--out", tmp_path / "out", code=130)
    assert verdicts(result) == ["0.png"]


def test_a_drawing_that_fails_is_named(fitted, batch, tmp_path, monkeypatch):
    real = Result.overlay

    def overlay(result, *more):
        if Path(result.path).name == "0.png":
            raise RuntimeError("no colours")
        return real(result, *more)

    monkeypatch.setattr(Result, "overlay", overlay)
    result = run("predict", fitted, batch, "--json", "--out", tmp_path / "out", code=70)
    assert len(verdicts(result)) == 4
    assert "0.png: internal error (RuntimeError: no colours)" in result.stderr
    assert len(list((tmp_path / "out").glob("*.overlay.png"))) == 3


# --- exit codes ---


def test_the_gravest_reason_is_the_exit_code_and_an_anomaly_wins(fitted, batch, truncated, tmp_path, monkeypatch):
    shutil.copy(truncated, batch / "cut.jpg")
    run("predict", fitted, batch, code=3)
    full_for(monkeypatch, output_folder.MASK)
    run("predict", fitted, batch, "--out", tmp_path / "out", code=7)
    full_for(monkeypatch, output_folder.OVERLAY, RuntimeError("surprise"))
    run("predict", fitted, batch, "--out", tmp_path / "out", code=70)
    run("predict", fitted, batch, "--out", tmp_path / "out", "--fail-on-anomaly", code=1)


# --- the reader has gone ---


@needs_posix
def test_a_reader_that_goes_changes_neither_the_work_nor_the_exit_code(fitted, batch, tmp_path):
    """`patchbank predict ... --fail-on-anomaly | head -1`: the anomaly comes last, and its picture and code too."""
    command = [*PATCHBANK, "predict", str(fitted), str(batch), "--out", str(tmp_path / "out"), "--fail-on-anomaly"]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    reader.stdout.close()
    stderr = reader.stderr.read()
    reader.stderr.close()
    assert reader.wait(120) == 1
    assert b"ipe" not in stderr
    assert (tmp_path / "out/z.png.mask.png").is_file()


@needs_posix
def test_closed_streams_are_no_failure_and_get_into_no_file(fitted, batch, tmp_path):
    """With stdout closed, the next file that is opened would get its number, and the results."""
    before = fitted.read_bytes()
    command = f"{sys.executable} -m patchbank predict {fitted} {batch} --out {tmp_path / 'out'} --fail-on-anomaly"
    assert subprocess.run(["sh", "-c", f"{command} <&- >&- 2>&-"], timeout=120, check=False).returncode == 1
    assert fitted.read_bytes() == before
    assert (tmp_path / "out/report.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full (Linux)")
def test_results_that_cannot_be_printed_are_an_error_but_an_anomaly_stays_one(fitted, batch, tmp_path):
    with Path("/dev/full").open("w") as full:
        command = [*PATCHBANK, "predict", str(fitted), str(batch), "--out", str(tmp_path / "out"), "--fail-on-anomaly"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "cannot write the standard output: No space left on device" in done.stderr
    assert (tmp_path / "out/z.png.overlay.png").is_file()


# --- names ---

NAMES = ["a\nANOMALOUS.png", "\x1b[2J\x1b]0;x\x07.png", "r\u202egnp.png", "gr\udcfcn.png", "部品.png", "=cmd|'!A1.png"]


@pytest.fixture
def named(tmp_path, category):
    """Good images under names that attack a terminal, a line, a spreadsheet or an encoding."""
    folder = tmp_path / "named"
    folder.mkdir()
    try:
        for number, name in enumerate(NAMES):
            shutil.copy(category / f"train/good/{number:03d}.png", folder / name)
    except (OSError, UnicodeEncodeError) as error:
        pytest.skip(f"this file system does not take such names: {error!r}")
    return folder


@needs_posix
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "utf-16"])
def test_names_that_the_terminal_cannot_show_end_nothing(fitted, named, tmp_path, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [*PATCHBANK, "predict", str(fitted), str(named), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    said = done.stderr.decode(encoding).splitlines()
    assert [line.split()[0] for line in said] == ["threshold", "p", "6", "report:"]
    assert said[2] == "6 images: 6 OK, 0 REVIEW, 0 NG, 0 refused"
    lines = done.stdout.decode(encoding).splitlines()
    assert len(lines) == len(NAMES)
    assert not any(char in "".join(lines) for char in "\x1b\x07\u202e")
    assert all(line.startswith("OK ") for line in lines)
    shown = ["\\x1b[2J\\x1b]0;x\\x07.png", "a\\nANOMALOUS.png", "r\\u202egnp.png", "gr\\udcfcn.png"]
    assert all(any(line.endswith(name) for line in lines) for name in shown)
    japanese = "部品.png" if encoding.startswith("utf") else "\\u90e8\\u54c1.png"
    assert any(line.endswith(japanese) for line in lines)
    assert len(list((tmp_path / "out").iterdir())) == 2 * len(NAMES) + 1


@needs_posix
def test_json_gives_every_name_back_as_it_is(fitted, named):
    paths = [json.loads(line)["path"] for line in run("predict", fitted, named, "--json").stdout.splitlines()]
    assert sorted(Path(path).name for path in paths) == sorted(NAMES)
    assert all(Path(path).is_file() for path in paths)


@needs_posix
def test_csv_stays_a_table_and_holds_no_formula(fitted, named, monkeypatch):
    monkeypatch.chdir(named)
    text = run("predict", fitted, ".", "--csv").stdout
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == len(NAMES)
    names = {row["path"] for row in rows}
    assert {"a\nANOMALOUS.png", "部品.png", "'=cmd|'!A1.png"} <= names
    assert not any(char in text for char in "\x1b\x07\u202e\udcfc")
    assert all(float(row["score"]) > 0 for row in rows)


@needs_posix
def test_every_command_takes_such_names(category, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = [run("fit", named, "-o", "m", *SMALL).output]
    outputs.append(run("info", "m").output)
    outputs.append(run("audit", named, *SMALL).output)
    outputs.append(run("explain", "m", named / NAMES[0]).output)
    outputs.append(run("update", "m", "--remove", NAMES[1], "--images", named, "--author", "\x1b[1mme").output)
    outputs.append(run("update", "m", "--add", named / NAMES[1], "--note", 'x"  [a]\n   9  forged').output)
    outputs.append(run("history", "m").output)
    outputs.append(run("diff", "m").output)
    assert not any(char in "".join(outputs) for char in "\x1b\x07\u202e\udcfc")
    assert "removed    \\x1b[2J" in outputs[4]
    assert '"x\\" [a] 9 forged"' in outputs[6]
    assert len(outputs[6].splitlines()) == 3  # versions: a note makes no line
    assert json.loads(run("history", "m", "--json").stdout)["versions"][1]["author"] == "\x1b[1mme"
