"""The explanation as a page and as a picture: whole, safe against hostile names, the same facts on both."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest

from pages import Page
from patchbank.errors import OutputError
from patchbank.imaging import drawing
from patchbank.inspection.explain import Explanation
from patchbank.reports import explanation_text as said
from patchbank.reports.explanation_page import write_page
from patchbank.reports.explanation_sheet import WIDTH, sheet, write_sheet
from patchbank.results.explanation import Finding, NormalPatch
from patchbank.results.verdict import Verdict
from patchbank.scoring.normal_distances import NormalDistances
from patchbank.scoring.regions import Region

REGION = Region((30, 20, 8, 6), np.array([[30, 20], [37, 20], [37, 25], [30, 25]], np.int32), 48, (33, 22), 5.5)
NORMAL = NormalDistances.of([(np.linspace(0.5, 2, 64, dtype=np.float32).reshape(8, 8), None)])
JPEG = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
MEDIAN = NORMAL.everywhere().median
NOON = datetime(2024, 5, 6, 12, 0, tzinfo=UTC)


def patch(name="good/1.png", distance=4.0, thumbnail=JPEG) -> NormalPatch:
    return NormalPatch(name, 3, 4, (8, 8), distance, thumbnail, (0.5, 0.375, 0.125, 0.125), (0.25, 0.125, 0.5, 0.5))


def finding(region=REGION, neighbours=None, **change) -> Finding:
    picture = np.full((48, 64, 3), 200, np.uint8)
    neighbours = (patch(), patch("good/2.png", 4.5), patch("good/3.png", 5)) if neighbours is None else neighbours
    mark, close = (0.5, 0.375, 0.125, 0.125), (0.25, 0.125, 0.5, 0.5)
    return Finding(
        **{
            "region": region,
            "row": 3,
            "column": 4,
            "grid": (8, 8),
            "score": 4.0,
            "here": NORMAL.at(0.5, 0.5),
            "overall": NORMAL.everywhere(),
            "neighbours": neighbours,
            "mark": mark,
            "close": close,
            "around": (0.0, 0.0, 1.0, 1.0),
            "close_picture": picture,
            "around_picture": picture,
        }
        | change
    )


def explanation(**change) -> Explanation:
    picture = np.full((48, 64, 3), 128, np.uint8)
    values = {
        "path": "line/parts/042.png",
        "score": 3.0,
        "threshold": 2.0,
        "pixel_threshold": 1.5,
        "is_anomalous": True,
        "image_size": (48, 64),
        "regions": (REGION,),
        "findings": (finding(),),
        "good_scores": np.array([0.5, 1, 1.5], np.float32),
        "notes": (),
        "picture": picture,
        "overlay": picture,
    }
    return Explanation(**values | change)


def page(path: Path, one: Explanation, model: str | None = "m.patchbank") -> Page:
    write_page(path, one, model, NOON)
    found = Page(path)
    assert found.open == []  # every element is closed
    return found


def test_the_page_tells_all_facts(tmp_path):
    found = page(tmp_path / "a.html", explanation())
    text = found.text["body"]
    for told in (
        "Explanation of parts/042.png",
        "2024-05-06 12:00 UTC",
        "score 3 is over the threshold 2 (1.50 times)",
        "None of the 3 left-out good images scores as high",
        "m.patchbank",
        "Region 1: 8 × 6 px at (30, 20)",
        "has a distance of 4 to the nearest normal patch",
        "Farther than all 64 normal patches anywhere, 2.0 times the largest",
        "Normal 1: distance 4",
        "Normal 3: distance 5",
        "good/2.png",
        "56 % across and 44 % down",
    ):
        assert told in text, told
    pictures = [image["alt"] for image in found.all("img")]
    assert len(pictures) == 2 + 1 + 2 + 3 * 2  # overview; region; inspected, and where; three normal ones likewise
    assert all(pictures)
    assert "line/" not in found.source  # the path beyond the last folder says nothing but whose machine it was


def test_the_chart_says_in_words_what_it_shows(tmp_path):
    found = page(tmp_path / "a.html", explanation())
    (chart,) = (svg for svg in found.all("svg") if svg.get("role") == "img")
    assert str(chart["aria-label"]).startswith("Distance 4 against normal distances. Farther than all")
    assert "this patch 4" in found.text["svg"]
    assert "Anywhere (64)" in found.text["svg"]


HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>&amp;.png"


def test_hostile_names_stay_text(tmp_path):
    """Names of training images come from a model file, that of the inspected image from anywhere."""
    name = HOSTILE.replace("/", "⁄")  # a file's name has no slash
    found = page(
        tmp_path / "a.html",
        explanation(path=name, notes=(HOSTILE,), findings=(finding(neighbours=(patch(HOSTILE),)),)),
        HOSTILE,
    )
    assert found.all("script") == []
    assert len(found.all("img")) == 2 + 1 + 2 + 2
    assert not [key for _, attributes in found.elements for key in attributes if key.startswith("on")]
    assert name in found.text["h1"]
    assert HOSTILE in found.text["ul"]
    assert HOSTILE in found.text["figcaption"]
    assert f"Inspected with {HOSTILE}" in found.text["section"]


def test_nothing_is_loaded_and_nothing_runs(tmp_path):
    found = page(tmp_path / "a.html", explanation())
    policy = next(m["content"] for m in found.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )
    for _, attributes in found.elements:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in found.source
    assert found.all("script") == []


def test_a_good_part_without_regions(tmp_path):
    one = explanation(
        is_anomalous=False, score=1.0, regions=(), findings=(finding(None, score=MEDIAN),), notes=("No part is over.",)
    )
    text = page(tmp_path / "a.html", one).text["body"]
    assert "Judged normal: its score 1 is not over the threshold 2" in text
    assert "2 of the 3 left-out good images score at least as high" in text
    assert "No part is over." in text
    assert "Most anomalous patch" in text
    assert "At least as far as 50 % of the 64 normal patches anywhere" in text


def test_without_calibration_and_thumbnails(tmp_path):
    bare = finding(None, (patch(thumbnail=None),), here=None, overall=None)
    one = explanation(
        threshold=None, pixel_threshold=None, is_anomalous=None, regions=(), good_scores=None, findings=(bare,)
    )
    found = page(tmp_path / "a.html", one)
    assert "Not judged: the model has no threshold" in found.text["body"]
    assert "no picture in the model" in found.text["body"]
    assert found.all("svg") == []
    assert "of the threshold" not in found.text["body"]
    assert sheet(one, None, NOON).shape[1] == WIDTH


@pytest.mark.parametrize("score", [0.0, 1e-30, 1e30])
def test_odd_numbers_do_not_stop_the_page(tmp_path, score):
    zero = NormalDistances.of([(np.zeros((2, 2), np.float32), None)]).everywhere()
    one = explanation(
        score=score, threshold=0.0, findings=(finding(score=score, here=None), finding(score=score, here=zero))
    )
    found = page(tmp_path / "a.html", one)
    assert "No normal patch counted around this place" in found.text["body"]
    assert sheet(one, None, NOON).shape[1] == WIDTH


def test_a_share_is_never_rounded_up_to_all():
    normal = NormalDistances.of([(np.arange(10_000, dtype=np.float32).reshape(100, 100), None)]).everywhere()
    assert "99.9 %" in said.comparison(normal, 9998.5, "anywhere")
    assert "At least as far as 100 %" in said.comparison(normal, 9999, "anywhere")
    assert "Farther than all 10,000 normal patches anywhere (median" in said.comparison(normal, 9999.5, "anywhere")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/x/good/1.png", "good/1.png"),
        ("1.png", "1.png"),
        ("/1.png", "1.png"),
        ("../1.png", "1.png"),
        ("image 7", "image 7"),
    ],
)
def test_short_names(path, name):
    assert said.short_name(path) == name


def test_names_that_are_no_unicode_do_not_stop_anything(tmp_path):
    one = explanation(path="caf\udce9.png", findings=(finding(neighbours=(patch("\udce9.png"),)),))
    assert "caf?.png" in page(tmp_path / "a.html", one).text["h1"]
    assert sheet(one, "\udce9", NOON).shape[1] == WIDTH


def test_the_same_explanation_makes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_page(tmp_path / f"{name}.html", explanation(), "m", NOON)
        write_sheet(tmp_path / f"{name}.png", explanation(), "m", NOON)
    for suffix in ("html", "png"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_a_failure_leaves_the_old_page(tmp_path):
    (tmp_path / "a.html").write_text("old")
    broken = dataclasses.replace(finding(), neighbours=(dataclasses.replace(patch(), image=None),))
    with pytest.raises((TypeError, AttributeError)):
        write_page(tmp_path / "a.html", explanation(findings=(broken,)), None)
    assert (tmp_path / "a.html").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    with pytest.raises(OutputError):
        write_page(tmp_path / "no" / "a.html", explanation(), None)


def test_the_page_is_small_whatever_comes(tmp_path, rng):
    """Noise is the worst for a JPEG: five regions with ten neighbours each stay under 10 MB."""
    noise = rng.integers(0, 256, (480, 480, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", noise[:256, :256])[1].tobytes()
    one = finding(neighbours=(patch(thumbnail=jpeg),) * 10, close_picture=noise, around_picture=noise)
    large = rng.integers(0, 256, (1200, 900, 3), np.uint8)
    write_page(tmp_path / "a.html", explanation(findings=(one,) * 5, picture=large, overlay=large), None)
    assert (tmp_path / "a.html").stat().st_size < 10e6


# --- the picture ---


def test_the_sheet_grows_with_what_it_shows():
    one = sheet(explanation(), "m.patchbank", NOON)
    assert one.dtype == np.uint8
    assert one.shape[1:] == (WIDTH, 3)
    two = sheet(explanation(findings=(finding(), finding())), "m.patchbank", NOON)
    assert two.shape[0] > one.shape[0] + 500
    many = sheet(explanation(findings=(finding(neighbours=(patch(),) * 8),)), "m.patchbank", NOON)
    assert many.shape[0] > one.shape[0] + 300  # a second row
    assert (one[:, :20] == 255).all()  # the margins are kept
    assert (one[:, -20:] == 255).all()


def test_the_sheet_shows_the_pictures():
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 250
    thumbnail = cv2.imencode(".png", red[:, :, ::-1])[1].tobytes()
    plain, coloured = (
        (sheet(explanation(findings=(finding(neighbours=(patch(thumbnail=t),)),)), None, NOON) == (250, 0, 0))
        .all(2)
        .sum()
        for t in (JPEG, thumbnail)
    )
    assert plain == 0
    assert coloured > 30_000


@pytest.mark.parametrize("opencv", [4, 5])
def test_text_with_either_opencv(monkeypatch, opencv):
    """OpenCV 4 has stroke fonts only, and no letters beyond ASCII."""
    if opencv == 5 and not hasattr(cv2, "FontFace"):
        pytest.skip("this is OpenCV 4")
    if opencv == 4:
        monkeypatch.setattr(drawing, "_font", lambda: None)
    picture = np.full((60, 400, 3), 255, np.uint8)
    drawing.text(picture, "Region 1: 8 × 6 px · ü", (10, 40), 20)
    width = drawing.text_width("Region 1: 8 × 6 px · ü", 20)
    columns = np.flatnonzero((picture < 128).any(axis=(0, 2)))
    assert 10 <= columns[0] < 16
    assert abs(columns[-1] - (10 + width)) < 8
    assert drawing.text_width("mm", 20, drawing.BOLD) > drawing.text_width("m", 20, drawing.BOLD)
    lines = drawing.wrapped("a word and another and averylongwordthatfitsnowhere", 90, 20)
    assert len(lines) > 3
    assert "".join(lines).replace(" ", "") == "awordandanotherandaverylongwordthatfitsnowhere"
    assert all(drawing.text_width(line, 20) <= 90 for line in lines)
    short = drawing.shortened("a/very/long/path/of/some/image/042.png", 150, 20)
    assert short.startswith("...")
    assert short.endswith("042.png")
    assert sheet(explanation(), "m", NOON).shape[1] == WIDTH


@pytest.mark.parametrize("letters", ["\udce9", "\0\n\t", "\u202e\u0301", "\U0010ffff", "字" * 5000, ""])
def test_any_name_can_be_drawn(letters):
    """OpenCV 5 crashes on half a surrogate pair."""
    picture = np.full((60, 400, 3), 255, np.uint8)
    drawing.text(picture, letters, (10, 40), 20)
    assert drawing.text_width(letters, 20) >= 0
    assert len(drawing.shortened(letters, 100, 20)) < 100


def test_marks_stay_inside():
    picture = np.zeros((40, 50, 3), np.uint8)
    drawing.badge(picture, "12", (-30, 90), 13)
    assert (picture == 255).all(axis=2).any()
    drawing.rectangle(picture, (-5, -5, 500, 500), drawing.MARK)
    tiny = np.zeros((3, 3, 3), np.uint8)
    drawing.badge(tiny, "1", (1, 1), 13)
    assert picture.shape == (40, 50, 3)


@pytest.mark.parametrize("verdict", [Verdict.OK, Verdict.REVIEW, Verdict.NG])
def test_page_and_sheet_tell_the_verdict_and_what_is_out_of_distribution(tmp_path: Path, verdict: Verdict) -> None:
    """A picture out of distribution was a red "anomalous", and nothing else."""
    one = explanation(verdict=verdict, unlike=("darker",), is_anomalous=verdict is Verdict.NG)
    write_page(tmp_path / "a.html", one, None)
    page = Page(tmp_path / "a.html")
    assert f'class="verdict {verdict}"' in page.source
    assert 'class="verdict strange"' in page.source
    assert ("For review" in page.text["p"]) == (verdict is Verdict.REVIEW)
    write_page(tmp_path / "b.html", explanation(verdict=verdict), None)
    assert 'class="verdict strange"' not in (tmp_path / "b.html").read_text("utf-8")
    write_sheet(tmp_path / "a.png", one, None)
    assert (tmp_path / "a.png").stat().st_size > 0
