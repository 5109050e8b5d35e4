"""From the patch grid that a service has kept to the map and the pictures that the result would have shown."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parts import striped
from patchbank import Config, ConfigError, ImageError, Named, PatchCore, anomaly_map, heat_picture
from patchbank.backbones.fake import FakeBackbone
from patchbank.imaging.images import encode_png
from patchbank.imaging.overlay import heatmap

SMALL = Config(image_size=64, coreset_ratio=0.3, thumbnail_size=0, max_false_alarms=0.2)
KINDS = {
    "plain": {},
    "region": {"include": "0,0 0.6,0 0.6,1 0,1"},
    "no smoothing": {"smoothing_sigma": 0.0},
    "another size": {"image_size": (96, 64)},
    "no threshold": {"calibration": "none"},
}
SQUARE = {"image_size": (4, 4), "input_size": (4, 4), "smoothing_sigma": 0.0}


def kept_of(result):
    """What a service keeps beside the grid."""
    return {
        "image_size": result.image_size,
        "input_size": result.input_size,
        "smoothing_sigma": result.smoothing_sigma,
        "counted": result.counted,
    }


@pytest.fixture
def good(rng):
    return [striped(rng) for _ in range(8)]


# --- closed form ---


def test_one_patch_a_pixel_is_its_own_map():
    grid = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_array_equal(anomaly_map(grid, **SQUARE), grid)


def test_between_two_patches_the_map_is_linear():
    """Two patches over eight pixels: centres at 1.5 and 5.5."""
    found = anomaly_map(np.array([[0.0, 4.0]], "f4"), image_size=(1, 8), input_size=(1, 8), smoothing_sigma=0)
    np.testing.assert_allclose(found, [[0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4]])


def test_the_heat_alone_is_the_colours_of_the_map():
    grid = np.array([[0.0, 10.0], [20.0, 5.0]], "f4")
    sizes = {"image_size": (32, 32), "input_size": (16, 16), "smoothing_sigma": 1.0}
    heat = anomaly_map(grid, **sizes)
    for colours in ("orange", "blue"):
        found = heat_picture(grid, **sizes, threshold=10.0, colours=colours)
        np.testing.assert_array_equal(found, heatmap(heat, 10.0, colours=colours))


# --- as the result ---


@pytest.mark.parametrize("kind", KINDS)
def test_map_and_overlay_are_those_of_the_result_to_the_bit(good, rng, kind):
    model = PatchCore.fit(good, dataclasses.replace(SMALL, **KINDS[kind]), backbone=FakeBackbone())
    for image in (striped(rng, defect=True), striped(rng), striped(rng, size=(70, 201), defect=True)):
        result = model.predict(image)
        grid, kept = result.distances.copy(), kept_of(result)
        np.testing.assert_array_equal(anomaly_map(grid, **kept, roi=model.roi), result.anomaly_map)
        for colours in ("orange", "blue"):
            found = heat_picture(
                grid, **kept, roi=model.roi, threshold=result.pixel_threshold, image=image, colours=colours
            )
            np.testing.assert_array_equal(found, result.overlay(colours))


def test_the_image_may_come_as_a_file_s_bytes_as_everywhere(good, rng, tmp_path):
    model = PatchCore.fit(good, SMALL, backbone=FakeBackbone())
    image = striped(rng, defect=True)
    result, data = model.predict(image), encode_png(image)
    (tmp_path / "a.png").write_bytes(data)
    for source in (data, tmp_path / "a.png", Named("x", data)):
        found = heat_picture(result.distances, **kept_of(result), threshold=result.pixel_threshold, image=source)
        np.testing.assert_array_equal(found, result.overlay())


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), largest=st.floats(0.01, 60_000), sigma=st.floats(0, 10))
def test_half_precision_is_enough(seed, largest, sigma):
    """A map from float16 is off by at most 0.05 % of the largest distance: 0.02 at a distance of 40."""
    rng = np.random.default_rng(seed)
    grid = (rng.random((9, 12)) * largest).astype(np.float32)
    sizes = {"image_size": (90, 130), "input_size": (72, 96), "smoothing_sigma": sigma}
    exact, half = anomaly_map(grid, **sizes), anomaly_map(grid.astype(np.float16), **sizes)
    assert np.abs(exact - half).max() <= largest * 2**-11 * 1.01 + 1e-6
    assert half.dtype == exact.dtype == np.float32


def test_half_precision_is_enough_on_real_images(data_root):
    paths = sorted((data_root / "bottle" / "train" / "good").iterdir())[:8]
    model = PatchCore.fit(paths, Config(image_size=160))
    for path in sorted((data_root / "bottle" / "test").rglob("*"))[:12]:
        if path.is_file():
            result = model.predict(path)
            heat = anomaly_map(result.distances.astype(np.float16), **kept_of(result))
            assert np.abs(heat - result.anomaly_map).max() <= 0.02


# --- what is refused ---


@pytest.mark.parametrize(
    "change",
    [
        {"grid": np.zeros((4, 4), np.int32)},
        {"grid": np.zeros((4, 4, 1), np.float32)},
        {"grid": np.zeros((0, 4), np.float32)},
        {"grid": np.full((4, 4), np.nan, np.float16)},
        {"grid": np.full((4, 4), np.inf, np.float32)},
        {"grid": np.full((4, 4), -1, np.float32)},
        {"grid": "nothing"},
        {"counted": np.zeros((4, 4), np.bool_)},
        {"counted": np.ones((4, 5), np.bool_)},
        {"counted": np.ones((4, 4), np.uint8)},
        {"smoothing_sigma": -1.0},
        {"smoothing_sigma": float("nan")},
        {"smoothing_sigma": 1e9},
        {"image_size": (0, 4)},
        {"image_size": (4,)},
        {"input_size": None},
        {"input_size": "4x"},
        {"threshold": float("inf")},
        {"colours": "rainbow"},
    ],
    ids=str,
)
def test_what_no_result_has_is_refused(change):
    """A service hands over what its database holds."""
    with pytest.raises(ConfigError):
        heat_picture(**{"grid": np.ones((4, 4), np.float32), **SQUARE, "threshold": 1.0, **change})


def test_what_would_take_all_memory_is_refused():
    for name in ("image_size", "input_size"):
        with pytest.raises(ImageError):
            anomaly_map(np.ones((4, 4), np.float32), **{**SQUARE, name: (10**6, 10**6)})


def test_another_image_is_refused(rng):
    with pytest.raises(ImageError, match="expected the inspected image"):
        heat_picture(np.ones((4, 4), np.float32), **SQUARE, threshold=1.0, image=striped(rng))
