"""Grey, 16-bit, 12-bit and multi-channel images through the whole pipeline, by the rules that images.py states."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest

from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.config import ImageFormat
from patchbank.errors import ConfigError, ImageError
from patchbank.imaging.images import read_image, to_rgb
from patchbank.imaging.resize import resize


@pytest.fixture
def lights(rng):
    """Parts under five lights: (64, 64, 5) uint16."""
    base = cv2.resize(rng.integers(8000, 30000, (8, 8, 4)).astype(np.float32), (64, 64))
    base = np.dstack([base, base[:, :, 0]])
    return [np.clip(base + rng.normal(0, 300, base.shape), 0, 65535).astype(np.uint16) for _ in range(8)]


def test_channels_are_taken_in_threes_and_the_last_one_fills_up():
    image = np.arange(5, dtype=np.uint8) * np.ones((8, 8, 1), np.uint8)
    np.testing.assert_array_equal(to_rgb(image, ImageFormat(channels=5))[0, 0], [0, 1, 2, 3, 4, 4])
    np.testing.assert_array_equal(to_rgb(image[:, :, :4], ImageFormat(channels=4))[0, 0], [0, 1, 2, 3, 3, 3])
    np.testing.assert_array_equal(to_rgb(image[:, :, 1:2], ImageFormat(channels=1))[0, 0], [1, 1, 1])


def test_one_channel_is_grey(rng):
    grey = rng.integers(0, 256, (20, 30)).astype(np.uint8)
    np.testing.assert_array_equal(to_rgb(grey, ImageFormat(channels=1)), to_rgb(grey))


def test_a_fourth_channel_is_alpha_only_for_colour(rng):
    image = rng.integers(0, 256, (20, 30, 4)).astype(np.uint8)
    assert to_rgb(image).shape == (20, 30, 3)
    assert to_rgb(image, ImageFormat(channels=4)).shape == (20, 30, 6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_white_is_the_value_of_full_brightness(dtype):
    image = np.full((8, 8), 100, dtype)
    np.testing.assert_allclose(to_rgb(image, ImageFormat(white=200.0)), 127.5)


def test_brighter_than_white_is_not_clamped():
    np.testing.assert_allclose(to_rgb(np.full((8, 8), 400, np.uint16), ImageFormat(white=200.0)), 510)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_white_does_not_excuse_impossible_numbers(value):
    with pytest.raises(ImageError, match="finite"):
        to_rgb(np.full((8, 8), value, np.float32), ImageFormat(white=1.0))


def test_twelve_bits_in_sixteen(rng, tmp_path):
    """With white = 4095, a 12-bit camera's picture is the 8-bit one but for its finer steps."""
    eight = rng.integers(0, 256, (40, 40)).astype(np.uint8)
    twelve = np.rint(eight * (4095 / 255)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), twelve)
    found = read_image(tmp_path / "a.png", ImageFormat(white=4095.0))
    assert np.abs(found[:, :, 0] - eight).max() < 0.05
    assert read_image(tmp_path / "a.png").max() < 17  # what the option is for


def test_wrong_number_of_channels_says_what_to_do(lights):
    with pytest.raises(ImageError, match="channels = 4"):
        to_rgb(lights[0], ImageFormat(channels=4))
    with pytest.raises(ImageError, match="set channels"):
        to_rgb(lights[0])


def test_pages_of_a_tiff_are_channels(lights, tmp_path):
    path = str(tmp_path / "a.tiff")
    assert cv2.imwritemulti(path, [np.ascontiguousarray(lights[0][:, :, c]) for c in range(5)])
    np.testing.assert_array_equal(read_image(path, ImageFormat(channels=5)), to_rgb(lights[0], ImageFormat(channels=5)))


def test_colour_pages_keep_the_order_of_their_channels(rng, tmp_path):
    rgb = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), rgb[:, :, ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", ImageFormat(channels=3)), rgb)


def test_pages_of_different_sizes_are_refused(tmp_path):
    cv2.imwritemulti(str(tmp_path / "a.tiff"), [np.zeros((20, 20), np.uint8), np.zeros((20, 30), np.uint8)])
    with pytest.raises(ImageError, match="pages differ"):
        read_image(tmp_path / "a.tiff", ImageFormat(channels=2))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2", "|u1", "<f4"])
def test_numpy_files(rng, tmp_path, order, dtype):
    array = (rng.integers(0, 200, (12, 9, 5)) / (200 if "f" in dtype else 1)).astype(dtype)
    np.save(tmp_path / "a.npy", np.asarray(array, order=order))
    native = array.astype(np.dtype(dtype).newbyteorder("="))
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.npy", ImageFormat(channels=5)), to_rgb(native, ImageFormat(channels=5))
    )


def test_damaged_numpy_files(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((12, 9), np.uint8))
    whole = buffer.getvalue()
    objects = io.BytesIO()
    np.save(objects, np.array([[{}]], dtype=object), allow_pickle=True)
    huge = whole.replace(b"(12, 9)", b"(9**9,)")
    for data in (whole[:-1], whole + b"x", whole[:20], whole[:6] + b"\x09" + whole[7:], objects.getvalue(), huge):
        (tmp_path / "a.npy").write_bytes(data)
        with pytest.raises(ImageError):
            read_image(tmp_path / "a.npy")


def test_resizing_many_channels_is_resizing_each(rng):
    image = rng.integers(0, 256, (40, 30, 9)).astype(np.uint8)
    whole = resize(image, (20, 50))
    np.testing.assert_array_equal(whole[:, :, 3:6], resize(np.ascontiguousarray(image[:, :, 3:6]), (20, 50)))


def test_lights_through_the_whole_pipeline(lights, tmp_path):
    config = Config(image_size=64, coreset_size=40, channels=5)
    model = PatchCore.fit(lights, config, backbone=FakeBackbone())
    assert model.bank.vectors.shape[1] == 2 * 32  # two groups of 12 + 20 features
    for light in (0, 3):  # one of the first group, one of the second
        bad = lights[0].copy()
        bad[16:32, 16:32, light] = 65535
        result = model.predict(bad)
        assert result.is_anomalous
        y, x = np.unravel_index(int(result.anomaly_map.argmax()), (64, 64))
        assert 12 <= y < 36
        assert 12 <= x < 36
        assert result.overlay().shape == (64, 64, 3)
    model.save(tmp_path / "m.patchbank")
    again = PatchCore.load(tmp_path / "m.patchbank")
    np.testing.assert_allclose(again.predict(lights[1]).score, model.predict(lights[1]).score, rtol=1e-5)
    with pytest.raises(ImageError, match="5 channels"):
        again.predict(lights[0][:, :, :3])


def test_sixteen_bit_grey_through_the_whole_pipeline(lights):
    """The same picture in 8 and in 16 bits is the same part."""
    grey = [image[:, :, 0] for image in lights]
    model = PatchCore.fit(grey, Config(image_size=64, coreset_size=40), backbone=FakeBackbone())
    eight_bit = np.rint(grey[0] / 257).astype(np.uint8)
    assert model.predict(eight_bit).score < model.calibration.threshold * 1.2
    assert model.predict(np.where(np.arange(64) < 20, grey[0], 0).astype(np.uint16)).is_anomalous


@pytest.mark.parametrize("change", [{"channels": -1}, {"channels": 99}, {"white": 0.0}, {"white": -1}])
def test_impossible_formats(change):
    with pytest.raises(ConfigError):
        Config(**change)
