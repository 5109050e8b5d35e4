"""A grid of patch distances in few bytes, as the store keeps it and the line delivers it: zlib of float16,
little-endian, row by row. 48 x 48 patches take 4 kB. A distance is off by at most 0.05 %."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

MOST = 1 << 20  # values of a grid: large images in tiles have 60 000
_LARGEST = float(np.finfo(np.float16).max)


def packed(grid: npt.NDArray[np.float32]) -> bytes:
    """(h, w) numbers -> their bytes. What float16 does not have (over 65 504) becomes its largest number."""
    limited = np.clip(grid, -_LARGEST, _LARGEST).astype("<f2")
    return zlib.compress(limited.tobytes())


def packed_bits(grid: npt.NDArray[np.bool_]) -> bytes:
    """(h, w) truths -> their bytes: eight to a byte, the first one in its highest bit."""
    return zlib.compress(np.packbits(grid).tobytes())


def unpacked(data: bytes, h: int, w: int) -> npt.NDArray[np.float32]:
    """The inverse of `packed`, (h, w) float32. Raises ValueError for other data; no more is ever unpacked than h x w
    numbers take."""
    return np.frombuffer(_inflated(data, 2 * h * w), "<f2").reshape(h, w).astype(np.float32)


def unpacked_bits(data: bytes, h: int, w: int) -> npt.NDArray[np.bool_]:
    """The inverse of `packed_bits`, (h, w). Raises ValueError as `unpacked`."""
    bits = np.frombuffer(_inflated(data, -(-h * w // 8)), np.uint8)
    return np.unpackbits(bits, count=h * w).reshape(h, w).astype(bool)


def _inflated(data: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"expected data packed by zlib; {error}") from error
    if len(content) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"expected {size} bytes, packed by zlib; got other data")
    return content
