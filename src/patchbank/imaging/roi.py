"""The region of interest: which part of the images counts, in fit, predict, score and threshold alike.

What is ignored is blanked before the network sees it, so it cannot change a score; its patches are neither kept in the
bank nor scored. Places are relative to the image, so that one region serves images of any size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from patchbank.arrays import BoolArray
from patchbank.config import Config
from patchbank.errors import ConfigError, ImageError
from patchbank.imaging.decoding import decode
from patchbank.imaging.formats import HEAD, format_of
from patchbank.imaging.images import read_mask
from patchbank.imaging.resize import scale_mask
from patchbank.util.wording import brief
from patchbank.validation import parse_polygons

RESOLUTION = 1024  # of polygons, which have no size of their own
_LARGEST = 4096  # of a mask's side


@dataclass(frozen=True, eq=False)
class Roi:
    """mask: (H, W) bool, True where images count; it is laid over images of any size."""

    mask: BoolArray

    __repr__ = brief

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or not self.mask.any():
            raise ConfigError("region of interest: expected at least one place that counts; got none")

    def inside(self, size: tuple[int, int]) -> BoolArray:
        """(H, W) bool at another size: True where at least half of a pixel's (or patch's) area counts."""
        return _scaled(self, size)

    def to_png(self) -> bytes:
        """The mask as a PNG, white where images count."""
        import cv2

        return bytes(cv2.imencode(".png", self.mask.astype(np.uint8) * 255)[1])

    @classmethod
    def from_png(cls, data: bytes) -> Roi:
        """The inverse of `to_png`. Raises ValueError or ConfigError for anything else, however large it says it is."""
        if format_of(data[:HEAD]) != "PNG":
            raise ConfigError("region of interest: expected a PNG")
        width, height = struct.unpack(">II", data[16:24].ljust(8, b"\xff"))
        if max(width, height) > _LARGEST:
            raise ConfigError(f"region of interest: expected sides of at most {_LARGEST}; got {width}x{height}")
        return cls(decode(data)[:, :, 0] > 127)

    @classmethod
    def from_config(cls, config: Config) -> Roi | None:
        """The region that `include` and `ignore` describe; None where neither is set. Raises ConfigError."""
        masks = {name: _mask(name, text) for name in ("include", "ignore") if (text := getattr(config, name))}
        if not masks:
            return None
        size = max((mask.shape for mask in masks.values() if isinstance(mask, np.ndarray)), default=None)
        height, width = size or (RESOLUTION, RESOLUTION)
        parts = {name: _raster(mask, (height, width)) for name, mask in masks.items()}
        everything = np.ones((height, width), np.bool_)
        return cls(parts.get("include", everything) & ~parts.get("ignore", ~everything))


@lru_cache(maxsize=8)
def _scaled(roi: Roi, size: tuple[int, int]) -> BoolArray:
    inside = scale_mask(roi.mask, size)
    inside.flags.writeable = False
    return inside


def _mask(name: str, text: str) -> BoolArray | tuple[tuple[tuple[float, float], ...], ...]:
    """Polygons, or what a picture marks."""
    if polygons := parse_polygons(text):
        return polygons
    try:
        return read_mask(text, ground_truth=False)
    except ImageError as error:
        raise ConfigError(f"{name}: cannot use the mask {error}") from error


def _raster(mask: BoolArray | tuple[tuple[tuple[float, float], ...], ...], size: tuple[int, int]) -> BoolArray:
    import cv2

    if isinstance(mask, np.ndarray):
        limited = (min(size[0], _LARGEST), min(size[1], _LARGEST))
        return Roi(mask).inside(limited) if mask.any() else np.zeros(limited, np.bool_)
    canvas, shift = np.zeros((min(size[0], _LARGEST), min(size[1], _LARGEST)), np.uint8), 8
    scale = np.array([canvas.shape[1], canvas.shape[0]], np.float64)
    outlines = [np.rint((np.array(p) * scale - 0.5) * (1 << shift)).astype(np.int32) for p in mask]
    for outline in outlines:  # one by one: overlapping polygons add up
        cv2.fillPoly(canvas, [outline], 1, shift=shift)
    return canvas.astype(np.bool_)
