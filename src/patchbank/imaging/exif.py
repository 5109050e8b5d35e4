"""EXIF orientation: how a picture is turned before it is looked at."""

from __future__ import annotations

import struct

import numpy as np

from patchbank.arrays import Array

_ORIENTATION = 0x0112


def orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, that EXIF data (a TIFF header and its first directory) gives; 1 where it gives none."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    start = struct.unpack_from(order + "I", exif, 4)[0]
    if start + 2 > len(exif):
        return 1
    count = struct.unpack_from(order + "H", exif, start)[0]
    for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, entry)
        if tag == _ORIENTATION and kind == 3:
            return upright(struct.unpack_from(order + "H", exif, entry + 8)[0])
    return 1


def upright(value: int) -> int:
    """The orientation itself, or 1 (as it is) for a number that means none."""
    return value if 1 <= value <= 8 else 1


def turned(picture: Array, how: int) -> Array:
    """(H, W, ...) as stored -> as it is to be seen. how: EXIF's orientation, 1 to 8."""
    if how in (5, 6, 7, 8):
        picture = np.swapaxes(picture, 0, 1)
    if how in (3, 4, 7, 8):
        picture = picture[::-1]
    if how in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return picture
