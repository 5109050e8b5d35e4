"""A camera that is none: it shows the images of a folder in turn, and fails as cameras do. To try a line out."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from patchbank import CameraError
from patchbank.imaging.images import SUFFIXES, read_image
from patchbank.line.cameras.base import Frame

FAULTS = ("hang", "exception", "frozen", "stale", "black", "torn", "incomplete", "dies")
_MOST_IMAGES = 1000


class FakeCamera:
    """Implements `Camera`. images: a folder, or pictures of (H, W, 3) uint8 RGB. faults: which happen, each time one of
    them, to the share `fault_rate` of the pictures. hang_ms: how long it hangs, and how long it is dead. plan: faults
    by the number of the picture, for tests."""

    self_paced = False

    def __init__(
        self,
        images: str | Sequence[Any],
        faults: Sequence[str] = (),
        fault_rate: float = 0.0,
        hang_ms: int = 5000,
        seed: int = 0,
        plan: Mapping[int, str] | None = None,
    ) -> None:
        self._images, self._hang = images, hang_ms / 1000
        self._faults, self._rate = tuple(faults), fault_rate
        self._random, self._plan = random.Random(seed), dict(plan or {})  # noqa: S311  (not for secrets)
        self._pictures: list[Any] = []
        self._number, self._dead_until = 0, 0.0
        self._last: Frame | None = None
        self.happened: list[str] = []  # the fault of each picture, "" = none

    def open(self) -> str:
        """Reads the images, the first time."""
        if time.monotonic() < self._dead_until:
            raise CameraError("the fake camera is dead for a while")
        if not self._pictures:
            self._pictures = _read(self._images)
        return f"fake camera: {len(self._pictures)} images in turn"

    def grab(self, timeout: float) -> Frame | None:  # noqa: ARG002
        """The next picture, or what goes wrong with it."""
        fault = self._next_fault()
        self.happened.append(fault)
        self._number += 1
        image, complete, at = self._pictures[self._number % len(self._pictures)], True, time.monotonic()
        if fault == "hang":
            time.sleep(self._hang)
        elif fault == "exception":
            raise RuntimeError("the fake driver has a fault")
        elif fault == "dies":
            self._dead_until = time.monotonic() + self._hang
            raise CameraError("the fake camera has died")
        elif fault == "frozen" and self._last is not None:
            image = self._last.image
        elif fault == "stale" and self._last is not None:
            return self._last
        elif fault == "black":
            image = np.zeros_like(image)
        elif fault == "torn":
            image = image.copy()
            image[image.shape[0] // 2 :] = 0
        elif fault == "incomplete":
            complete = False
        self._last = Frame(self._number, datetime.now(UTC), at, image.copy(), complete=complete, source="fake")
        return self._last

    def done(self, frame: Frame, usable: bool) -> None:
        """Nothing is to be done."""

    def close(self) -> None:
        """Nothing is to be closed."""

    def _next_fault(self) -> str:
        if len(self.happened) in self._plan:
            return self._plan[len(self.happened)]
        if self._faults and self._random.random() < self._rate:
            return self._random.choice(self._faults)
        return ""


def _read(images: str | Sequence[Any]) -> list[Any]:
    """The pictures, at least two: a camera never shows the same one twice in a row."""
    if not isinstance(images, str):
        pictures = [np.asarray(each) for each in images]
    else:
        folder = Path(images)
        paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)[:_MOST_IMAGES]
        pictures = [np.asarray(read_image(path)).astype(np.uint8) for path in paths]
    if len(pictures) < 2:
        raise CameraError(f"images: expected at least two images; got {len(pictures)} in {str(images)[:200]}")
    return pictures
