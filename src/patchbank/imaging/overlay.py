"""The anomaly map and its regions, drawn over the image.

Colours mean multiples of the pixel threshold, not shares of the image's own maximum: two pictures compare, and a good
part stays clean. Up to 0.8 of the threshold nothing is drawn (normal parts reach 0.7); at the threshold the colour is
orange, at twice it dark red. On parts that are orange themselves (rust, copper, wood) the second scale, cyan to dark
blue, shows better. Lightness falls all the way, so each scale survives a grey print and colour-blind eyes. Regions have
a contour, white between dark lines, which shows on any part and with any scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from patchbank.arrays import ByteArray, FloatArray, IntArray
from patchbank.errors import ConfigError

_TOP = 2.0  # multiples of the threshold at which the scale ends
# Each: (multiple of the threshold, red, green, blue, opacity)
_SCALES = {
    "orange": (
        (0.0, 255, 255, 245, 0.0),
        (0.8, 255, 238, 150, 0.0),
        (0.9, 254, 200, 70, 0.15),
        (1.0, 250, 135, 25, 0.42),
        (1.4, 215, 35, 30, 0.60),
        (2.0, 110, 0, 60, 0.70),
    ),
    "blue": (
        (0.0, 245, 255, 255, 0.0),
        (0.8, 170, 250, 255, 0.0),
        (0.9, 90, 225, 255, 0.18),
        (1.0, 0, 180, 255, 0.48),
        (1.4, 20, 85, 235, 0.64),
        (2.0, 25, 0, 110, 0.72),
    ),
}
COLOURS = tuple(_SCALES)


class Outlined(Protocol):
    """The part of a region that drawing needs: `patchbank.Region` has it."""

    @property
    def contour(self) -> IntArray: ...


def heatmap(anomaly_map: FloatArray, threshold: float | None, low: float = 0.0, colours: str = "orange") -> ByteArray:
    """The anomaly map alone, as opaque colours: (H, W) float32 -> (H, W, 3) uint8 RGB. Arguments as for `overlay`."""
    table, _ = _tables(colours)
    return table[_levels(anomaly_map, threshold, low)]


def overlay(
    image: ByteArray,
    anomaly_map: FloatArray,
    threshold: float | None,
    regions: Sequence[Outlined] = (),
    low: float = 0.0,
    colours: str = "orange",
) -> ByteArray:
    """The image under its heat map, with the regions outlined: a new (H, W, 3) uint8 RGB.

    image: (H, W, 3) uint8 RGB. anomaly_map: (H, W) float32. threshold: that of the map, in its unit; None scales by the
    map's own maximum, and then two pictures do not compare. low: the score that counts as nothing at all. regions:
    their outlines, (N, 2) pixels (x, y). colours: the scale, one of COLOURS. Raises ValueError for arrays that do not
    fit each other, ConfigError for another scale.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.shape[:2] != anomaly_map.shape:
        raise ValueError(
            f"expected an image (H, W, 3) of uint8 and a map (H, W); got {image.shape} of {image.dtype} "
            f"and {anomaly_map.shape}"
        )
    table, opacity = _tables(colours)
    levels = _levels(anomaly_map, threshold, low)
    picture = image.copy()
    rows = np.flatnonzero(opacity[levels.max(axis=1)])  # opacity never falls, so these are the rows with any heat
    if rows.size:
        part = slice(rows[0], rows[-1] + 1)
        weight = opacity[levels[part], None]  # (h, W, 1) uint16 of 256
        mixed = picture[part] * (np.uint16(256) - weight) + table[levels[part]] * weight
        picture[part] = (mixed >> 8).astype(np.uint8)
    outline(picture, regions)
    return picture


def _levels(anomaly_map: FloatArray, threshold: float | None, low: float) -> ByteArray:
    """(H, W) scores -> (H, W) uint8, 0 for `low` and 255 for `_TOP` thresholds."""
    top = float(anomaly_map.max()) if threshold is None else low + _TOP * (threshold - low)
    scale = 255 / max(top - low, 1e-30)
    with np.errstate(over="ignore"):
        return np.clip((anomaly_map - np.float32(low)) * np.float32(scale) + np.float32(0.5), 0, 255).astype(np.uint8)


def colour_scale(colours: str = "orange") -> ByteArray:
    """(256, 4) uint8 RGBA: the heat map's colours for 0 to twice the pixel threshold, as `overlay` lays them over an
    image."""
    table, opacity = _tables(colours)
    return np.column_stack([table, np.minimum(opacity, 255)]).astype(np.uint8)


def check_colours(colours: str) -> None:
    """Raises ConfigError for a scale that there is not."""
    if colours not in _SCALES:
        raise ConfigError(f"colours: expected one of {', '.join(COLOURS)}; got {colours!r}")


@lru_cache(maxsize=len(_SCALES))
def _tables(colours: str) -> tuple[ByteArray, npt.NDArray[np.uint16]]:
    """Colour (256, 3) and opacity (256,) of 256, for each level."""
    check_colours(colours)
    at, *channels = zip(*_SCALES[colours], strict=True)
    levels = np.linspace(0, _TOP, 256)
    red, green, blue, opacity = (np.interp(levels, at, channel) for channel in channels)
    return np.stack([red, green, blue], axis=1).astype(np.uint8), np.rint(256 * opacity).astype(np.uint16)


def outline(picture: ByteArray, regions: Sequence[Outlined]) -> None:
    """Draws the regions' contours into a picture, (H, W, 3) uint8 RGB: white lines with a dark edge, which show on any
    image, as wide as the image's size asks for."""
    import cv2

    outlines: list[Any] = [np.ascontiguousarray(region.contour, np.int32) for region in regions]
    width = max(1, round(min(picture.shape[:2]) / 300))
    for colour, line in (((25, 25, 25), 3 * width), ((255, 255, 255), width)):
        cv2.drawContours(picture, outlines, -1, colour, line, cv2.LINE_AA)
