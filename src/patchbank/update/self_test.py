"""The self-test of a changed model: where its images come from, when some have left."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from patchbank.arrays import Array
from patchbank.features.extract import resized
from patchbank.fit.self_test import IMAGES, ImageSample
from patchbank.fitted.model import FittedModel
from patchbank.update.recalibrate import TrainingImages


def sample_of_added(model: FittedModel, gone: Collection[int]) -> ImageSample:
    """A sample of the images that an update adds: as many as its self-test will lack."""
    staying = [each for each in model.self_test_images if each.image not in gone]
    return ImageSample(model.config.seed, budget=0, most=IMAGES - len(staying))


def more_images(model: FittedModel, sample: ImageSample, again: TrainingImages | None) -> Iterator[tuple[int, Array]]:
    """Number and picture of images that may join the self-test: training images, in a seeded order, where these are at
    hand; then images that were added, because these were picked for being odd."""
    if again:
        known = again.calibration if again.calibration.names else again.filling
        order = np.random.default_rng([model.config.seed, 4]).permutation(len(known.names))
        for place in order.tolist():
            number, image = known.image(place)
            yield number, resized(image, model.backbone, model.config, model.roi)
    yield from sample.pictures().items()
