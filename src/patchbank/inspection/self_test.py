"""Does a model score its own images here as it did where it was made?

A model that was fitted on one machine inspects on others: with other processors, threads, libraries, devices. What they
compute may differ by rounding and by nothing else, or the threshold is not that of these scores.
"""

from __future__ import annotations

import math

import numpy as np

from patchbank.errors import ImageError, SelfTestError
from patchbank.fit.self_test import measured
from patchbank.fitted.model import FittedModel
from patchbank.fitted.self_test import SelfTestImage
from patchbank.imaging import lossless
from patchbank.results.self_test import SelfTest, SelfTestScore
from patchbank.version import __version__

# Of a patch's length. Rounding makes 3e-6 of it on a processor without AVX, the smallest fault that was tried, a bank
# rounded to 16 bits, 3e-4 (docs/results/self-test.md).
TOLERANCE = 1e-4


def run_self_test(model: FittedModel) -> SelfTest:
    """Scores the model's images again. Raises SelfTestError where a score, a patch's distance or the patches' length
    differs by more than TOLERANCE, or where the model has no images."""
    if not model.self_test_images:
        raise SelfTestError(
            "the model has no self-test: it was made by a patchbank before 0.2, or its images were too large or have "
            "left; expected one with images: patchbank update MODEL --images FOLDER takes some of the training images"
        )
    scores = scored_again(model)
    worst = max(scores, key=lambda each: each.difference)
    if not worst.difference <= TOLERANCE:
        raise SelfTestError(
            f"the model does not score its own images as it did: {worst.image} had the score {worst.expected:.6g}, "
            f"now {worst.score:.6g}; its patches differ by {worst.difference:.1e} of their length, expected at most "
            f"{TOLERANCE:.0e}. Do not inspect with it here: this device, ONNX Runtime or patchbank {__version__} "
            "computes otherwise, or the file was changed (copy it again, or fit again)"
        )
    return SelfTest(scores, TOLERANCE)


def scored_again(model: FittedModel) -> tuple[SelfTestScore, ...]:
    """Each image's score now beside the one that it had, however much they differ."""
    return tuple(_compared(model, each) for each in model.self_test_images)


def _compared(model: FittedModel, expected: SelfTestImage) -> SelfTestScore:
    name = model.bank.images[expected.image]
    try:
        now = measured(model, lossless.decoded(expected.picture, model.config.groups))
    except ImageError as error:
        raise SelfTestError(f"the self-test's picture of {name} cannot be used ({error})") from error
    apart = [abs(now.score - expected.score), abs(now.length - expected.length)]
    if now.distances.shape == expected.distances.shape:
        apart.append(float(np.abs(now.distances - expected.distances).max()))
    else:
        apart.append(math.inf)
    difference = float(np.max(apart))  # NaN, if one is
    if difference:
        difference = difference / expected.length if expected.length else math.inf
    return SelfTestScore(name, expected.score, now.score, difference if difference == difference else math.inf)
