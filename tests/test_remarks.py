"""What a fit says about its training images as a whole: too few of them, copies among them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parts import mottled
from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.fit.remarks import FEW, copies, doubts, remarks

SMALL = Config(image_size=64, coreset_ratio=0.3, smoothing_sigma=0.5, thumbnail_size=0)


def fitted(images: list[np.ndarray]) -> PatchCore:
    return PatchCore.fit(images, SMALL, backbone=FakeBackbone())


def test_rows_that_are_equal_to_the_last_bit_are_copies() -> None:
    """Distances do not count: copies may have different ones, and different images may have equal ones."""
    measures = np.arange(24, dtype=np.float32).reshape(4, 6)
    measures[2] = measures[0]
    measures[2, 4:] = 99
    measures[3, 4:] = measures[1, 4:]
    assert copies(measures, list("abcd")) == [("a", "c")]
    measures[2, 0] = np.nextafter(measures[2, 0], np.float32(99))
    assert copies(measures, list("abcd")) == []


def test_copies_are_named(rng: np.random.Generator) -> None:
    """8 copies of each picture: 20 of 160 new good parts were flagged, and nothing was said."""
    pictures = mottled(rng, 24)
    assert list(doubts(fitted(pictures))) == []
    said = list(doubts(fitted([*pictures, pictures[3], pictures[3], pictures[5]])))
    assert len(said) == 1
    assert "2 pictures are there more than once, 5 images in all (image 3 = image 24 and 1 more, for one)" in said[0]
    assert "keep one of each" in said[0]


def test_one_picture_many_times_is_explained(rng: np.random.Generator) -> None:
    said = list(doubts(fitted(mottled(rng, 1) * 25)))
    assert len(said) == 1
    assert "all 25 training images are the same picture" in said[0]


@pytest.mark.parametrize(("n", "few"), [(1, True), (FEW - 1, True), (FEW, False)])
def test_few_images_are_called_few(rng: np.random.Generator, n: int, few: bool) -> None:
    config = SMALL if n > 1 else dataclasses.replace(SMALL, calibration="none")
    model = PatchCore.fit(mottled(rng, n), config, backbone=FakeBackbone())
    said = [text for text in remarks(model) if text.startswith(f"only {n} training image")]
    assert len(said) == few
