"""What `patchbank fit` says about training images that look defective."""

from __future__ import annotations

import json

import numpy as np
import pytest

from .conftest import part, run, write

SMALL = ("--image-size", "64", "--coreset-size", "40")


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """A folder of 24 good parts, one of which is scratched."""
    folder, rng = tmp_path_factory.mktemp("spoilt"), np.random.default_rng(5)
    for number in range(24):
        write(folder / f"{number:02d}.png", part(rng, defect=number == 11))
    return folder


def test_fit_names_what_looks_defective(spoilt, tmp_path):
    result = run("fit", spoilt, "-o", tmp_path / "m", *SMALL)
    assert "1 of 24 training images looks defective and taught that this is normal:" in result.stderr
    assert "  11.png: score " in result.stderr
    assert "--drop-outliers" in result.stderr
    assert "defective" not in result.stdout


def test_fit_drops_it_and_says_so(spoilt, tmp_path):
    result = run("fit", spoilt, "-o", tmp_path / "m", *SMALL, "--drop-outliers")
    assert "left out 1 of 24 training images, which look defective:\n  11.png: score " in result.stderr
    assert "taught" not in result.stderr
    assert ": 23 images, " in result.stdout
    manifest = json.loads(run("info", tmp_path / "m", "--json").stdout)
    assert [each["name"] for each in manifest["dropped"]] == ["11.png"]
    assert manifest["config"]["drop_outliers"] is True
    assert "11.png" not in manifest["bank"]["images"]


def test_the_flag_wins_over_the_file(spoilt, tmp_path):
    (tmp_path / "c.toml").write_text("drop_outliers = true\n")
    kept = run("fit", spoilt, "-o", tmp_path / "m", *SMALL, "--config", tmp_path / "c.toml", "--no-drop-outliers")
    assert ": 24 images, " in kept.stdout
    left = run("fit", spoilt, "-o", tmp_path / "m", *SMALL, "--config", tmp_path / "c.toml")
    assert ": 23 images, " in left.stdout
