"""The patch grid of an inspection, from which its anomaly map is computed again: 4 kB in place of a picture of 60 to
770.

What is kept are the distances of which the map is made (`Result.distances`), before any scaling of the image's score,
as float16: a map is off by at most 0.05 % of the largest one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchbank.errors import StoreValueError
from patchbank.util import grids

MOST_PATCHES = grids.MOST
_MOST_SIGMA = 100.0  # pixels: the most that a model may have
_MOST_SIDE = 1 << 16


@dataclass(frozen=True, slots=True)
class Heat:
    """A grid as it is kept. h, w: rows and columns of patches. input_h, input_w: the size to which the image was
    resized. sigma: smoothing of the map, in pixels. grid: zlib of h x w float16, little-endian. counted: zlib of h x w
    bits, the patches in the region of interest; None = all."""

    h: int
    w: int
    input_h: int
    input_w: int
    sigma: float
    grid: bytes
    counted: bytes | None = None


def encode(
    distances: npt.NDArray[np.float32],
    input_size: tuple[int, int],
    sigma: float,
    counted: npt.NDArray[np.bool_] | None = None,
) -> Heat:
    """A result's distances (h, w) as they are kept. input_size: (H', W'). counted: (h, w), None = all."""
    h, w = distances.shape
    bits = None if counted is None else grids.packed_bits(counted)
    return checked(Heat(h, w, *input_size, sigma, grids.packed(distances), bits))


def decode(heat: Heat) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None]:
    """Distances (h, w) float32 and, unless all patches count, which do (h, w). Raises StoreValueError for a damaged
    grid."""
    _check_size(heat)
    try:
        distances = grids.unpacked(heat.grid, heat.h, heat.w)
        return distances, None if heat.counted is None else grids.unpacked_bits(heat.counted, heat.h, heat.w)
    except ValueError as error:
        raise StoreValueError(f"heat: {error}") from error


def checked(heat: Heat) -> Heat:
    """A grid that comes from outside, once it was decoded. Raises StoreValueError."""
    if not 0 <= heat.sigma <= _MOST_SIGMA or not (0 < heat.input_h <= _MOST_SIDE and 0 < heat.input_w <= _MOST_SIDE):
        raise StoreValueError("heat: expected sigma of 0 to 100 pixels and an input size of 1 to 65536")
    distances, counted = decode(heat)
    if not (np.isfinite(distances).all() and distances.min() >= 0):
        raise StoreValueError("heat: expected distances, which are finite and at least 0")
    if counted is not None and not counted.any():
        raise StoreValueError("heat: expected a patch that counts; got none")
    return heat


def _check_size(heat: Heat) -> None:
    if not (heat.h > 0 and heat.w > 0 and heat.h * heat.w <= MOST_PATCHES):
        raise StoreValueError(f"heat: expected 1 to {MOST_PATCHES} patches; got {heat.h} x {heat.w}")
