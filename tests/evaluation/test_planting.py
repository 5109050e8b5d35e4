"""Planted defects: visible where the mask says, and nowhere else; the same seed plants the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from patchbank.errors import ImageError
from patchbank.evaluation.planting import KINDS, plant, plant_each


@pytest.fixture
def texture(rng):
    return cv2.resize(rng.integers(40, 220, (40, 60, 3)).astype(np.uint8), (300, 200))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_what_changed(texture, kind):
    for seed in range(8):
        planted = plant(texture, kind, np.random.default_rng(seed))
        change = np.abs(planted.image.astype(int) - texture).max(axis=2)
        assert planted.kind == kind
        assert planted.mask.sum() >= 12
        assert (change[planted.mask] >= 6).all()
        assert (change[~planted.mask] <= 7).all()
        assert planted.mask.mean() < 0.2  # a defect, not another picture


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_defect(texture, kind):
    one, other = (plant(texture, kind, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one.image, other.image)
    assert (plant(texture, kind, np.random.default_rng(4)).image != one.image).any()


@pytest.mark.parametrize("kind", KINDS)
def test_defects_stay_where_they_may_lie(texture, kind, rng):
    where = np.zeros(texture.shape[:2], np.bool_)
    where[60:120, 100:180] = True
    planted = plant(texture, kind, rng, where=where)
    np.testing.assert_array_equal(planted.image[~where], texture[~where])


def test_foreign_pieces_come_from_the_donor(rng):
    grey = np.full((200, 200, 3), 120, np.uint8)
    stripes = np.tile(np.array([0, 255], np.uint8).repeat(4), 25)[None, :, None] * np.ones((200, 1, 3), np.uint8)
    planted = plant(grey, "foreign", rng, donors=[stripes])
    assert planted.image[planted.mask].std() > 20


def test_a_flat_image_has_nothing_to_move():
    with pytest.raises(ImageError, match="cut"):
        plant(np.full((100, 100, 3), 120, np.uint8), "cut", np.random.default_rng(0))


def test_an_empty_region_is_an_error(texture, rng):
    with pytest.raises(ImageError, match="planted"):
        plant(texture, "spot", rng, where=np.zeros(texture.shape[:2], np.bool_))


def test_each_image_gets_one_and_the_kinds_take_turns(texture, rng):
    images = [np.roll(texture, 7 * n, axis=1) for n in range(7)]
    assert [planted.kind for planted in plant_each(images, rng)] == [*KINDS, KINDS[0]]
    assert [planted.kind for planted in plant_each(images, rng, kinds=("spot",))] == ["spot"] * 7


def test_images_without_a_defect_are_left_out():
    flat = np.full((100, 100, 3), 120, np.uint8)
    assert plant_each([flat, flat], np.random.default_rng(0), kinds=("cut",)) == []


def test_grey_and_many_channels(texture, rng):
    for channels in (1, 6):
        image = np.repeat(texture[:, :, :1], channels, axis=2)
        for kind in KINDS:
            assert plant(image, kind, rng).image.shape == image.shape
