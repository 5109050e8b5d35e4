"""Thumbnails in a model file: small JPEGs, as `imaging.images.thumbnail` writes them. Browsers and OpenCV decode them
later, so that they are small is made sure of before."""

from __future__ import annotations

import struct

MAX_BYTES = 4 << 20
MAX_SIDE = 1024  # the most that thumbnail_size may be


def check_thumbnail(data: bytes) -> None:
    """ValueError unless the data start as a sequential JPEG (no scans that repeat) of at most MAX_SIDE pixels a side.

    What follows the frame header is not looked at: whether it can be decoded shows when it is.
    """
    if data[:2] != b"\xff\xd8" or len(data) > MAX_BYTES:
        raise ValueError(f"thumbnails: expected JPEG files of at most {MAX_BYTES:,} bytes")
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in (0xC0, 0xC1):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            if 0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE:
                return
            raise ValueError(f"thumbnails: expected at most {MAX_SIDE} pixels a side; got {width} x {height}")
        if marker not in (0xC4, *range(0xDB, 0xFF)):
            break
        position += 2 + length
    raise ValueError("thumbnails: expected sequential JPEG files, as patchbank writes them")
