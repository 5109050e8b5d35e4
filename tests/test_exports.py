"""Results for other tools: COCO's and LabelMe's files say what was found, where, to the pixel."""

from __future__ import annotations

import base64
import contextlib
import io
import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from parts import striped
from patchbank import Config, ImageError, Named, OutputError, PatchCore, export_coco, export_labelme
from patchbank.backbones.fake import FakeBackbone
from patchbank.export.outline import outline
from patchbank.imaging.images import write_png
from patchbank.scoring.regions import regions_of

SMALL = Config(image_size=64, coreset_ratio=0.3, max_false_alarms=0.2, confidence=0)


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    return PatchCore.fit([striped(rng) for _ in range(8)], SMALL, backbone=FakeBackbone())


@pytest.fixture(scope="module")
def bad():
    return striped(np.random.default_rng(5), defect=True)


def regions_in(mask):
    return regions_of(np.where(mask, np.float32(1), np.float32(0)), mask)


def area_within(corners):
    x, y = np.array(corners).T
    return abs(int(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


# --- outlines ---


def test_a_pixel_has_four_corners():
    mask = np.zeros((6, 7), bool)
    mask[3, 4] = True
    (region,) = regions_in(mask)
    assert outline(region) == [(4, 3), (5, 3), (5, 4), (4, 4)]


def test_an_l_has_six_corners():
    mask = np.zeros((6, 7), bool)
    mask[1:4, 1] = mask[3, 1:3] = True
    (region,) = regions_in(mask)
    assert outline(region) == [(1, 1), (2, 1), (2, 3), (3, 3), (3, 4), (1, 4)]


def test_pixels_that_touch_at_a_corner_are_one_loop():
    (region,) = regions_in(np.eye(3, dtype=bool))
    corners = outline(region)
    assert area_within(corners) == 3
    assert corners.count((1, 1)) == corners.count((2, 2)) == 2


def test_the_whole_image_is_its_frame():
    (region,) = regions_in(np.ones((3, 5), bool))
    assert outline(region) == [(0, 0), (5, 0), (5, 3), (0, 3)]


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_an_outline_encloses_the_region_and_its_holes(mask):
    """The oracle is OpenCV's filling of the contour."""
    for region in regions_in(mask):
        filled = np.zeros(mask.shape, np.uint8)
        cv2.drawContours(filled, [region.contour], -1, 1, cv2.FILLED)
        corners = outline(region)
        assert area_within(corners) == filled.sum()
        steps = np.abs(np.diff(np.array([*corners, corners[0]]), axis=0))
        assert ((steps > 0).sum(axis=1) == 1).all()  # along the pixels' edges
        x, y = np.array(corners).T
        assert region.box == (x.min(), y.min(), np.ptp(x), np.ptp(y))


# --- COCO ---


def test_coco_says_what_the_results_say(model, bad, tmp_path):
    good = striped(np.random.default_rng(6))
    results = [model.predict(Named("line 1/bad.png", bad)), model.predict(good)]
    path = tmp_path / "new" / "found.json"
    export_coco(results, path, category="scratch")
    coco = json.loads(path.read_text())
    assert [image["file_name"] for image in coco["images"]] == ["line 1/bad.png", "image 0"]
    for image, result in zip(coco["images"], results, strict=True):
        about = result.to_dict()
        for name in ("score", "threshold", "is_anomalous", "p_value", "model", "time"):
            assert image[name] == about[name]
        assert (image["height"], image["width"]) == result.image_size
    regions = [region for result in results for region in result.regions]
    assert regions
    assert [each["id"] for each in coco["annotations"]] == list(range(1, len(regions) + 1))
    for each, region in zip(coco["annotations"], regions, strict=True):
        assert each["bbox"] == list(region.box)
        assert (each["area"], each["score"]) == (region.area, region.peak_score)
        (polygon,) = each["segmentation"]
        assert list(zip(polygon[::2], polygon[1::2], strict=True)) == outline(region)
    assert coco["categories"] == [{"id": 1, "name": "scratch", "supercategory": "defect"}]


def test_pycocotools_marks_the_very_pixels(model, bad, tmp_path):
    """The tool that most others are built on."""
    coco_api = pytest.importorskip("pycocotools.coco")
    result = model.predict(bad)
    export_coco([result], tmp_path / "found.json")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_api.COCO(str(tmp_path / "found.json"))
    for annotation, region in zip(coco.loadAnns(coco.getAnnIds(imgIds=[1])), result.regions, strict=True):
        filled = np.zeros(result.image_size, np.uint8)
        cv2.drawContours(filled, [region.contour], -1, 1, cv2.FILLED)
        np.testing.assert_array_equal(coco.annToMask(annotation), filled)


def test_images_without_a_result_are_named(model, bad, tmp_path):
    """Nobody may take a missing image for one without defects."""
    export_coco(model.predict_each([bad, Named("broken.png", b"x")]), tmp_path / "found.json")
    coco = json.loads((tmp_path / "found.json").read_text())
    assert len(coco["images"]) == 1
    assert coco["skipped"][0]["file_name"] == "broken.png"
    assert coco["skipped"][0]["reason"].startswith("broken.png: ")


def test_what_cannot_be_written_is_an_output_error(model, bad, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        export_coco([model.predict(bad)], tmp_path / "file" / "found.json")
    with pytest.raises(OutputError):
        export_labelme([model.predict(bad)], tmp_path / "file")


# --- LabelMe ---


def test_labelme_says_what_the_results_say(model, bad, tmp_path):
    (tmp_path / "images").mkdir()
    write_png(tmp_path / "images" / "bad.png", bad)
    result = model.predict(tmp_path / "images" / "bad.png")
    (path,) = export_labelme([result], tmp_path / "labels", label="scratch")
    assert path == tmp_path / "labels" / "bad.json"
    about = json.loads(path.read_text())
    assert (path.parent / about["imagePath"]).resolve() == (tmp_path / "images" / "bad.png").resolve()
    assert about["imageData"] is None
    assert (about["imageHeight"], about["imageWidth"]) == result.image_size
    for shape, region in zip(about["shapes"], result.regions, strict=True):
        assert shape["label"] == "scratch"
        assert shape["shape_type"] == "polygon"
        assert [tuple(point) for point in shape["points"]] == outline(region)


def test_an_image_without_a_file_is_in_labelmes(model, bad, tmp_path):
    (path,) = export_labelme([model.predict(Named("serial 7", bad))], tmp_path)
    about = json.loads(path.read_text())
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(about["imageData"]), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(picture[:, :, ::-1], bad)
    with pytest.raises(ImageError, match="detached"):
        export_labelme([model.predict(bad).detached()], tmp_path / "other")


def test_no_name_leads_out_of_the_folder_or_is_used_twice(model, bad, tmp_path):
    names = [
        "../../a.png",
        "b/a.jpg",
        "A.png",
        "a.png",
        "a.png",
        "..",
        "c:\\d\\e.png",
        "x" * 300,
        "\0\n.png",
        "/",
        " . ",
    ]
    written = export_labelme([model.predict(Named(name, bad)) for name in names], tmp_path / "labels")
    assert len({path.name.casefold() for path in written}) == len(names)
    assert all(path.parent == tmp_path / "labels" and path.is_file() for path in written)
    assert [path.name for path in tmp_path.iterdir()] == ["labels"]


def test_labels_that_were_corrected_by_hand_stay(model, bad, tmp_path):
    result = model.predict(Named("a", bad))
    (path,) = export_labelme([result], tmp_path)
    path.write_text("corrected")
    with pytest.raises(OutputError, match="there already"):
        export_labelme([result], tmp_path)
    assert path.read_text() == "corrected"
