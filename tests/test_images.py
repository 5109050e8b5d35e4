"""Images: every kind of input becomes RGB in 0..255 by a stated rule, and damaged ones are errors, never scores."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from patchbank.config import ImageFormat
from patchbank.errors import ImageError
from patchbank.imaging import images
from patchbank.imaging.images import normalise, read_image, read_mask, thumbnail, to_8bit, to_rgb
from patchbank.imaging.resize import resize


@pytest.fixture
def picture(rng):
    """A smooth RGB image (H, W, 3) uint8, so that JPEG keeps it nearly."""
    return cv2.GaussianBlur(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), (0, 0), 5)


def save(path, rgb):
    assert cv2.imwrite(str(path), rgb[:, :, ::-1] if rgb.ndim == 3 else rgb)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_lossless_files_give_the_pixels_back_as_rgb(tmp_path, picture, suffix):
    np.testing.assert_array_equal(read_image(save(tmp_path / f"a.{suffix}", picture)), picture)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_files_give_nearly_the_pixels(tmp_path, picture, suffix):
    assert np.abs(read_image(save(tmp_path / f"a.{suffix}", picture)).astype(int) - picture).max() < 12


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_files_keep_their_depth(tmp_path, picture, suffix):
    deep = picture.astype(np.uint16) * 257 + 3
    read = read_image(save(tmp_path / f"a.{suffix}", deep))
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, deep / 257, rtol=1e-6)


def test_16_bit_grey_tiff(tmp_path, picture):
    read = read_image(save(tmp_path / "a.tif", picture[:, :, 0].astype(np.uint16) * 257))
    np.testing.assert_allclose(read, np.repeat(picture[:, :, :1], 3, axis=2), rtol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "I;16", "1", "CMYK"])
def test_file_array_and_pil_agree_in_every_mode(tmp_path, picture, mode):
    pil = Image.fromarray(picture)
    if mode == "I;16":
        pil = Image.fromarray(picture[:, :, 0].astype(np.uint16) * 257)
    else:
        pil = pil.convert("L").convert(mode) if mode in ("LA", "1") else pil.convert(mode)
    from_pil = read_image(pil)
    assert from_pil.shape == (40, 60, 3)
    if mode != "CMYK":
        pil.save(tmp_path / "a.png")
        np.testing.assert_allclose(read_image(tmp_path / "a.png"), from_pil, atol=1e-4)


def test_exif_orientation_is_applied(tmp_path, picture):
    pil = Image.fromarray(picture)
    exif = pil.getexif()
    exif[0x0112] = 6  # rotated by a quarter
    pil.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (60, 40, 3)


def test_rules_for_arrays(picture):
    grey = picture[:, :, 0]
    expected = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(to_rgb(grey), expected)
    np.testing.assert_array_equal(to_rgb(grey[:, :, None]), expected)
    np.testing.assert_array_equal(to_rgb(np.dstack([grey, grey * 0])), expected)
    np.testing.assert_array_equal(to_rgb(np.dstack([picture, grey])), picture)
    np.testing.assert_allclose(to_rgb(picture / 255.0), picture, atol=1e-4)
    np.testing.assert_array_equal(to_rgb(grey > 100), expected.astype(int) * 0 + np.where(expected > 100, 255, 0))


@pytest.mark.parametrize("white", [None, 2.0])
def test_arrays_that_are_given_stay_as_they_are(picture, white):
    """Only what was decoded from a file is scaled in place."""
    given = picture.astype(np.float32) / 255
    before = given.copy()
    read_image(given, ImageFormat(white=white))
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((1, 1, 3), np.uint8), "1x1 pixels"),
        (np.zeros((20, 0), np.uint8), "0x20 pixels"),
        (np.zeros((20, 20, 5), np.uint8), r"shape \(H, W\)"),
        (np.zeros(20, np.uint8), r"shape \(H, W\)"),
        (np.full((20, 20), np.nan), "0..1; got nan"),
        (np.full((20, 20), 255.0), "got 255..255"),
        (np.full((20, 20), -0.1), "0..1"),
        (np.zeros((20, 20), np.int64), "int64"),
        (np.zeros((20, 20), complex), "complex"),
        (object(), "expected a path"),
    ],
)
def test_unusable_arrays_say_why(array, says):
    with pytest.raises(ImageError, match=says):
        read_image(array)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "pgm"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_an_error_not_half_an_image(tmp_path, picture, suffix, share):
    path = save(tmp_path / f"a.{suffix}", picture[:, :, 0] if suffix == "pgm" else picture)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ImageError, match=r"a\.\w+: is (truncated|damaged)") as error:
        read_image(path)
    assert "\n" not in str(error.value)


def test_truncated_jpeg_with_a_whole_thumbnail_inside(tmp_path, picture):
    """The end marker of an embedded thumbnail must not pass for the picture's."""
    path = save(tmp_path / "a.jpg", picture)
    data, small = path.read_bytes(), cv2.imencode(".jpg", picture[:16, :16])[1].tobytes()
    app = b"\xff\xe1" + struct.pack(">H", 2 + len(small)) + small
    path.write_bytes(data[:2] + app + data[2:])
    assert read_image(path).shape == picture.shape
    path.write_bytes((data[:2] + app + data[2:])[:-30])
    with pytest.raises(ImageError, match="truncated"):
        read_image(path)


def test_bytes_after_the_end_do_no_harm(tmp_path, picture):
    for suffix in ("png", "jpg"):
        path = save(tmp_path / f"a.{suffix}", picture)
        path.write_bytes(path.read_bytes() + b"trailing camera data" * 20)
        assert read_image(path).shape == picture.shape


@pytest.mark.parametrize("content", [b"", b"not an image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd8\xff"])
def test_files_that_are_no_images(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.png"):
        read_image(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError, match="at most 75,000,000"):
        read_image(path)


def test_pixel_limit_for_jpeg(tmp_path, picture, monkeypatch):
    path = save(tmp_path / "a.jpg", picture)
    monkeypatch.setenv("PATCHBANK_MAX_PIXELS", "100")
    with pytest.raises(ImageError, match="60x40 pixels; expected at most 100"):
        read_image(path)


def test_resize_keeps_constants_dtype_and_means(picture):
    constant = np.full((40, 60, 3), 77, np.uint8)
    assert (resize(constant, (16, 16)) == 77).all()
    assert (resize(constant, (80, 90)) == 77).all()
    halved = resize(picture.astype(np.float32), (20, 30))
    assert halved.dtype == np.float32
    blocks = picture.reshape(20, 2, 30, 2, 3).mean(axis=(1, 3))  # (H, W, 3) -> (H/2, 2, W/2, 2, 3)
    np.testing.assert_allclose(halved, blocks, atol=1e-3)
    assert resize(picture, (40, 60)) is picture


def test_normalise_closed_form():
    image = np.zeros((8, 9, 3), np.uint8)
    image[:, :, 1] = 255
    batch = normalise(image, (127.0, 127.0, 0.0), (128.0, 128.0, 255.0))
    assert batch.shape == (1, 3, 8, 9)
    assert batch.dtype == np.float32
    np.testing.assert_allclose(batch[0, :, 0, 0], [-127 / 128, 1.0, 0.0], rtol=1e-6)


def test_thumbnail_is_a_small_jpeg_in_the_right_colours():
    red = np.zeros((100, 200, 3), np.uint8)
    red[:, :, 0] = 200
    small = cv2.imdecode(np.frombuffer(thumbnail(red, 64), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert small.shape == (32, 64, 3)
    assert abs(int(small[5, 5, 0]) - 200) < 8
    assert small[5, 5, 1] < 12


def test_to_8bit_rounds_and_clips():
    np.testing.assert_array_equal(to_8bit(np.array([[[0.4, 0.6, 300.0]]])), [[[0, 1, 255]]])


def test_resize_averages_along_an_axis_that_shrinks_though_the_other_grows():
    """Bilinear sampling alone would skip three of four columns: aliasing."""
    stripes = np.zeros((20, 128, 3), np.float32)
    stripes[:, ::4] = 200
    np.testing.assert_allclose(resize(stripes, (40, 32)), 50, atol=1e-3)


# --- masks ---


def left_half(dtype=np.uint8, value=255):
    mask = np.zeros((20, 30), dtype)
    mask[:, :15] = value
    return mask


@pytest.mark.parametrize("ground_truth", [True, False])
@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("a.png", left_half()),
        ("a.png", left_half(value=1)),
        ("a.png", left_half(value=100)),
        ("a.png", left_half(np.uint16, 255)),
        ("a.png", left_half(np.uint16, 1)),
        ("a.png", left_half(np.uint16, 65535)),
        ("a.png", np.maximum(left_half(), 30)),
        ("a.png", np.dstack([left_half(value=200)] * 3)),
        ("a.png", np.dstack([left_half() * 0] * 2 + [left_half()])),
        ("a.png", np.dstack([left_half() * 0] * 3 + [left_half()])),
        ("a.png", np.dstack([left_half() * 0 + 255] * 3 + [left_half()])),
        ("a.png", np.dstack([left_half()] * 3 + [left_half() * 0 + 255])),
        ("a.png", np.dstack([left_half()] * 4)),
        ("a.jpg", left_half()),
        ("a.jpg", left_half(value=100)),
        ("a.webp", left_half()),
        ("a.tif", left_half(np.uint16, 1)),
        ("a.npy", left_half(np.bool_, True)),
        ("a.npy", left_half(np.int64, 1)),
        ("a.npy", left_half(np.float64, 1.0)),
        ("a.npy", left_half(">u2", 255)),
    ],
)
def test_a_mask_marks_the_same_whatever_numbers_it_has(tmp_path, name, mask, ground_truth):
    """0 and 1, 0 and 255, in 16 bits, in the alpha channel, in a lossy file: each used to mark nothing somewhere."""
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, mask)
    else:
        assert cv2.imwrite(str(path), mask)
    found = read_mask(path, ground_truth=ground_truth)
    assert found.dtype == np.bool_
    assert (found != left_half(np.bool_, True)).mean() <= (0.05 if name.endswith(("jpg", "webp")) else 0)


def test_more_than_two_values(tmp_path):
    """Ground truth numbers its defects; a region of interest has soft edges."""
    mask = np.repeat(np.array([0, 1, 2, 100, 255], np.uint8), 10)[None, :].repeat(20, 0)
    cv2.imwrite(str(tmp_path / "a.png"), mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", ground_truth=True), mask > 0)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", ground_truth=False), mask == 255)


@pytest.mark.parametrize(
    ("name", "mask", "says"),
    [
        ("a.png", left_half() * 0 + 255, "all its values are 255"),
        ("a.png", left_half() * 0 + 1, "all its values are 1"),
        ("a.jpg", left_half(value=1), "lossy"),
        ("a.jpg", left_half(value=20), "lossy"),
        ("a.png", np.dstack([left_half()] * 3 + [left_half().T.copy().reshape(20, 30)]), "alpha channel"),
        ("a.npy", left_half(np.int8, -1), "all its values are -1, 0"),
        ("a.npy", left_half(np.float64, np.nan), "finite"),
        ("a.npy", left_half() * 0 + 1, "all its values are 1"),
    ],
)
def test_a_mask_that_marks_nothing_or_everything_says_which_values_it_has(tmp_path, name, mask, says):
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, mask)
    else:
        assert cv2.imwrite(str(path), mask)
    for ground_truth in (True, False):
        with pytest.raises(ImageError, match=rf"{name}: .*{says}"):
            read_mask(path, ground_truth=ground_truth)


def test_only_ground_truth_may_be_black(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), left_half() * 0)
    assert not read_mask(tmp_path / "a.png", ground_truth=True).any()
    with pytest.raises(ImageError, match="all its values are 0"):
        read_mask(tmp_path / "a.png", ground_truth=False)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(8, 300), st.integers(8, 300)),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.integers(0, 2**32 - 1),
)
def test_grey_gives_the_numbers_of_its_three_copies(shape, size, seed):
    """A grey picture is one plane until it has been resized. Every step that sees it larger must not notice."""
    grey = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    view, copies = images.to_rgb(grey), np.repeat(grey[:, :, None], 3, axis=2)
    assert view.strides[2] == 0
    np.testing.assert_array_equal(view, copies)
    np.testing.assert_array_equal(resize(view, size), resize(copies, size))
    assert resize(view, size).flags.c_contiguous
    inside = grey > 100
    np.testing.assert_array_equal(images.blank(view, inside, (1, 2, 3)), images.blank(copies, inside, (1, 2, 3)))
    assert images.thumbnail(view, 64) == images.thumbnail(copies, 64)
    np.testing.assert_array_equal(images.shown(view), copies)


def test_the_fingerprint_of_a_grey_picture_is_its_planes(rng):
    grey = rng.integers(0, 256, (90, 120), dtype=np.uint8)
    known = images.fingerprint(images.to_rgb(grey))
    assert images.fingerprint(images.to_rgb(grey.copy())) == known
    for changed in (np.roll(grey, 1, axis=0), np.roll(grey, 1, axis=1), grey.T.copy(), grey ^ (np.arange(120) == 5)):
        assert images.fingerprint(images.to_rgb(changed.astype(np.uint8))) != known
