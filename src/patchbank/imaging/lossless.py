"""Pictures for the network, kept without loss in formats that every language reads: PNG of 8-bit ones, NPY of float32
ones. Read back, they are untrusted."""

from __future__ import annotations

import io
import struct

import numpy as np

from patchbank.arrays import Array
from patchbank.errors import ImageError
from patchbank.imaging.decoding import decode_picture
from patchbank.imaging.formats import HEAD, format_of
from patchbank.imaging.images import encode_png

MAX_BYTES = 64 << 20  # of a picture's numbers
_IHDR = struct.Struct(">II5B")  # width, height, bits, colours, compression, filter, interlacing
_RGB_8 = (8, 2, 0, 0, 0)


def encoded(picture: Array) -> bytes:
    """(H, W, 3 G) uint8 -> a PNG of the groups, one below the other; float32 -> an NPY file."""
    if picture.dtype == np.uint8:
        groups = np.split(picture, picture.shape[2] // 3, axis=2)
        return encode_png(np.concatenate(groups, axis=0))  # G x (H, W, 3) -> (G H, W, 3)
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(picture), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def decoded(data: bytes, groups: int) -> Array:
    """The inverse of `encoded`: (H, W, 3 G) uint8 or float32. Raises ImageError."""
    check(data, groups)
    picture = decode_picture(data).values
    if picture.dtype == np.uint8:
        picture = np.concatenate(np.split(picture, groups, axis=0), axis=2)  # (G H, W, 3) -> (H, W, 3 G)
    return np.ascontiguousarray(picture)


def check(data: bytes, groups: int) -> tuple[int, int]:
    """Returns a picture's (height, width). ImageError for one that `encoded` would not have written, or that holds more
    than MAX_BYTES; whether a PNG can be decoded shows when it is."""
    if format_of(data[:HEAD]) == "NPY":
        picture = decode_picture(data).values  # a view: nothing is decoded
        if picture.dtype != np.float32 or picture.shape[2] != 3 * groups or picture.nbytes > MAX_BYTES:
            raise ImageError(f"expected {3 * groups} channels of float32 numbers; got {picture.shape} {picture.dtype}")
        if not (np.isfinite(picture).all() and picture.min() >= 0):
            raise ImageError("expected finite values of at least 0")
        return picture.shape[0], picture.shape[1]
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 16 + _IHDR.size or data[12:16] != b"IHDR":
        raise ImageError("expected a PNG or NPY file")
    width, height, *kind = _IHDR.unpack_from(data, 16)
    if tuple(kind) != _RGB_8 or height % groups or not 0 < 3 * width * height <= MAX_BYTES:
        raise ImageError(f"expected a PNG of 3 x 8 bits and at most {MAX_BYTES:,} numbers; got {width}x{height}")
    return height // groups, width
