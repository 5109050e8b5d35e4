"""The report: one file, whole without network or script, safe against hostile names, small for any number of images."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from pages import Page
from patchbank.errors import OutputError
from patchbank.reports.inspection import PICTURE_BYTES, PICTURE_SIDE, ReportRow, write_report
from patchbank.results.result import MadeBy
from patchbank.scoring.regions import Region

REGION = Region((1, 2, 3, 4), np.array([[1, 2], [4, 2], [4, 6]], np.int32), 1234, (2, 3), 5.5)


def row(name: str = "a.png", score: float = 3.0, threshold: float | None = 2.0, **more: object) -> ReportRow:
    values: dict[str, object] = {
        "name": name,
        "score": score,
        "threshold": threshold,
        "is_anomalous": None if threshold is None else score > threshold,
        "image": np.full((20, 30, 3), 90, np.uint8),
        "overlay": np.full((20, 30, 3), 200, np.uint8),
    }
    return ReportRow.from_arrays(**(values | more))  # type: ignore[arg-type]


def written(path: Path, rows: object, **options: object) -> Page:
    write_report(path, rows, **({"title": "Report"} | options))  # type: ignore[arg-type]
    page = Page(path)
    assert page.open == []  # every element is closed
    return page


def test_rows_come_highest_score_first_and_carry_their_facts(tmp_path: Path) -> None:
    rows = [row("low.png", 1.0), row("high.png", 5.0, regions=[REGION]), row("mid.png", 2.0)]
    page = written(tmp_path / "r.html", rows)
    assert re.findall(r'class="name">([a-z]+)\.png', page.source) == ["high", "mid", "low"]
    body = page.text["tbody"]
    assert "2.50×" in body  # 5 of 2
    assert "3 × 4 px at (1, 2)" in body
    assert "area 1,234 px, peak 5.5" in body
    assert [r.get("data-verdict") for r in page.all("tr")[1:]] == ["anomalous", "normal", "normal"]  # equal is not over


def test_headline_figures(tmp_path: Path) -> None:
    rows = [row("a", 3, label="good"), row("b", 1, label="good"), row("c", 1, label="dent"), row("d", 4, label="dent")]
    page = written(tmp_path / "r.html", rows, summary={"image AUROC": "0.625"})
    cards = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.source))
    assert cards == {
        "images inspected": "4",
        "anomalous": "2",
        "normal": "2",
        "false alarms": "1 of 2",
        "missed defects": "1 of 2",
        "threshold": "2",
        "image AUROC": "0.625",
    }
    assert re.findall(r'"mistake">(.*?)<', page.source) == ["false alarm", "missed"]
    assert sum(r.get("data-wrong") == "1" for r in page.all("tr")) == 2


def test_the_truth_may_have_any_word(tmp_path: Path) -> None:
    assert row(score=3, label="functional", defective=False).mistake == "false alarm"
    assert row(score=3, label="functional").mistake is None  # a label alone is a defect's name, unless it is "good"
    assert row(score=1, label="good").mistake is None


HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(2)'>&amp;.png"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """File names, labels, titles and reasons come from outside; none may become markup."""
    page = written(
        tmp_path / "r.html",
        [row(HOSTILE, label=HOSTILE)],
        title=HOSTILE,
        summary={HOSTILE: HOSTILE},
        skipped=[HOSTILE],
    )
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 2
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    for tag in ("h1", "tbody", "dl", "ul"):
        assert HOSTILE in page.text[tag]
    assert [image["alt"] for image in page.all("img")] == [
        f"{HOSTILE}: the image",
        f"{HOSTILE}: heat map and 0 outlined regions",
    ]


def test_names_that_are_no_unicode_do_not_stop_the_report(tmp_path: Path) -> None:
    """What Python makes of a file name in another encoding cannot be written as UTF-8."""
    assert "caf?.png" in written(tmp_path / "r.html", [row("caf\udce9.png")]).text["tbody"]


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    page = written(tmp_path / "r.html", [row()], calibration_scores=[1.0, 1.5])
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert "url(" not in page.source
    assert "@import" not in page.source


def test_the_policy_admits_this_script_and_no_other(tmp_path: Path) -> None:
    page = written(tmp_path / "r.html", [row()])
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    script = re.search(r"<script>(.*?)</script>", page.source, re.DOTALL)
    assert policy is not None
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_it_can_be_read_without_seeing_or_scripts(tmp_path: Path) -> None:
    page = written(tmp_path / "r.html", [row(label="good")], calibration_scores=[1.0])
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert all(th.get("scope") in ("col", "row") for th in page.all("th"))
    histogram = next(svg for svg in page.all("svg") if svg.get("role") == "img")
    assert "Calibration: held-out good images: 1 scores from 1 to 1" in str(histogram["aria-label"])
    assert "hidden" in page.all("form")[0]  # the controls appear with the script that serves them


def test_the_histogram_counts_every_score(tmp_path: Path) -> None:
    rows = [row(f"{k}", k / 10, label="good" if k < 20 else "dent") for k in range(1, 41)]
    page = written(tmp_path / "r.html", rows, calibration_scores=np.linspace(0.1, 2.4, 24, dtype=np.float32))
    counts = [int(n) for n in re.findall(r"<title>(\d+) with a score", page.source)]
    assert sum(counts) == 40 + 24
    for name, count in (("Calibration: held-out good images", 24), ("labelled good", 19), ("labelled defective", 21)):
        assert f"{name} ({count})" in page.text["svg"]
    assert "threshold 2" in page.text["svg"]
    # No bar straddles the threshold.
    for low, high in re.findall(r"with a score of ([\d.e-]+) to ([\d.e-]+)", page.source):
        assert float(high) <= 2.0 or float(low) >= 2.0


@pytest.mark.parametrize("score", [0.0, 1e-30, 1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("threshold", [None, 0.0, 1.0, float("inf")])
def test_odd_numbers_do_not_stop_the_report(tmp_path: Path, score: float, threshold: float | None) -> None:
    page = written(tmp_path / "r.html", [row(score=score, threshold=threshold)], calibration_scores=[score])
    assert len(page.all("img")) == 2


def test_the_report_says_which_models_inspected_and_when(tmp_path: Path) -> None:
    first, second = MadeBy("ab" * 32, 1, "0.2.0"), MadeBy("cd" * 32, 2, "0.2.1")
    rows = [row("a", made_by=first, time="2026-05-06T07:08:09.123+00:00"), row("b", made_by=second)]
    page = written(tmp_path / "r.html", [*rows, row("c", made_by=second), row("d")])
    assert f"1 image inspected by the model with SHA-256 {'ab' * 32}, version 1, with patchbank 0.2.0" in page.text["p"]
    assert f"2 images inspected by the model with SHA-256 {'cd' * 32}, version 2" in page.text["p"]
    assert "2026-05-06 07:08:09.123 UTC" in page.text["tbody"]
    assert "SHA-256" not in written(tmp_path / "r.html", [row()]).text["main"]


def test_a_score_that_is_no_number_comes_first(tmp_path: Path) -> None:
    rows = [row("low.png", 1.0), row("none.png", float("nan")), row("high.png", 9.0), row("inf.png", float("inf"))]
    page = written(tmp_path / "r.html", rows)
    assert re.findall(r'class="name">([a-z]+)\.png', page.source) == ["none", "inf", "high", "low"]
    orders = [float(str(r["data-score"])) for r in page.all("tr")[1:]]
    assert np.isfinite(orders).all()  # the script reads them, and knows no "inf"
    assert orders == sorted(orders, reverse=True)
    assert "nan" not in " ".join(str(r["width"]) for r in page.all("rect"))


def test_without_a_threshold_and_without_images(tmp_path: Path) -> None:
    page = written(tmp_path / "r.html", [row(threshold=None)])
    assert "unjudged" in page.text["tbody"]
    assert "×" not in page.text["tbody"]
    assert written(tmp_path / "r.html", []).all("tr") != []  # the table's head


def test_pictures_are_small_whatever_comes(rng: np.random.Generator) -> None:
    """Noise is the worst that can come; large and tall images shrink, small ones stay."""
    noise = rng.integers(0, 256, (900, 700, 3), np.uint8)
    assert len(row(image=noise).picture) <= PICTURE_BYTES
    tall = row(image=np.zeros((4000, 10, 3), np.uint8))
    assert size_of(tall.picture) == (PICTURE_SIDE, 1)
    assert size_of(row().picture) == (20, 30)


def size_of(jpeg: bytes) -> tuple[int, ...]:
    import cv2

    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.shape[:2]


def test_500_images_stay_under_30_mb(tmp_path: Path, rng: np.random.Generator) -> None:
    worst = row(
        image=rng.integers(0, 256, (400, 400, 3), np.uint8), overlay=rng.integers(0, 256, (400, 400, 3), np.uint8)
    )
    write_report(tmp_path / "r.html", (worst for _ in range(500)), title="Report")
    assert (tmp_path / "r.html").stat().st_size < 30e6


def test_a_failure_leaves_the_old_report(tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text("old")

    def broken() -> Iterator[ReportRow]:
        yield row()
        raise KeyError("the camera is gone")

    with pytest.raises(KeyError):
        write_report(tmp_path / "r.html", broken(), title="Report")
    assert (tmp_path / "r.html").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]
    with pytest.raises(OutputError):
        write_report(tmp_path / "no" / "r.html", [row()], title="Report")


def test_the_same_results_make_the_same_file(tmp_path: Path) -> None:
    when = datetime(2024, 5, 6, 7, 8, tzinfo=UTC)
    for name in ("a", "b"):
        write_report(tmp_path / name, [row(), row("b.png", 1)], title="Report", created=when)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert "2024-05-06 07:08 UTC" in (tmp_path / "a").read_text("utf-8")
