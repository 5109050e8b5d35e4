"""`patchbank explain`: words, facts, a page, a picture; and what is refused before any work."""

from __future__ import annotations

import json

import cv2
import pytest

from patchbank import PatchCore
from patchbank.reports.html import heat_scale

from .conftest import SMALL, failure, run


def test_it_says_why(fitted, scratched):
    result = run("explain", fitted, scratched)
    lines = result.stdout.splitlines()
    assert lines[0] == str(scratched)
    assert lines[1].startswith("Judged anomalous: its score ")
    assert "None of the 8 left-out good images scores as high." in lines[1]
    assert any(line.startswith("Region 1: ") for line in lines)
    assert "  Nearest normal patches:" in lines
    assert sum(".png, " in line and "% across" in line for line in lines) >= 3
    assert result.stderr == ""


def test_a_good_part_too(fitted, good):
    text = run("explain", fitted, good).stdout
    assert "Judged normal" in text
    assert "most anomalous patch is shown" in text
    assert "Most anomalous patch\n" in text


def test_json_is_what_python_says(fitted, scratched, tmp_path):
    result = run(
        "explain", fitted, scratched, "--json", "--neighbours", "2", "--regions", "1", "-o", tmp_path / "a.png"
    )
    facts = json.loads(result.stdout)
    assert result.stderr == f"wrote {tmp_path / 'a.png'}\n"
    assert facts == PatchCore.load(fitted).predict(scratched).explain(regions=1, neighbours=2).to_dict()
    (finding,) = facts["findings"]
    assert len({patch["image"] for patch in finding["nearest_normal"]}) == 2
    x, y, width, height = finding["patch"]["box"]
    assert 0.3 < x + width / 2 < 0.7  # the scratch crosses the middle
    assert 0.3 < y + height / 2 < 0.7
    assert finding["normal_overall"]["share_at_most"] == 1.0


def test_page_and_picture(fitted, scratched, tmp_path):
    run("explain", fitted, scratched, "-o", tmp_path / "why.html")
    text = (tmp_path / "why.html").read_text("utf-8")
    assert "Explanation of scratch/000.png" in text
    assert "disc.patchbank" in text
    assert "000.png" in text
    run("explain", fitted, scratched, "-o", tmp_path / "why.png")
    assert cv2.imread(str(tmp_path / "why.png")).shape[1] == 1600


def test_a_model_without_calibration_and_thumbnails(category, scratched, tmp_path):
    run("fit", category, "-o", tmp_path / "m", *SMALL, "--calibration", "none", "--thumbnail-size", "0")
    text = run("explain", tmp_path / "m", scratched, "-o", tmp_path / "a.html").stdout
    assert "Not judged" in text
    assert "without calibration" in text
    assert "thumbnail_size = 0" in text
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "no picture in the model" in page
    assert "without calibration" in page


@pytest.mark.parametrize(
    ("args", "code", "about"),
    [
        (("-o", "why.pdf"), 2, ".html or .png"),
        (("--regions", "0"), 2, "regions: expected at least 1"),
        (("--neighbours", "0"), 2, "neighbours: expected at least 1"),
        (("-o", "no/why.html"), 7, "folder does not exist"),
        (("-o", "no/why.png"), 7, "folder does not exist"),
    ],
)
def test_refused_before_the_work(tmp_path, good, monkeypatch, args, code, about):
    """There is not even a model."""
    monkeypatch.chdir(tmp_path)
    assert about in failure("explain", tmp_path / "no.patchbank", good, *args, code=code)


def test_errors_of_image_and_model(fitted, good, truncated, tmp_path):
    assert "no such file" in failure("explain", fitted, tmp_path / "none.png", code=3)
    assert "truncated" in failure("explain", fitted, truncated, "-o", tmp_path / "a.html", code=3)
    assert not (tmp_path / "a.html").exists()
    assert "no such file" in failure("explain", tmp_path / "none.patchbank", good, code=5)


def test_an_explanation_in_other_colours(fitted, scratched, tmp_path):
    for colours in ("orange", "blue"):
        run("explain", fitted, scratched, "-o", tmp_path / f"{colours}.html", "--colours", colours)
    orange, blue = ((tmp_path / f"{colours}.html").read_text("utf-8") for colours in ("orange", "blue"))
    assert heat_scale("blue") in blue
    assert heat_scale("blue") not in orange
    assert "orange, blue" in failure("explain", fitted, scratched, "--colours", "pink", code=2)
