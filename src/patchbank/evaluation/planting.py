"""Defects planted on images of good parts, with their masks: to compare settings where no defective part is at hand.

They are stand-ins. A setting that finds more of them tends to find more real defects; the share that it finds says
nothing about real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchbank.arrays import Array, BoolArray, ByteArray, DoubleArray, FloatArray
from patchbank.errors import ImageError
from patchbank.imaging.roi import Roi

_TRIES = 20
_LEAST_PIXELS = 12  # a smaller change is no defect
_VISIBLE = 6.0  # grey levels: a pixel that changed by less is not part of the mask


@dataclass(frozen=True, eq=False)
class Planted:
    """image: (H, W, C) uint8. mask: (H, W) bool, the pixels that changed visibly. kind: one of KINDS."""

    image: ByteArray
    mask: BoolArray
    kind: str


def plant(
    image: Array, kind: str, rng: np.random.Generator, *, donors: Sequence[Array] = (), where: BoolArray | None = None
) -> Planted:
    """Plants one defect of a kind on (H, W, C), values 0..255, at a random place, of random size and strength.

    donors: images that 'foreign' pieces are cut from (without them, from the image itself). where: (H, W) bool, where
    a defect may lie; None = anywhere but within 5 % of the border. Raises ImageError if no try leaves a visible change.
    """
    height, width = image.shape[:2]
    base = image.astype(np.float32)
    if where is None:
        where = np.zeros((height, width), np.bool_)
        where[height // 20 : height - height // 20, width // 20 : width - width // 20] = True
    rows, columns = np.nonzero(where)
    for _ in range(_TRIES if len(rows) else 0):
        at = int(rng.integers(len(rows)))
        changed = _KINDS[kind](base, (float(columns[at]), float(rows[at])), rng, donors)
        changed = np.where(where[:, :, None], np.clip(changed, 0, 255), base)
        mask = np.abs(changed - base).max(axis=2) > _VISIBLE
        if np.count_nonzero(mask) >= _LEAST_PIXELS:
            return Planted(np.rint(changed).astype(np.uint8), mask, kind)
    raise ImageError(f"no visible defect of kind {kind!r} can be planted on this image ({width}x{height} pixels)")


def plant_each(
    images: Sequence[Array], rng: np.random.Generator, *, kinds: Sequence[str] = (), roi: Roi | None = None
) -> list[Planted]:
    """One defect on each of the images, in the region of interest, the kinds in turn; images on which none can be
    planted are left out."""
    found = []
    for number, image in enumerate(images):
        donors = [other for n, other in enumerate(images) if n != number]
        chosen = (kinds or KINDS)[number % len(kinds or KINDS)]
        where = roi.inside((image.shape[0], image.shape[1])) if roi else None
        with suppress(ImageError):  # a flat image offers 'cut' and 'warp' nothing
            found.append(plant(image, chosen, rng, donors=donors, where=where))
    return found


def _scratch(image: FloatArray, at: tuple[float, float], rng: np.random.Generator, _: Sequence[Array]) -> FloatArray:
    """A thin, nearly straight line, darker or brighter."""
    side = _side(image)
    line = _line(image, _walk(at, side * rng.uniform(0.05, 0.2), 0.02, rng), side / 512 * rng.uniform(1, 2.5))
    return image + line[:, :, None] * np.float32(rng.choice([-1, 1]) * rng.uniform(20, 70))


def _crack(image: FloatArray, at: tuple[float, float], rng: np.random.Generator, _: Sequence[Array]) -> FloatArray:
    """A thin, winding, dark line."""
    side = _side(image)
    line = _line(image, _walk(at, side * rng.uniform(0.06, 0.3), 0.25, rng), side / 512 * rng.uniform(0.8, 2))
    return image - line[:, :, None] * np.float32(rng.uniform(15, 55))


def _spot(image: FloatArray, at: tuple[float, float], rng: np.random.Generator, _: Sequence[Array]) -> FloatArray:
    """A soft spot, darker or brighter, a little coloured."""
    import cv2

    side = _side(image)
    blob = cv2.GaussianBlur(
        _blob(image, at, side * rng.uniform(0.008, 0.035), rng), (0, 0), side / 512 * rng.uniform(0.5, 3)
    )
    colour = rng.choice([-1, 1]) * rng.uniform(15, 60) * rng.uniform(0.6, 1.2, image.shape[2])
    return image + blob[:, :, None] * colour.astype(np.float32)


def _foreign(
    image: FloatArray, at: tuple[float, float], rng: np.random.Generator, donors: Sequence[Array]
) -> FloatArray:
    """A piece of another image, laid on."""
    usable = [donor for donor in donors if donor.shape[2] == image.shape[2]]
    return _pasted(image, at, rng, usable[int(rng.integers(len(usable)))] if usable else image)


def _cut(image: FloatArray, at: tuple[float, float], rng: np.random.Generator, _: Sequence[Array]) -> FloatArray:
    """A piece of the image itself, turned and moved: a part where it does not belong, or missing where it does."""
    return _pasted(image, at, rng, image)


def _warp(image: FloatArray, at: tuple[float, float], rng: np.random.Generator, _: Sequence[Array]) -> FloatArray:
    """A dent: the surface is pushed aside around a point."""
    import cv2

    radius = _side(image) * rng.uniform(0.02, 0.05)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    bell = np.exp(-((y - at[1]) ** 2 + (x - at[0]) ** 2) / (2 * (radius / 1.5) ** 2)).astype(np.float32)
    angle, push = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.25, 0.6)
    shift_x, shift_y = np.float32(push * np.cos(angle)), np.float32(push * np.sin(angle))
    to = (x + bell * shift_x, y + bell * shift_y)
    moved: Any = cv2.remap(image, *to, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return moved.reshape(image.shape)


_KINDS: dict[str, Callable[[FloatArray, tuple[float, float], np.random.Generator, Sequence[Array]], FloatArray]] = {
    "scratch": _scratch,
    "crack": _crack,
    "spot": _spot,
    "foreign": _foreign,
    "cut": _cut,
    "warp": _warp,
}
KINDS = tuple(_KINDS)


def _side(image: FloatArray) -> float:
    """The side of a square of the image's area: defects' sizes are shares of it."""
    return float(np.sqrt(image.shape[0] * image.shape[1]))


def _pasted(image: FloatArray, at: tuple[float, float], rng: np.random.Generator, donor: Array) -> FloatArray:
    import cv2

    height, width = image.shape[:2]
    side = _side(image)
    blob = cv2.GaussianBlur(_blob(image, at, side * rng.uniform(0.015, 0.05), rng), (0, 0), side / 512)[:, :, None]
    source = (rng.uniform(0.2, 0.8) * donor.shape[1], rng.uniform(0.2, 0.8) * donor.shape[0])
    turn = cv2.getRotationMatrix2D(source, rng.uniform(0, 360), rng.uniform(0.8, 1.2))
    turn[:, 2] += np.subtract(at, source)
    piece = cv2.warpAffine(donor.astype(np.float32), turn, (width, height), borderMode=cv2.BORDER_REFLECT)
    piece = piece.reshape(image.shape)
    inside = blob[:, :, 0] > 0.5
    if inside.any():  # more or less as bright as what it covers
        piece = piece + (image[inside].mean(axis=0) - piece[inside].mean(axis=0)) * np.float32(rng.uniform(0.3, 1))
    share = blob * np.float32(rng.uniform(0.5, 1))
    return image * (1 - share) + piece * share


def _blob(image: FloatArray, at: tuple[float, float], radius: float, rng: np.random.Generator) -> FloatArray:
    """(H, W) in 0..1: an irregular round shape."""
    import cv2

    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    bumps = sum(rng.normal(0, 0.25 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
    reach = radius * np.maximum(1 + bumps, 0.2)
    stretch = rng.uniform(0.6, 1.5) ** 0.5
    outline = np.stack([at[0] + reach * np.cos(angle) * stretch, at[1] + reach * np.sin(angle) / stretch], axis=1)
    canvas = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(canvas, [np.rint(outline * 16).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=4)
    return canvas.astype(np.float32) / np.float32(255)


def _walk(at: tuple[float, float], length: float, wiggle: float, rng: np.random.Generator) -> DoubleArray:
    """(n, 2) points of a line of a length, in pixels, whose direction drifts."""
    steps = max(6, round(length / 3))
    turn, turns = 0.0, []
    for _ in range(steps):
        turn = 0.8 * turn + rng.normal(0, wiggle)
        turns.append(turn)
    direction = rng.uniform(0, 2 * np.pi) + np.cumsum(turns)
    moves = np.stack([np.cos(direction), np.sin(direction)], axis=1) * (length / steps)
    return np.concatenate([[at], at + np.cumsum(moves, axis=0)])


def _line(image: FloatArray, points: DoubleArray, thickness: float) -> FloatArray:
    """(H, W) in 0..1: a line of any thickness, smooth at its edges; drawn at four times the size around it."""
    import cv2

    height, width = image.shape[:2]
    pad = int(np.ceil(thickness)) + 2
    x0, y0 = np.clip(np.floor(points.min(axis=0)).astype(int) - pad, 0, (width - 1, height - 1))
    x1, y1 = np.clip(np.ceil(points.max(axis=0)).astype(int) + pad, (x0 + 1, y0 + 1), (width, height))
    fine = np.zeros(((y1 - y0) * 4, (x1 - x0) * 4), np.uint8)
    corners = [np.rint((points - (x0, y0)) * 4).astype(np.int32)]
    cv2.polylines(
        fine, corners, isClosed=False, color=255, thickness=max(1, round(thickness * 4)), lineType=cv2.LINE_AA
    )
    result = np.zeros((height, width), np.float32)
    result[y0:y1, x0:x1] = cv2.resize(fine, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA) / np.float32(255)
    return result
