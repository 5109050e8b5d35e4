"""What `patchbank fit` says about training images that look defective, and `patchbank audit`."""

from __future__ import annotations

import json
import shlex
import shutil

import numpy as np
import pytest

from .conftest import failure, part, run, write

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
    assert f"patchbank audit {spoilt} -o audit.html" in result.stderr
    assert "--drop-outliers" in result.stderr
    assert "defective" not in result.stdout


def test_fit_drops_it_and_says_so(spoilt, tmp_path):
    result = run("fit", spoilt, "-o", tmp_path / "m", *SMALL, "--drop-outliers")
    assert "left out 1 of 24 training images, which looks defective:\n  11.png: score " in result.stderr
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


def test_audit_of_a_folder(spoilt, tmp_path):
    result = run("audit", spoilt, *SMALL, "-o", tmp_path / "a.html")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("11.png  ")
    assert "unlike the other images at the marked place (score " in result.stdout
    assert lines[-1] == "1 of 24 images is odd, the oddest first"
    assert f"wrote {tmp_path / 'a.html'}" in result.stderr
    page = (tmp_path / "a.html").read_text()
    assert f"Audit of {spoilt.name}" in page
    assert page.count("<img") == 2 + 12
    ranking = lines[lines.index("") + 2 : -1]
    assert [line.split()[0] for line in ranking] == [str(rank) for rank in range(1, 13)]
    assert ranking[0].split()[2:4] == ["odd", "11.png"]
    assert "odd" not in ranking[1].split()
    removal = f"patchbank update MODEL --remove 11.png --images {spoilt}"
    assert removal in page
    assert removal in result.stderr


def test_the_commands_of_an_audit_can_be_run(spoilt, tmp_path):
    run("fit", spoilt, "-o", tmp_path / "m.patchbank", *SMALL)
    said = run("audit", tmp_path / "m.patchbank").stderr
    (line,) = [line for line in said.splitlines() if line.startswith("  patchbank update")]
    words = [str(spoilt) if word == "DIR" else word for word in shlex.split(line)]
    run(*words[1:])
    (removed,) = json.loads(run("history", tmp_path / "m.patchbank", "--json").stdout)["versions"][-1]["removed"]
    assert removed["name"] == "11.png"


def test_of_two_copies_one_is_offered_for_removal(tmp_path):
    rng = np.random.default_rng(3)
    for number in range(12):
        write(tmp_path / f"parts/{number:02d}.png", part(rng))
    shutil.copy(tmp_path / "parts/04.png", tmp_path / "parts/90.png")
    said = run("audit", tmp_path / "parts", *SMALL).stderr
    assert said.count("--remove") == 1


def test_audit_of_a_model_as_json(spoilt, tmp_path):
    run("fit", spoilt, "-o", tmp_path / "m.patchbank", *SMALL)
    found = json.loads(run("audit", tmp_path / "m.patchbank", "--json").stdout)
    assert len(found["images"]) == 24
    assert found["images"][0]["name"] == "11.png"
    assert "defect" in {each["kind"] for each in found["images"][0]["oddities"]}
    assert found["images"][0]["severity"] > 1 > found["images"][1]["severity"]


def test_audit_refuses_what_it_cannot_do(spoilt, tmp_path):
    run("fit", spoilt, "-o", tmp_path / "m.patchbank", *SMALL, "--calibration", "none")
    assert "holds no scores" in failure("audit", tmp_path / "m.patchbank", code=2)
    assert "is a model" in failure("audit", tmp_path / "m.patchbank", "--image-size", "64", code=2)
    assert ".html" in failure("audit", spoilt, "-o", tmp_path / "a.png", code=2)
