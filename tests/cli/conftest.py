"""The command line on synthetic parts, with the real default network at small sizes. One model serves all tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from parts import noisy
from patchbank.cli.app import app

SMALL = ("--image-size", "64", "--coreset-size", "40")


def part(rng, defect=False, size=(72, 96)):
    """A grey disc on a bright table; the defect is a dark scratch across it."""
    image = np.full((*size, 3), 200, np.float64)
    cv2.circle(image, (size[1] // 2, size[0] // 2), 28, (120, 110, 100), -1)
    if defect:
        cv2.line(image, (size[1] // 2 - 14, size[0] // 2 - 4), (size[1] // 2 + 14, size[0] // 2 + 6), (0, 0, 0), 5)
    return noisy(image, rng, 3)


def mask(size=(72, 96)):
    image = np.zeros(size, np.uint8)
    cv2.line(image, (size[1] // 2 - 14, size[0] // 2 - 4), (size[1] // 2 + 14, size[0] // 2 + 6), 255, 5)
    return image


def write(path: Path, image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def make_category(root: Path, rng, train=8, good=4, bad=4) -> Path:
    for number in range(train):
        write(root / f"train/good/{number:03d}.png", part(rng))
    for number in range(good):
        write(root / f"test/good/{number:03d}.png", part(rng))
    for number in range(bad):
        write(root / f"test/scratch/{number:03d}.png", part(rng, defect=True))
        write(root / f"ground_truth/scratch/{number:03d}_mask.png", mask())
    return root


def run(*args, code=0, stdin=None):
    """Runs a command in this process; the exit code must be `code`. stdin: what stands on standard input."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def failure(*args, code, stdin=None):
    """Runs a command that must fail: nothing on stdout, exactly one line on stderr, which is returned."""
    result = run(*args, code=code, stdin=stdin)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("patchbank: ")
    return lines[0]


@pytest.fixture(scope="session")
def category(tmp_path_factory) -> Path:
    """A data set in MVTec AD layout: 8 good parts to learn, 4 good and 4 scratched ones to test, with masks."""
    return make_category(tmp_path_factory.mktemp("data") / "disc", np.random.default_rng(7))


@pytest.fixture(scope="session")
def fitted(category, tmp_path_factory) -> Path:
    """A model file of the category, written by `patchbank fit`."""
    path = tmp_path_factory.mktemp("model") / "disc.patchbank"
    run("fit", category, "-o", path, *SMALL)
    return path


@pytest.fixture
def good(category) -> Path:
    return category / "test/good/000.png"


@pytest.fixture
def scratched(category) -> Path:
    return category / "test/scratch/000.png"


@pytest.fixture
def truncated(tmp_path, category) -> Path:
    """A JPEG that ends in its middle."""
    whole = write(tmp_path / "whole.jpg", cv2.imread(str(category / "train/good/000.png")))
    path = tmp_path / "truncated" / "cut.jpg"
    path.parent.mkdir()
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.unlink()
    return path


@pytest.fixture
def mixed(tmp_path, category, truncated) -> Path:
    """A folder of six good images and a truncated one."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in sorted((category / "train/good").iterdir())[:6]:
        shutil.copy(path, folder)
    shutil.copy(truncated, folder / "cut.jpg")
    return folder
