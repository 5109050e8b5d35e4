"""The patch grid of an inspection, from which its anomaly map is computed again: 4 kB in place of a picture of 60 to
770.

Scores are kept as float16: a map is off by at most 0.05 % of the largest score.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchbank.errors import StoreValueError

MOST_PATCHES = 1 << 20  # of a grid: large images in tiles have 60 000
_LARGEST = float(np.finfo(np.float16).max)


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
    patch_scores: npt.NDArray[np.float32],
    input_size: tuple[int, int],
    sigma: float,
    counted: npt.NDArray[np.bool_] | None = None,
) -> Heat:
    """A result's patch scores (h, w) as they are kept. input_size: (H', W'). counted: (h, w), None = all."""
    h, w = patch_scores.shape
    limited = np.clip(patch_scores, -_LARGEST, _LARGEST).astype("<f2")  # no score becomes infinite
    bits = None if counted is None else zlib.compress(np.packbits(counted).tobytes())
    return checked(Heat(h, w, *input_size, sigma, zlib.compress(limited.tobytes()), bits))


def decode(heat: Heat) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None]:
    """Patch scores (h, w) float32 and, unless all patches count, which do (h, w). Raises StoreValueError for a damaged
    grid."""
    _check_size(heat)
    scores = np.frombuffer(_inflated(heat.grid, 2 * heat.h * heat.w), "<f2")
    grid = scores.reshape(heat.h, heat.w).astype(np.float32)
    if heat.counted is None:
        return grid, None
    bits = np.frombuffer(_inflated(heat.counted, -(-heat.h * heat.w // 8)), np.uint8)
    return grid, np.unpackbits(bits, count=heat.h * heat.w).reshape(heat.h, heat.w).astype(bool)


def checked(heat: Heat) -> Heat:
    """A grid that comes from outside, once it was decoded. Raises StoreValueError."""
    if not (heat.sigma >= 0 and np.isfinite(heat.sigma)) or not (heat.input_h > 0 and heat.input_w > 0):
        raise StoreValueError("heat: expected sigma >= 0 and a positive input size")
    decode(heat)
    return heat


def _check_size(heat: Heat) -> None:
    if not (heat.h > 0 and heat.w > 0 and heat.h * heat.w <= MOST_PATCHES):
        raise StoreValueError(f"heat: expected 1 to {MOST_PATCHES} patches; got {heat.h} x {heat.w}")


def _inflated(data: bytes, size: int) -> bytes:
    """What zlib has packed, which must be `size` bytes: no more are ever unpacked."""
    packed = zlib.decompressobj()
    try:
        content = packed.decompress(data, size + 1)
    except zlib.error as error:
        raise StoreValueError(f"heat: expected data packed by zlib; {error}") from error
    if len(content) != size or not packed.eof or packed.unused_data:
        raise StoreValueError(f"heat: expected {size} bytes, packed by zlib; got other data")
    return content
