"""What `predict --out` writes stays in that folder, under names that the file system takes, and is never inspected."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pages import Page
from patchbank import PatchCore
from patchbank.cli import output_folder
from patchbank.cli.output_folder import MASK, OVERLAY, output_names
from patchbank.fit.fit import relative_names
from patchbank.reports.html import heat_scale

from .conftest import failure, run, write

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")


def inspected(result) -> int:
    return len(result.stdout.splitlines())


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- names ---


@given(st.lists(st.text(st.characters(blacklist_characters="/\0", max_codepoint=0x2FFF), min_size=1, max_size=300)))
def test_names_stay_inside_and_never_meet(parts):
    """Whatever images are called, each gets two files of its own below the folder, also where case is ignored."""
    images = list(dict.fromkeys(Path(os.path.abspath(f"/in/{n % 3}/{part}")) for n, part in enumerate(parts)))  # noqa: PTH100
    names = output_names(images)
    pictures = [os.path.normpath(f"/out/{name}{ending}") for name in names for ending in (OVERLAY, MASK)]
    assert len({picture.casefold() for picture in pictures}) == 2 * len(images)
    assert all(picture.startswith("/out/") for picture in pictures)
    assert all(len(os.fsencode(part)) <= 255 for picture in pictures for part in Path(picture).parts)


def test_plain_names_stay_as_they_are():
    images = [Path("/in/a/1.png"), Path("/in/b/1.png"), Path("/in/image 1")]
    assert output_names(images) == ["a/1.png", "b/1.png", "image 1"]


def test_names_that_would_meet_are_told_apart():
    names = output_names([Path("/in/a.png"), Path("/in/A.png"), Path("/in/b.png"), Path("/in/b.png.mask.png/c.png")])
    assert names[0] == "a.png"
    assert names[1].startswith("A.png~")
    assert names[2] == "b.png"
    assert "b.png.mask.png/" not in names[3]


def test_a_path_is_told_from_an_array_by_what_it_is_not_by_its_name():
    """A file may be called as arrays are."""
    folder = Path("folder").absolute()
    assert relative_names([str(folder / "image 1"), str(folder / "x.png")]) == ("image 1", "x.png")
    assert relative_names(["image 1", str(folder / "x.png")], [0]) == ("image 1", str(folder / "x.png"))


def test_no_name_leads_upwards():
    assert relative_names([os.path.join("a", "..", "b", "x.png"), os.path.join("..", "y.png")])[1] == "y.png"  # noqa: PTH118
    assert not any(".." in name for name in relative_names(["../a/../../x.png", "b/../y.png"]))


def test_pictures_of_files_called_like_arrays_and_of_paths_that_go_up_stay_inside(fitted, good, tmp_path, monkeypatch):
    for folder in ("line", "cam", "up/deep"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(good, tmp_path / "line/image 001.png")
    shutil.copy(good, tmp_path / "cam/x.png")
    monkeypatch.chdir(tmp_path / "line")
    other = tmp_path / "up/deep/../../cam/x.png"
    run("predict", fitted, "image 001.png", other, "--out", "res")
    assert files(tmp_path / "cam") == ["x.png"]
    assert files(tmp_path / "up") == []
    assert files(tmp_path / "line/res") == sorted(
        ["report.html", *(f"{n}.{e}.png" for n in ("cam/x.png", "line/image 001.png") for e in ("mask", "overlay"))]
    )


@needs_links
def test_a_link_in_the_folder_leads_no_picture_out_of_it(fitted, good, tmp_path):
    for name in ("in/a/x.png", "in/b/x.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(good, tmp_path / name)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "elsewhere")
    result = run("predict", fitted, tmp_path / "in", "--out", tmp_path / "out", code=7)
    assert inspected(result) == 2
    assert "a link leads out of the output folder" in result.stderr
    assert files(tmp_path / "elsewhere") == []
    assert (tmp_path / "out/b/x.png.mask.png").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="paths are short there")
def test_a_name_too_long_for_its_pictures_is_cut_and_the_report_says_so(fitted, good, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    long = "é" * 122 + ".png"  # 248 bytes
    for name in (long, "b.png"):
        shutil.copy(good, folder / name)
    result = run("predict", fitted, folder, "--out", tmp_path / "out")
    assert inspected(result) == 2
    assert "the pictures of 1 image get other names" in result.stderr
    assert len(list((tmp_path / "out").glob("*.overlay.png"))) == 2
    assert f"{long} (pictures: é" in (tmp_path / "out/report.html").read_text(encoding="utf-8").replace("<wbr>", "")


# --- its own outputs ---


@pytest.fixture
def parts(tmp_path, category, monkeypatch):
    """Three images in two folders; the test stands in the folder above."""
    for number, name in enumerate(("parts/0.png", "parts/1.png", "parts/sub/2.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(category / f"train/good/{number:03d}.png", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "parts"


@pytest.mark.parametrize(
    ("paths", "out"),
    [
        (["parts"], "parts/out"),
        (["parts"], "parts/sub/deeper/out"),
        (["parts/../parts"], "parts/./x/../out"),
        (["parts"], "parts"),
        (["parts/sub", "parts"], "parts/sub"),
        (["parts"], "."),
        (["."], "out"),
    ],
)
def test_three_runs_inspect_the_same_images(fitted, parts, paths, out):
    for number in range(3):
        result = run("predict", fitted, *paths, "--out", out)
        assert inspected(result) == 3
        assert ("left out" in result.stderr) == (number > 0 and out != ".")


@needs_links
def test_a_link_to_the_output_folder_hides_nothing(fitted, parts, tmp_path):
    (tmp_path / "link").symlink_to(parts)
    for _ in range(2):
        assert inspected(run("predict", fitted, "parts", "--out", "link/out")) == 3
    (parts / "pictures").symlink_to(parts / "out")
    assert inspected(run("predict", fitted, "link", "--out", "parts/out")) == 3


def test_images_named_one_by_one_are_inspected_but_never_pictures_of_a_run(fitted, parts):
    run("predict", fitted, "parts", "--out", "parts/out")
    shutil.copy(parts / "0.png", parts / "out/new.png")
    named = sorted(str(path) for path in (parts / "out").rglob("*.png"))
    assert inspected(run("predict", fitted, *named, "--out", "parts/out")) == 1
    assert inspected(run("predict", fitted, "parts", "parts/out/new.png", "--out", "parts/out")) == 4


def test_nothing_but_outputs_is_an_error(fitted, parts):
    run("predict", fitted, "parts", "--out", "parts/out")
    for more in (["--out", "parts/out"], []):
        assert "found only pictures that" in failure("predict", fitted, "parts/out", *more, code=3)
    assert failure("predict", fitted, "nothing", "--out", "parts/out", code=3)


def test_outputs_of_runs_with_another_folder_or_none_are_not_inspected_nor_learned(fitted, parts, tmp_path):
    """Folders of a day each, within the inspected one; and then a run that only prints."""
    for day in ("parts/monday", "parts/tuesday"):
        assert inspected(run("predict", fitted, "parts", "--out", day)) == 3
    result = run("predict", fitted, "parts")
    assert inspected(result) == 3
    assert "left out 12 files of earlier runs" in result.stderr
    run("update", fitted, "--add", "parts", "-o", tmp_path / "m")
    assert len(json.loads(run("history", tmp_path / "m", "--json").stdout)["versions"][-1]["added"]) == 3


def test_a_picture_that_is_named_or_alone_is_an_image(fitted, parts):
    run("predict", fitted, "parts/0.png", "--out", "parts/out")
    assert inspected(run("predict", fitted, "parts/out/0.png.overlay.png")) == 1
    (parts / "out/0.png.mask.png").unlink()
    assert inspected(run("predict", fitted, "parts/out")) == 1


# --- which pictures ---


@pytest.fixture
def mixed_parts(tmp_path, category):
    """A good part, a scratched one, and one of another scene (black), in one folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(category / "test/good/000.png", folder / "good.png")
    shutil.copy(category / "test/scratch/000.png", folder / "scratched.png")
    write(folder / "black.png", np.zeros((72, 96, 3), np.uint8))
    return folder


@pytest.mark.parametrize(
    ("wanted", "as_files", "in_report"),
    [([], 6, 4), (["--pictures", "flagged"], 4, 4), (["--pictures", "all"], 6, 6)],
)
def test_pictures_of_good_images_are_in_the_report_on_request_only(
    fitted, mixed_parts, tmp_path, wanted, as_files, in_report
):
    """312 images made a report of 98 MB."""
    run("predict", fitted, mixed_parts, "--out", tmp_path / "out", *wanted)
    assert len([name for name in files(tmp_path / "out") if name.endswith(".png")]) == as_files
    rows = (tmp_path / "out/report.html").read_text("utf-8").split("</table>")[0]
    assert rows.count("<img ") == in_report
    assert ("OK: no picture (--pictures all)" in rows) == (in_report == 4)


def test_out_of_distribution_is_a_state_of_its_own(fitted, mixed_parts, tmp_path):
    printed = run("predict", fitted, mixed_parts, "--json", "--out", tmp_path / "out").stdout
    strange = sum(not json.loads(line)["in_scene"] for line in printed.splitlines())
    assert strange > 0
    page = Page(tmp_path / "out/report.html")
    states = {row["data-verdict"]: row["data-strange"] for row in page.all("tr")[1:]}
    assert states["ok"] == "0"
    assert [row["data-strange"] for row in page.all("tr")[1:]].count("1") == strange
    assert "out of distribution" in page.text["tbody"]
    assert f"<dt>out of distribution</dt><dd>{strange}</dd>" in page.source
    assert "strange" in [option["value"] for option in page.all("option")]


def test_the_report_names_its_quantities_and_prints_each_threshold(fitted, mixed_parts, tmp_path):
    model = PatchCore.load(fitted)
    run("predict", fitted, mixed_parts, "--out", tmp_path / "out", "--colours", "blue")
    page = Page(tmp_path / "out/report.html")
    pixel = f"{model.calibration.pixel_threshold:.4g}"
    assert f"Heat map: local distance / pixel threshold ({pixel})" in page.text["section"]
    assert re.search(rf"<dt>pixel threshold</dt><dd>{re.escape(pixel)}</dd>", page.source)
    assert "× the pixel threshold)" in page.text["tbody"]
    assert "with 95 % confidence" in page.text["section"]  # what is promised
    assert heat_scale("blue") in page.source
    assert heat_scale("orange") not in page.source


def test_the_first_flagged_images_are_explained(fitted, mixed_parts, tmp_path, monkeypatch):
    monkeypatch.setattr(output_folder, "MOST_EXPLAINED", 1)
    run("predict", fitted, mixed_parts, "--out", tmp_path / "out")
    page = Page(tmp_path / "out/report.html")
    links = [a["href"] for a in page.all("a")]
    assert len(links) == 2  # there and back
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {link[1:] for link in links} <= ids
    assert "nearest normal" in page.text["figcaption"]


def test_picture_options_that_would_do_nothing_are_refused(fitted, good, tmp_path):
    assert "--out" in failure("predict", fitted, good, "--pictures", "all", code=2)
    assert "--out" in failure("predict", fitted, good, "--colours", "blue", code=2)
    out = tmp_path / "out"
    assert "flagged, all" in failure("predict", fitted, good, "--out", out, "--pictures", "none", code=2)
    assert "orange, blue" in failure("predict", fitted, good, "--out", out, "--colours", "pink", code=2)
    assert not out.exists()
