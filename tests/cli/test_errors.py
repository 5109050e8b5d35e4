"""What a user sees when something is wrong: one line, the right exit code, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from patchbank import errors
from patchbank.cli.app import app
from patchbank.model_file import archive as artifact
from patchbank.results.result import Result
from patchbank.scoring import scores as scoring

from .conftest import SMALL, failure, run

PATCHBANK = (sys.executable, "-m", "patchbank")


# --- bad input ---


def test_nothing_there(fitted, good, tmp_path):
    missing = tmp_path / "missing"
    assert "nothing is there" in failure("fit", missing, "-o", tmp_path / "m", code=3)
    assert "nothing is there" in failure("predict", fitted, missing, code=3)
    assert "no such file" in failure("predict", missing, good, code=5)
    assert "no such file" in failure("info", missing, code=5)
    assert "nothing is there" in failure("evaluate", fitted, missing, code=3)
    assert "no folder is there" in failure("benchmark", missing, code=3)


def test_an_empty_folder(fitted, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "found none" in failure("fit", tmp_path / "empty", "-o", tmp_path / "m", code=3)
    assert "found none" in failure("predict", fitted, tmp_path / "empty", code=3)
    assert "found none" in failure("benchmark", tmp_path / "empty", code=3)
    assert not (tmp_path / "m").exists()


def test_a_folder_of_nothing_but_a_truncated_jpeg(fitted, truncated, tmp_path):
    line = failure("fit", truncated.parent, "-o", tmp_path / "m", code=3)
    assert "all 1 were unusable" in line
    assert "cut.jpg: is truncated" in line
    result = run("predict", fitted, truncated.parent, "--json", code=3)
    assert result.stdout == ""
    assert "1 image could not be used" in result.stderr


def test_evaluating_on_training_images_only(fitted, category):
    assert "only training images" in failure("evaluate", fitted, category / "train/good", code=3)


def test_too_few_images(category, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "a.png").write_bytes((category / "train/good/000.png").read_bytes())
    assert "at least 2 images" in failure("fit", folder, "-o", tmp_path / "m", *SMALL, code=3)


def test_not_an_image(fitted, tmp_path):
    (tmp_path / "a.png").write_text("hello")
    result = run("predict", fitted, tmp_path / "a.png", code=3)
    assert "a.png: is damaged, or not an image" in result.stderr


# --- options ---


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--sampler", "greedy"), "sampler: expected one of identity, random"),
        (("--image-size", "big"), "image_size: expected one number or HEIGHTxWIDTH"),
        (("--coreset-ratio", "2"), "coreset_ratio: expected more than 0 and at most 1"),
        (("--max-false-alarms", "-0.5"), "max_false_alarms: expected at least 0"),
        (("--num-neighbours", "50"), "lower k or enlarge the bank"),
    ],
)
def test_impossible_options(category, tmp_path, flags, says):
    assert says in failure("fit", category, "-o", tmp_path / "m", *SMALL, *flags, code=2)
    assert not (tmp_path / "m").exists()


def test_no_threshold_without_held_out_scores(category, tmp_path):
    run("fit", category, "-o", tmp_path / "m", *SMALL, "--calibration", "none")
    assert "has no held-out scores; fit it again" in failure("threshold", tmp_path / "m", code=2)


def test_an_impossible_threshold_writes_nothing(fitted, tmp_path):
    for flags, says in ((("--max-false-alarms", "1"), "at most 0.5"), (("--confidence", "1"), "at most 0.999999")):
        assert says in failure("threshold", fitted, *flags, "-o", tmp_path / "m", code=2)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("corset_size = 3\n", "unknown option 'corset_size'"),
        ("false_alarm_rate = 0.01\n", "it is called max_false_alarms now"),
        ("coreset_size = 'many'\n", "coreset_size: expected int"),
        ("coreset_size = = 3\n", "is not valid TOML"),
        ("[fit]\ncoreset_size = 3\n", "unknown option 'fit'"),
    ],
)
def test_a_bad_configuration_file(category, tmp_path, text, says):
    file = tmp_path / "a.toml"
    file.write_text(text)
    assert says in failure("fit", category, "-o", tmp_path / "m", "--config", file, code=2)


def test_a_configuration_file_that_is_not_there(category, tmp_path):
    assert "cannot read" in failure("fit", category, "-o", tmp_path / "m", "--config", tmp_path / "no.toml", code=2)


def test_json_and_csv_exclude_each_other(fitted, good):
    assert "got both" in failure("predict", fitted, good, "--json", "--csv", code=2)


def test_unknown_backbone_layer_and_device(category, fitted, good, tmp_path):
    fit = ("fit", category, "-o", tmp_path / "m", *SMALL)
    assert "efficientnet_lite0" in failure(*fit, "--backbone", "alexnet", code=4)
    assert "blocks.2" in failure(*fit, "--layers", "layer2", code=4)
    assert "cpu" in failure("predict", fitted, good, "--device", "abacus", code=4)
    assert "alexnet" in failure("backbones", "show", "alexnet", code=4)
    assert "alexnet" in failure("backbones", "fetch", "alexnet", code=4)
    assert "no.onnx" in failure("backbones", "show", tmp_path / "no.onnx", code=4)


def test_fetch_offline_says_which_file_to_put_where(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("PATCHBANK_CACHE", str(tmp_path))
    line = failure("backbones", "fetch", "resnet18", code=4)
    assert str(tmp_path / "resnet18-f37072fd.pth") in line
    assert "resnet18-f37072fd.pth elsewhere" in line
    assert list(tmp_path.iterdir()) == []


def test_missing_extras_say_what_to_install(monkeypatch, tmp_path):
    for module in ("torch", "timm"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    line = failure("backbones", "export", "resnet18", "-o", tmp_path / "a.onnx", code=6)
    assert "pip install 'patchbank[torch]'" in line
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    assert "pip install 'patchbank[demo]'" in failure("demo", "--out", tmp_path / "demo", code=6)
    assert list(tmp_path.iterdir()) == []


# --- model files ---


def test_a_file_that_is_no_model(good, tmp_path):
    (tmp_path / "m").write_text("hello")
    assert "not a whole model file" in failure("predict", tmp_path / "m", good, code=5)
    (tmp_path / "m").write_bytes(b"")
    assert "model file" in failure("info", tmp_path / "m", code=5)
    failure("info", tmp_path, code=5)


def test_a_truncated_and_a_corrupt_model(fitted, good, tmp_path):
    data = bytearray(fitted.read_bytes())
    path = tmp_path / "m.patchbank"
    path.write_bytes(data[: len(data) // 2])
    assert "truncated" in failure("predict", path, good, code=5)
    with zipfile.ZipFile(fitted) as archive:
        start = archive.getinfo("bank.safetensors").header_offset
    data[start + 5000] ^= 1
    path.write_bytes(data)
    assert "bank.safetensors is damaged" in failure("predict", path, good, code=5)


def test_a_model_of_the_future(fitted, good, tmp_path, monkeypatch):
    stored = artifact.ModelFile(fitted)
    entries = {name: bytes(stored.entry(name)) for name in stored.manifest["entries"]}
    manifest = {k: v for k, v in stored.manifest.items() if k not in ("format", "format_version", "entries")}
    version = artifact.FORMAT_VERSION + 1
    monkeypatch.setattr(artifact, "FORMAT_VERSION", version)
    artifact.write(tmp_path / "m", manifest, entries)
    monkeypatch.undo()
    line = failure("predict", tmp_path / "m", good, code=5)
    assert f"format version {version}" in line
    assert "upgrade patchbank" in line


# --- output ---


def test_output_into_a_missing_folder_is_refused_before_the_work(category, tmp_path, monkeypatch):
    monkeypatch.setattr("patchbank.model.PatchCore.fit", lambda *a, **k: pytest.fail("worked first"))
    line = failure("fit", category, "-o", tmp_path / "no" / "m", code=7)
    assert "folder does not exist" in line
    assert "got a folder" in failure("fit", category, "-o", tmp_path, code=7)


def test_output_where_nobody_may_write(category, fitted, good, tmp_path, monkeypatch):
    real = Path.open

    def refuse(self, mode="r", *args, **kwargs):
        if set(mode) & set("wxa"):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in failure("fit", category, "-o", tmp_path / "m", code=7)


def test_predict_out_onto_a_file(fitted, good, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert "a file has that name" in failure("predict", fitted, good, "--out", tmp_path / "out", code=7)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_full_disk_keeps_the_old_model_and_leaves_nothing(category, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    model = tmp_path / "m.patchbank"
    model.write_text("the old one")
    monkeypatch.setattr("patchbank.util.files.os.fsync", full)
    line = failure("fit", category, "-o", model, *SMALL, code=7)
    assert "No space left on device" in line
    assert model.read_text() == "the old one"
    assert os.listdir(tmp_path) == ["m.patchbank"]  # noqa: PTH208


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full (Linux)")
def test_a_full_disk_behind_stdout(fitted, good):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [*PATCHBANK, "predict", str(fitted), str(good), "--json"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == errors.OutputError.exit_code
    assert len(done.stderr.splitlines()) == 1
    assert "No space left on device" in done.stderr


def test_a_closed_pipe_is_no_error(fitted, good):
    reader = subprocess.Popen(
        [*PATCHBANK, "predict", str(fitted), *[str(good)], "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    reader.stdout.close()
    stderr = reader.stderr.read()
    reader.stderr.close()
    assert reader.wait(60) == 0
    assert stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full (Linux)")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_cannot_be_printed_is_no_anomaly(stream):
    """1 says that an anomaly was found; help, versions and usage errors are printed by others than the commands."""
    arguments = ["--version"] if stream == "stdout" else ["predict"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run([*PATCHBANK, *arguments], **{"stdout": subprocess.PIPE, stream: full}, check=False)
    assert done.returncode == errors.OutputError.exit_code


def test_a_help_page_whose_reader_has_gone_is_no_anomaly():
    reader = subprocess.Popen([*PATCHBANK, "tune", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    reader.stdout.close()
    stderr = reader.stderr.read()
    reader.stderr.close()
    assert reader.wait(60) == 0
    assert stderr == b""


# --- Ctrl-C ---


def test_ctrl_c_while_fitting(category, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("patchbank.model.PatchCore.fit", interrupted)
    assert "interrupted" in failure("fit", category, "-o", tmp_path / "m", code=130)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_ctrl_c_while_saving_leaves_no_partial_file(category, tmp_path, monkeypatch):
    real = zipfile.ZipFile.writestr

    def interrupted(self, info, data):
        if info.filename == "bank.safetensors":
            raise KeyboardInterrupt
        return real(self, info, data)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", interrupted)
    assert "interrupted" in failure("fit", category, "-o", tmp_path / "m", *SMALL, code=130)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_ctrl_c_among_predictions_keeps_the_lines_that_were_printed(fitted, category, monkeypatch):
    real, seen = Result.to_dict, []

    def interrupted(result):  # in the main thread, as Ctrl-C is
        seen.append(result)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(result)

    monkeypatch.setattr(Result, "to_dict", interrupted)
    result = CliRunner().invoke(app, ["predict", str(fitted), str(category / "test"), "--json"])
    assert result.exit_code == 130
    assert len([json.loads(line) for line in result.stdout.splitlines()]) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_real_sigint_ends_in_one_line_and_the_next_fit_is_whole(category, fitted, tmp_path):
    """A process gets SIGINT while it reads its fourth image; run again, it makes the very file it would have made."""
    script = (
        "import os, signal, patchbank.imaging.images as images, patchbank.features.extract as training\n"
        "real, seen = images.read_image, []\n"
        "def read(source, *format):\n"
        "    seen.append(source)\n"
        "    if len(seen) == 4: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(source, *format)\n"
        "training.read_image = images.read_image = read\n"
        "import patchbank.cli; patchbank.cli.main()\n"
    )
    model = tmp_path / "disc.patchbank"
    done = subprocess.run(
        [sys.executable, "-c", script, "fit", str(category), "-o", str(model), *SMALL],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == 130
    assert done.stdout == ""
    assert [line[:22] for line in done.stderr.splitlines()] == ["patchbank: interrupted"]
    assert not model.exists()
    again = run("fit", category, "-o", model, *SMALL)
    assert "resumed at image " in again.stderr
    assert model.read_bytes() == fitted.read_bytes()
    assert os.listdir(tmp_path) == ["disc.patchbank"]  # noqa: PTH208


# --- debug, exit codes, machine-readable output ---


def test_debug_adds_the_traceback_and_keeps_the_exit_code(tmp_path):
    plain = subprocess.run([*PATCHBANK, "info", str(tmp_path / "m")], capture_output=True, text=True)
    debug = subprocess.run([*PATCHBANK, "info", str(tmp_path / "m"), "--debug"], capture_output=True, text=True)
    assert plain.returncode == debug.returncode == 5
    assert len(plain.stderr.splitlines()) == 1
    assert "Traceback (most recent call last)" in debug.stderr
    assert debug.stderr.splitlines()[-1] == plain.stderr.splitlines()[0]


def test_a_bug_is_never_mistaken_for_a_found_anomaly(fitted, good, monkeypatch):
    """Exit code 1 is the verdict of --fail-on-anomaly: an exception that nobody foresaw must have another."""

    def broken(*args, **kwargs):
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(scoring, "patch_scores", broken)
    result = run("predict", fitted, good, "--fail-on-anomaly", code=errors.PatchbankError.exit_code)
    assert "ZeroDivisionError: surprise" in result.stderr
    assert "report" in result.stderr.splitlines()[-1]


def test_exit_codes_are_those_that_errors_py_promises():
    classes = {n: c for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, Exception)}
    documented = {}
    for line in errors.__doc__.splitlines():
        words = line.replace("│", " ").replace("├──", " ").replace("└──", " ").split()
        if len(words) > 1 and words[0] in classes and words[1].isdigit():
            documented[words[0]] = int(words[1])
    assert documented == {n: c.exit_code for n, c in classes.items() if n != "PatchbankError"}
    assert 1 not in {c.exit_code for c in classes.values()}


def test_usage_errors_have_exit_code_2(fitted):
    for args in (["fit"], ["predict", str(fitted)], ["nonsense"], ["predict", "--nonsense"]):
        assert CliRunner().invoke(app, args).exit_code == 2


def test_stdout_of_a_real_process_is_clean_json(fitted, category, mixed):
    done = subprocess.run(
        [*PATCHBANK, "predict", str(fitted), str(mixed), "--json"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    scores = [json.loads(line)["score"] for line in done.stdout.splitlines()]
    assert len(scores) == 6
    assert np.isfinite(scores).all()
    assert len(done.stderr.splitlines()) == 2


def test_an_unknown_preset_names_the_known_ones(category, tmp_path):
    assert "fast, balanced, accurate" in failure("fit", category, "-o", tmp_path / "m", "--preset", "best", code=2)


def test_a_time_budget_of_nothing(category):
    assert "--budget-ms" in failure("tune", category, "--budget-ms", "0", code=2)


def test_a_plot_without_its_extra_names_the_command_that_installs_it(category, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # importing it fails
    assert "pip install 'patchbank[plot]'" in failure("tune", category, "--plot", tmp_path / "t.png", code=6)
