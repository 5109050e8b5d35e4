"""The images of a model's self-test: training images as the network got them, with the scores that they had."""

from __future__ import annotations

from dataclasses import dataclass

from patchbank.arrays import FloatArray
from patchbank.config import Config
from patchbank.util.wording import brief

MAX_IMAGES = 8  # in a file; a fit keeps fewer


@dataclass(frozen=True, eq=False)
class SelfTestImage:
    """One training image, and how the model scored it when it was made.

    image: its number in the bank's `images`. picture: (H', W', 3 G) as `imaging.lossless` encodes it. score: the
    image's score. length: the root mean square of its patches' Euclidean lengths, which differences are held against.
    distances: (h, w) float32, the patches' distances to the bank; 0 where none counts.
    """

    image: int
    picture: bytes
    score: float
    length: float
    distances: FloatArray

    __repr__ = brief


def fits(config: Config, size: tuple[int, int]) -> bool:
    """Says whether a picture of this (height, width) is about as large as an image that the model inspects. Very long
    images come out larger, because their short side is rounded up."""
    side = config.image_size
    return size[0] * size[1] <= 2 * max(side[0], 64) * max(side[-1], 64)
