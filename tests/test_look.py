"""Brightness, sharpness and size of an image, against values that follow from their definition."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from parts import noisy
from patchbank.features.extract import image_statistics


def test_a_flat_image():
    look = image_statistics(np.full((64, 96, 3), 70, np.uint8), (640, 960))
    assert look == pytest.approx((70, 0.25, 640, 960))


def test_a_ramp_is_as_smooth_as_can_be():
    """Four times coarser, its steps are four times higher."""
    ramp = np.tile(np.arange(128, dtype=np.float32), (128, 1))[:, :, None].repeat(3, axis=2)
    look = image_statistics(ramp, (128, 128))
    assert look.sharpness == pytest.approx(0.25, rel=0.05)
    assert look.brightness == pytest.approx(63.5, abs=0.5)


def test_noise_is_as_sharp_as_can_be(rng):
    """Averaged over 4 x 4 pixels, white noise is a quarter of what it was."""
    assert image_statistics(rng.normal(128, 20, (256, 256, 3)).astype(np.float32), (1, 1)).sharpness == pytest.approx(
        4, rel=0.1
    )


def test_blur_and_noise_move_it_apart(rng):
    image = cv2.resize(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8), (192, 192), interpolation=cv2.INTER_CUBIC)
    sharp = [
        image_statistics(cv2.GaussianBlur(image, (0, 0), s) if s else image, (1, 1)).sharpness for s in (4, 2, 1, 0)
    ]
    assert sharp == sorted(sharp)
    grainy = noisy(image, rng, 10)
    assert image_statistics(grainy, (1, 1)).sharpness > 1.1 * sharp[-1]


def test_all_channels_count():
    image = np.zeros((40, 40, 6), np.uint8)
    image[:, :, 3:] = 60
    assert image_statistics(image, (40, 40)).brightness == 30


def test_nothing_outside_of_the_region_counts(rng):
    inside = np.zeros((96, 120), np.bool_)
    inside[11:70, 20:77] = True
    image = rng.integers(0, 256, (96, 120, 3), dtype=np.uint8)
    other = np.where(inside[:, :, None], image, rng.integers(0, 256, image.shape, dtype=np.uint8))
    assert image_statistics(image, (96, 120), inside) == image_statistics(other, (96, 120), inside)
    image[30:50, 30:50] = 0
    assert image_statistics(image, (96, 120), inside) != image_statistics(other, (96, 120), inside)


def test_a_region_smaller_than_a_pixel_of_the_reduction_is_still_finite():
    inside = np.zeros((384, 384), np.bool_)
    inside[5, 5] = True
    assert np.isfinite(image_statistics(np.full((384, 384, 3), 9, np.uint8), (8, 8), inside)).all()
