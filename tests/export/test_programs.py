"""The programs of an exported folder, each in its own language: they agree with the library, and say so, or not."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exported import SIZE, fitted, headers, node_modules, pictures

from patchbank import export_onnx
from patchbank.imaging.images import write_png

STUB = Path(__file__).parent / "OnnxRuntimeStub.cs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model exported with reference images of every verdict."""
    rng = np.random.default_rng(0)
    model = fitted(rng, count=60, review_rate=0.5)
    images = [*pictures(rng), *(pictures(rng)[0] for _ in range(6))]
    target = tmp_path_factory.mktemp("exported")
    export_onnx(model, target, images=images)
    assert {row["verdict"] for row in rows_of(target)} == {1, 2, 3}
    return target


def rows_of(folder):
    return json.loads((folder / "reference.json").read_text("utf-8"))["images"]


def call(command, folder, code=0, env=None):
    """Runs a program in a folder; returns what it prints."""
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code < 2 else done.stderr


def check(command, folder, tmp_path, *, inspects=True):
    """What all of the programs do: compare, inspect, refuse. inspects: it really does, and is no stub."""
    rows = rows_of(folder)
    said = call(command, folder)
    assert said.splitlines()[-1] == f"{len(rows)} of {len(rows)} images agree"
    assert said.count("  agrees") == len(rows)
    for row in rows if inspects else rows[:1]:
        inspected = call([*command, folder / row["file"]], folder, code=int(row["verdict"] != 1))
        words = dict(re.findall(r"^(\S+) +(\S+)", inspected, flags=re.MULTILINE))
        assert words["verdict"] == {1: "OK", 2: "NG", 3: "REVIEW"}[row["verdict"]]
        assert float(words["score"]) == pytest.approx(row["score"], rel=1e-4)
        assert float(words["p-value"]) == pytest.approx(row["p_value"], abs=1e-5)
    small = tmp_path / "small.ppm"
    small.write_bytes(b"P6\n# a comment\n8 8 255\n" + bytes(8 * 8 * 3))
    assert "expected 128 x 96 pixels; got 8 x 8" in call([*command, small], folder, code=2)
    cut = tmp_path / "cut.ppm"
    cut.write_bytes((folder / rows[0]["file"]).read_bytes()[:-5])
    assert call([*command, cut], folder, code=2)
    for header in (b"P6", b"P6\n128 9", b"P6\n128 96 255", b"P6\n# without an end", b"P6\n128 -96 255\n"):
        cut.write_bytes(header)  # a program that waits for more never ends
        assert "cut.ppm" in call([*command, cut], folder, code=2)
    assert call([*command, tmp_path / "missing.ppm"], folder, code=2)


def check_difference(command, folder, tmp_path):
    """A graph that has changed since is noticed."""
    changed = shutil.copytree(folder, tmp_path / "changed", symlinks=True)
    for name in ("reference.json", "reference.csv"):
        text = (changed / name).read_text("utf-8")
        score = str(rows_of(folder)[0]["score"])
        assert score in text
        (changed / name).write_text(text.replace(score, str(float(score) * 1.001)))
    said = call([str(part).replace(str(folder), str(changed)) for part in command], changed, code=1)
    assert "DIFFERS" in said
    assert f"{len(rows_of(folder)) - 1} of {len(rows_of(folder))} images agree" in said


def without_patchbank(tmp_path) -> dict[str, str]:
    """An environment in which patchbank cannot be imported, and says so."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Never:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'patchbank':\n"
        "            raise RuntimeError('patchbank was imported')\n"
        "sys.meta_path.insert(0, Never())\n"
    )
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_python_without_patchbank(folder, tmp_path):
    env = without_patchbank(tmp_path)
    failed = subprocess.run([sys.executable, "-c", "import patchbank"], env=env, capture_output=True, text=True)
    assert "patchbank was imported" in failed.stderr  # the test of the test
    rows = rows_of(folder)
    said = call([sys.executable, folder / "inspect_image.py"], tmp_path, env=env)
    assert said.splitlines()[-1] == f"{len(rows)} of {len(rows)} images agree"
    check([sys.executable, folder / "inspect_image.py"], folder, tmp_path)
    check_difference([sys.executable, folder / "inspect_image.py"], folder, tmp_path)


def test_python_says_what_is_unlike_the_training_images(folder, tmp_path, rng):
    dark = tmp_path / "dark.png"
    write_png(dark, np.zeros((*SIZE, 3), np.uint8))
    said = call([sys.executable, folder / "inspect_image.py", dark], folder, code=1)  # by Pillow
    assert "not like the training images: brightness 0, normal" in said


def test_node(folder, tmp_path):
    node = node_modules("onnxruntime-node", folder)
    check([node, folder / "inspect_image.mjs"], folder, tmp_path)
    check_difference([node, folder / "inspect_image.mjs"], folder, tmp_path)


def test_cpp(folder, tmp_path):
    compiler, include = shutil.which("g++"), headers()
    if compiler is None:
        pytest.skip("no g++")
    files = importlib.metadata.files("onnxruntime") or []
    library = next((Path(f.locate()) for f in files if f.name.startswith("libonnxruntime.so.1")), None)
    if library is None:
        pytest.skip("this ONNX Runtime package has no library of its own")
    links = tmp_path / "lib"
    links.mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (links / name).symlink_to(library)
    program = folder / "inspect_image"
    strict = ["-O0", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-isystem{include}"]
    linked = [f"-L{links}", "-lonnxruntime", f"-Wl,-rpath,{links}"]
    call([compiler, *strict, folder / "inspect_image.cpp", *linked, "-o", program], folder)
    check([program, folder], folder, tmp_path)
    check_difference([program, folder], folder, tmp_path)
    assert "expected the folder that holds model.onnx" in call([program], folder, code=2)


def test_csharp(folder, tmp_path):
    """Compiled against the signatures of Microsoft.ML.OnnxRuntime. The package is not at hand where the tests run: a
    stub answers what reference.csv says."""
    compiler, mono = shutil.which("mcs"), shutil.which("mono")
    if compiler is None or mono is None:
        pytest.skip("no C# compiler: apt-get install mono-mcs mono-runtime")
    library = tmp_path / "Microsoft.ML.OnnxRuntime.dll"
    program = tmp_path / "InspectImage.exe"
    call([compiler, "-target:library", f"-out:{library}", STUB], tmp_path)
    call([compiler, f"-r:{library}", f"-out:{program}", folder / "InspectImage.cs"], tmp_path)
    check([mono, program, folder], folder, tmp_path, inspects=False)
    assert "expected the folder that holds model.onnx" in call([mono, program], folder, code=2)
