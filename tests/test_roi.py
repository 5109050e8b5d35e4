"""Regions of interest: what is ignored cannot change a score, wherever the region comes from."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from parts import mottled
from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.errors import ConfigError, ImageError, ModelFileError
from patchbank.imaging.roi import Roi
from patchbank.validation import parse_polygons

LEFT_HALF = "0,0 0.5,0 0.5,1 0,1"
SMALL = Config(image_size=64, coreset_size=40, ignore="0.5,0 1,0 1,1 0.5,1")


@pytest.fixture
def good(rng):
    return mottled(rng, 8)


def test_a_polygon_covers_what_it_encloses():
    roi = Roi.from_config(Config(include=LEFT_HALF))
    expected = np.zeros((10, 20), np.bool_)
    expected[:, :10] = True
    np.testing.assert_array_equal(roi.inside((10, 20)), expected)


def test_ignore_is_taken_out_of_include():
    roi = Roi.from_config(Config(include=LEFT_HALF, ignore="0,0 1,0 1,0.5 0,0.5"))
    expected = np.zeros((8, 8), np.bool_)
    expected[4:, :4] = True
    np.testing.assert_array_equal(roi.inside((8, 8)), expected)


def test_overlapping_polygons_add_up():
    roi = Roi.from_config(Config(include=f"{LEFT_HALF}; {LEFT_HALF}; 0.25,0 1,0 1,1 0.25,1"))
    assert roi.inside((16, 16)).all()


def test_without_a_region_there_is_none():
    assert Roi.from_config(Config()) is None


def test_a_mask_says_the_same_as_polygons(tmp_path):
    mask = np.zeros((300, 200), np.uint8)
    mask[:, :100] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    from_mask = Roi.from_config(Config(include=str(tmp_path / "mask.png")))
    from_polygon = Roi.from_config(Config(include=LEFT_HALF))
    for size in ((64, 64), (48, 31), (1000, 20)):
        assert (from_mask.inside(size) != from_polygon.inside(size)).mean() < 0.06
    np.testing.assert_array_equal(from_mask.inside((64, 64)), from_polygon.inside((64, 64)))


def test_toml_lists_are_polygons():
    assert Config(include=[[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]) == Config(include="0.0,0.0 0.5,0.0 0.5,1.0 0.0,1.0")


@pytest.mark.parametrize("text", ["0,0 1,1", "0,0 2,0 1,1", "0,0 1,0 -0.1,1", "nan,0 1,0 1,1"])
def test_impossible_polygons(text):
    with pytest.raises(ConfigError, match="polygons"):
        Config(include=text)


@pytest.mark.parametrize("value", [[], "", 3, [[1, 2, 3]], [["a", "b"]]])
def test_no_region_at_all(value):
    with pytest.raises(ConfigError, match="include"):
        Config(include=value)


@pytest.mark.parametrize("text", ["mask.png", "C:\\masks\\a,b.png", "0.1", "a,b c,d e,f"])
def test_paths_are_no_polygons(text):
    assert parse_polygons(text) == ()


def test_a_mask_that_cannot_be_read(tmp_path, good):
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    for path in (tmp_path / "bad.png", tmp_path / "none.png"):
        with pytest.raises(ConfigError, match="mask"):
            PatchCore.fit(good, Config(image_size=64, include=str(path)), backbone=FakeBackbone())


def test_an_empty_region_is_refused(tmp_path, good):
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((20, 20), np.uint8))
    with pytest.raises(ConfigError, match="at least one place"):
        PatchCore.fit(good, Config(image_size=64, include=str(tmp_path / "black.png")), backbone=FakeBackbone())


@pytest.mark.parametrize(("dtype", "value"), [("u1", 255), ("u1", 1), ("u1", 100), ("u2", 255), ("u2", 65535)])
def test_a_mask_ignores_the_same_whatever_numbers_it_has(tmp_path, good, dtype, value):
    """A mask of 0 and 1 used to ignore nothing."""
    mask = np.zeros((64, 64), dtype)
    mask[:, 32:] = value
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    config = Config(image_size=64, coreset_size=40, ignore=str(tmp_path / "mask.png"))
    model = PatchCore.fit(good, config, backbone=FakeBackbone())
    np.testing.assert_array_equal(model.bank.vectors, PatchCore.fit(good, SMALL, backbone=FakeBackbone()).bank.vectors)


@pytest.mark.parametrize("name", ["include", "ignore"])
@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_mask_that_marks_nothing_or_everything_says_what_it_saw(tmp_path, name, value):
    cv2.imwrite(str(tmp_path / "flat.png"), np.full((20, 20), value, np.uint8))
    with pytest.raises(ConfigError, match=rf"{name}: .*flat\.png: .*all its values are {value}$"):
        Roi.from_config(Config(**{name: str(tmp_path / "flat.png")}))


def test_the_regions_picture_in_a_model_file_is_small_and_a_png():
    """14000 x 14000 pixels fit into 41 kB; another format could hide anything."""
    roi = Roi.from_config(Config(include=LEFT_HALF))
    np.testing.assert_array_equal(Roi.from_png(roi.to_png()).mask, roi.mask)
    large = bytearray(roi.to_png())
    large[16:24] = (14000).to_bytes(4, "big") * 2
    with pytest.raises(ConfigError, match="14000x14000"):
        Roi.from_png(bytes(large))
    jpeg = cv2.imencode(".jpg", np.full((9, 9), 255, np.uint8))[1].tobytes()
    for data in (b"", b"\x93NUMPY", roi.to_png()[:15], jpeg):
        with pytest.raises(ConfigError, match="region of interest"):
            Roi.from_png(data)


def test_a_region_smaller_than_any_patch(good):
    with pytest.raises(ImageError, match="region of interest"):
        PatchCore.fit(
            good, Config(image_size=64, include="0.5,0.5 0.505,0.5 0.505,0.505 0.5,0.505"), backbone=FakeBackbone()
        )


def test_what_is_ignored_cannot_change_anything(good, rng):
    """Neither at fit nor at prediction: not even through neighbourhoods, the network's reach or the resizing."""

    def scribbled(image):
        other = image.copy()
        other[:, 32:] = rng.integers(0, 256, other[:, 32:].shape)
        return other

    one = PatchCore.fit(good, SMALL, backbone=FakeBackbone())
    other = PatchCore.fit([scribbled(image) for image in good], SMALL, backbone=FakeBackbone())
    np.testing.assert_array_equal(one.bank.vectors, other.bank.vectors)
    assert one.calibration.threshold == other.calibration.threshold
    result, disturbed = one.predict(good[0]), one.predict(scribbled(good[0]))
    assert result.score == disturbed.score
    np.testing.assert_array_equal(result.anomaly_map, disturbed.anomaly_map)
    assert PatchCore.fit(good, Config(image_size=64), backbone=FakeBackbone()).predict(scribbled(good[0])).score > 0


def test_bank_scores_and_map_keep_to_the_region(good):
    model = PatchCore.fit(good, SMALL, backbone=FakeBackbone())
    assert model.bank.column.max() < 4  # of 8
    bad = good[0].copy()
    bad[20:40, 5:25] = 255
    result = model.predict(bad)
    assert result.is_anomalous
    assert (result.patch_scores[:, 4:] == 0).all()
    assert (result.anomaly_map[:, 32:] == 0).all()
    assert result.anomaly_map[:, :32].max() <= result.distances.max() + 1e-6
    assert all(x + width <= 32 for x, _, width, _ in (region.box for region in result.regions))


def test_the_map_near_the_border_is_not_pulled_down(rng):
    """Patches that do not count have no weight: equal scores give an equal map up to the border."""
    from patchbank.scoring.scores import anomaly_map

    counted = np.zeros((8, 8), np.bool_)
    counted[:, :4] = True
    heat = anomaly_map(counted.astype(np.float32) * 3, (64, 64), (64, 64), 4.0, counted)
    np.testing.assert_allclose(heat[:, :32], 3, rtol=1e-5)


def test_the_region_travels_in_the_model_file(good, tmp_path):
    model = PatchCore.fit(good, SMALL, backbone=FakeBackbone())
    model.save(tmp_path / "m.patchbank")
    again = PatchCore.load(tmp_path / "m.patchbank")
    np.testing.assert_array_equal(again.roi.mask, model.roi.mask)
    np.testing.assert_allclose(again.predict(good[1]).score, model.predict(good[1]).score, rtol=1e-5)


def test_a_region_that_is_no_picture_is_refused(good, tmp_path):
    from patchbank.model_file import archive as artifact
    from patchbank.model_file.contents import packed

    manifest, entries = packed(PatchCore.fit(good, SMALL, backbone=FakeBackbone()))
    for data in (b"", b"nonsense", cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()):
        artifact.write(tmp_path / "m", manifest, entries | {"roi.png": data})
        with pytest.raises(ModelFileError):
            PatchCore.load(tmp_path / "m")
