"""What many tests inspect: pictures of synthetic parts, and a network that counts what it sees."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import numpy.typing as npt

from patchbank.backbones.fake import FakeBackbone

Picture = npt.NDArray[np.uint8]


def noisy(image: npt.ArrayLike, rng: np.random.Generator, sigma: float) -> Picture:
    """The image as a camera sees it: with noise, in whole numbers of 0..255."""
    image = np.asarray(image, np.float64)
    return np.clip(image + rng.normal(0, sigma, image.shape), 0, 255).astype(np.uint8)


def striped(
    rng: np.random.Generator, defect: bool = False, stain: bool = False, size: tuple[int, int] = (96, 128)
) -> Picture:
    """A part with upright stripes. defect: a bright square in the lower right quarter. stain: a dark one in the upper
    left quarter, for what is good and yet like nothing else."""
    height, width = size
    image = noisy(np.broadcast_to(100 + 40 * np.sin(np.arange(width) / 6)[None, :, None], (*size, 3)), rng, 4)
    if defect:
        image[height * 5 // 8 : height * 7 // 8, width * 5 // 8 : width * 7 // 8] = 250
    if stain:
        image[height // 8 : height * 3 // 8, width // 8 : width * 3 // 8] = 20
    return image


def mottled(rng: np.random.Generator, count: int, size: tuple[int, int] = (64, 64)) -> list[Picture]:
    """Parts with the same soft pattern of colours, which the generator makes up."""
    base = cv2.resize(rng.integers(60, 200, (8, 8, 3)).astype(np.uint8), size[::-1])
    return [noisy(base, rng, 4) for _ in range(count)]


class Counting(FakeBackbone):
    """Counts the images that it sees, and fails as Ctrl-C does after some of them."""

    def __init__(self, stop_after: int = 10**9) -> None:
        super().__init__()
        self.seen, self._stop, self._lock = 0, stop_after, threading.Lock()

    def features(self, images):
        with self._lock:
            if self.seen >= self._stop:
                raise KeyboardInterrupt
            self.seen += 1
        return super().features(images)
