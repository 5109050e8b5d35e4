"""An overlay, an explanation and a report show the picture that was inspected, or are refused: never the next one."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parts import striped
from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.errors import ImageError
from patchbank.imaging.images import fingerprint
from patchbank.reports.inspection import ReportRow

READERS = {
    "overlay": lambda result: result.overlay(),
    "explain": lambda result: result.explain(),
    "read_again": lambda result: result.read_again(),
    "report": lambda result: ReportRow.of(result, overlay=np.zeros((96, 128, 3), np.uint8)),
}


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(3)
    config = Config(image_size=64, coreset_ratio=0.3, smoothing_sigma=0.5)
    return PatchCore.fit([striped(rng) for _ in range(12)], config, backbone=FakeBackbone())


@pytest.fixture
def parts(rng):
    return striped(rng, defect=True), striped(rng)


def as_file(folder, picture):
    path = folder / "latest.bmp"  # of one size whatever it shows, as a camera writes it
    assert cv2.imwrite(str(path), picture)
    os.utime(path, (1e9, 1e9))  # nor does the time tell
    return path


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_was_rewritten_is_refused(model, parts, tmp_path, reader):
    path = as_file(tmp_path, parts[0])
    result = model.predict(path)
    READERS[reader](result)  # still the same
    as_file(tmp_path, parts[1])
    with pytest.raises(ImageError, match=r"latest\.bmp: is another picture now .* a file of its own"):
        READERS[reader](result)
    as_file(tmp_path, parts[0])  # the same bytes again are the same picture
    READERS[reader](result)


@pytest.mark.parametrize("reader", READERS)
def test_an_array_that_was_used_again_is_refused(model, parts, reader):
    buffer = parts[0].copy()
    (result,) = model.predict([buffer])  # those of a list are not copied
    right = result.overlay()
    buffer[:] = parts[1]
    with pytest.raises(ImageError, match=r"image 0: is another picture now .* an array of its own"):
        READERS[reader](result)
    buffer[:] = parts[0]
    assert (result.overlay() == right).all()


def test_one_value_of_one_pixel_tells(model, parts):
    buffer = parts[0].copy()
    (result,) = model.predict([buffer])  # those of a list are not copied
    buffer[-1, -1, -1] ^= 1
    with pytest.raises(ImageError, match="another picture"):
        result.overlay()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(8, 90),
    st.integers(8, 90),
    st.sampled_from([np.uint8, np.float32]),
    st.integers(0, 2**32 - 1),
)
def test_the_fingerprint_is_of_the_pixels_and_of_nothing_else(height, width, dtype, seed):
    """The same pixels in other memory have the same one; another value, shape or order has not."""
    rng = np.random.default_rng(seed)
    image = (255 * rng.random((height, width, 3))).astype(dtype)
    found = fingerprint(image)
    assert len(found) == 16
    assert fingerprint(np.asfortranarray(image)) == found
    assert fingerprint(np.repeat(image, 2, axis=1)[:, ::2]) == found
    other = image.copy()
    other[rng.integers(height), rng.integers(width), rng.integers(3)] += 1
    assert fingerprint(other) != found
    assert fingerprint(image.reshape(height, 3, width)) != found
    assert fingerprint(np.roll(image, 1, axis=0)) != found


@pytest.mark.parametrize("axis", [0, 1])
def test_a_part_that_only_moved_is_another_picture(axis):
    """Sums alone would not see it: a part before a plain ground, moved by any number of pixels or rows."""
    plain = np.zeros((512, 512, 3), np.uint8)
    plain[200:230, 200:230] = 200
    found = {fingerprint(np.roll(plain, shift, axis)) for shift in range(0, 256, 4)}
    assert len(found) == 64


def test_a_part_that_moved_by_a_whole_row_of_sums_is_another_picture():
    """4093 columns of 8 bytes are 10 914 pixels and 2 bytes; three rows of them a whole number of pixels."""
    plain = np.zeros((700, 701, 3), np.uint8)
    plain[20:30, 200:230] = 200
    moved = np.roll(plain.reshape(-1), 3 * 8 * 4093).reshape(plain.shape)
    assert fingerprint(moved) != fingerprint(plain)


def test_large_images_count_to_the_last_byte():
    image = np.zeros((700, 701, 3), np.uint8)  # several rows of sums, and a rest
    prints = {fingerprint(image)}
    for place in (0, 4093 * 8 - 1, 4093 * 8, image.size // 2, image.size - 1):
        changed = image.copy()
        changed.reshape(-1)[place] = 1
        prints.add(fingerprint(changed))
    assert len(prints) == 6
