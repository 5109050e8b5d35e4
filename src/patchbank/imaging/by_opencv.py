"""OpenCV's decoders, without what they print."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from patchbank.arrays import Array
from patchbank.errors import ImageError

_quiet_lock, _quiet_depth, _loud_level = threading.Lock(), 0, 0


def by_opencv(data: bytes, as_stored: bool) -> Array:
    """(H, W, 3) RGB; as stored: (H, W, 1, 3 or 4). Not turned: that depends on OpenCV's version and the format.
    ImageError where OpenCV makes nothing of it."""
    import cv2

    flags = (
        cv2.IMREAD_UNCHANGED if as_stored else cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    )
    try:
        with quiet(cv2):
            image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"cannot be decoded ({error.err or error})") from error
    if image is None:
        raise ImageError("is damaged: its header is right, its picture is not; copy it again")
    if image.ndim == 3 and image.shape[2] in (3, 4):
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return image if image.ndim == 3 else image[:, :, None]


@contextmanager
def quiet(cv2: Any) -> Iterator[None]:
    """OpenCV writes its own warnings to stderr; ours say the same in one line. The level is one for all threads: the
    last that leaves sets it back."""
    global _quiet_depth, _loud_level
    log = getattr(cv2.utils, "logging", None)
    if log is None:
        yield
        return
    with _quiet_lock:
        if _quiet_depth == 0:
            _loud_level = log.getLogLevel()
            log.setLogLevel(log.LOG_LEVEL_SILENT)
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                log.setLogLevel(_loud_level)
