"""The picture of an inspection's anomaly map, drawn from the grid that is kept: over the image, or alone where that is
gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from patchbank import anomaly_map
from patchbank.imaging.boxes import fitted
from patchbank.imaging.images import encode_png
from patchbank.imaging.overlay import colour_scale, heatmap, outline, overlay
from patchbank.imaging.roi import Roi
from patchbank.store import heats
from patchbank.store.heats import Heat
from patchbank.store.inspections import Region

Only = Literal["map", "layer"]
Colours = Literal["orange", "blue"]


@dataclass(frozen=True, slots=True)
class Look:
    """How the picture looks. opacity: of the heat, 0..1. contours: of the regions. size: the longer side is at most so
    many pixels. only: map = opaque colours without the image; layer = transparent ones to lay over it."""

    opacity: float = 1.0
    contours: bool = True
    size: int = 1200
    colours: Colours = "orange"
    only: Only | None = None


@dataclass(frozen=True, eq=False)
class _Outline:
    contour: npt.NDArray[np.int32]


def heat_png(
    heat: Heat,
    image: npt.NDArray[np.uint8] | None,
    size: tuple[int, int],
    threshold: float | None,
    regions: Sequence[Region],
    roi: Roi | None,
    look: Look,
) -> bytes:
    """A PNG. image: (H, W, 3) uint8 RGB, None = gone or not wanted. size: (H, W) of the inspected image. threshold: of
    the map, which the colours are multiples of; None scales by the map's own maximum. roi: the model's region of
    interest, outside of which the map is 0. With opacity 1 and size at least the image's, it is `Result.overlay`."""
    size = (image.shape[0], image.shape[1]) if image is not None else size
    scale = min(1.0, look.size / max(size))
    shown = (max(1, round(scale * size[0])), max(1, round(scale * size[1])))
    distances, counted = heats.decode(heat)
    found = anomaly_map(
        distances,
        image_size=shown,
        input_size=(heat.input_h, heat.input_w),
        smoothing_sigma=heat.sigma,
        counted=counted,
        roi=roi,
    )
    outlines = [each for region in regions for each in _outlines(region, scale)] if look.contours else []
    if look.only == "layer":
        return _layer(found, threshold, look)
    if look.only == "map" or image is None:
        picture = heatmap(found, threshold, colours=look.colours)
        outline(picture, outlines)
        return encode_png(picture)
    plain = fitted(image, look.size)
    if look.opacity == 1.0:
        return encode_png(overlay(plain, found, threshold, outlines, colours=look.colours))
    painted = overlay(plain, found, threshold, colours=look.colours).astype(np.float32)
    mixed = np.rint(plain + np.float32(look.opacity) * (painted - plain)).astype(np.uint8)
    outline(mixed, outlines)
    return encode_png(mixed)


def _layer(found: npt.NDArray[np.float32], threshold: float | None, look: Look) -> bytes:
    import cv2

    table = colour_scale(look.colours)  # (256, 4) RGBA, for 0 to twice the threshold
    table[:, 3] = np.rint(table[:, 3] * look.opacity)
    top = float(found.max()) if threshold is None else 2.0 * threshold
    levels = np.clip(found * np.float32(255 / max(top, 1e-30)) + np.float32(0.5), 0, 255).astype(np.uint8)
    return cv2.imencode(".png", table[:, [2, 1, 0, 3]][levels])[1].tobytes()


def _outlines(region: Region, scale: float) -> list[_Outline]:
    """The region's contour, or its box where none was delivered, in pixels of the picture."""
    polygons = [np.reshape(each[: len(each) // 2 * 2], (-1, 2)) for each in region.contour or [] if len(each) > 1]
    if not polygons:
        right, bottom = region.x + region.w - 1, region.y + region.h - 1
        polygons = [np.array([(region.x, region.y), (right, region.y), (right, bottom), (region.x, bottom)])]
    placed = [np.clip((points + 0.5) * scale - 0.5, -1e6, 1e6) for points in polygons]
    return [_Outline(np.rint(points).astype(np.int32)) for points in placed]
