"""From an image file's bytes to an array. Files are untrusted: sizes are checked before anything is decoded, and a
truncated file is an error, not a picture with grey blocks."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from patchbank.errors import ImageError

Array = npt.NDArray[Any]

MAX_PIXELS = 200_000_000
_NPY = b"\x93NUMPY"


def decode(data: bytes) -> Array:
    """An image file's bytes -> (H, W, 3) RGB in the file's own depth. ImageError unless they are all there."""
    import cv2

    if data[:6] == _NPY:
        return _decode_npy(data)
    _check_header(data)
    image = _decoded(lambda: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR))
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # not IMREAD_COLOR_RGB: OpenCV 5.0 scrambles 16-bit TIFFs with it


def decode_channels(data: bytes) -> Array:
    """An image file's bytes -> (H, W, C) in the file's own depth: the channels of its pages, one after the other."""
    import cv2

    if data[:6] == _NPY:
        return _decode_npy(data)
    _check_header(data)

    def pages() -> Any:
        ok, found = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        return found if ok and found else None

    layers = [page[:, :, None] if page.ndim == 2 else page for page in _decoded(pages)]
    if len({(page.shape[:2], page.dtype) for page in layers}) > 1:
        raise ImageError("its pages differ in size or depth; expected the channels of one picture")
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}  # OpenCV decodes a colour page as BGR
    return np.concatenate([page[:, :, order[n]] if (n := page.shape[2]) in order else page for page in layers], axis=2)


def check_pixels(width: int, height: int) -> None:
    """ImageError for more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"is {width}x{height} pixels; expected at most {MAX_PIXELS:,} pixels in all")


def _check_header(data: bytes) -> None:
    """Finds out before decoding what OpenCV would not say: an enormous or a truncated PNG or JPEG."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        check_pixels(width, height)
        if b"IEND" not in data[-64:] and b"IEND\xaeB`\x82" not in data:
            raise ImageError("is truncated (the PNG file has no end)")
    elif data[:2] == b"\xff\xd8":
        _check_jpeg(data)


def _check_jpeg(data: bytes) -> None:
    """Walks a JPEG's segments to its first scan; after it, an end marker can only be a real one (others are
    stuffed)."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # fill bytes, and markers without a length
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and position + 9 <= len(data):  # frame header
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            check_pixels(width, height)
        position += 2 + length
        if marker == 0xDA:  # start of scan
            if data.rfind(b"\xff\xd9") < position:
                raise ImageError("is truncated (the JPEG file has no end)")
            return
    raise ImageError("is truncated (the JPEG file ends before its picture)")


@contextmanager
def _quiet(cv2: Any) -> Iterator[None]:
    """OpenCV writes its own warnings to stderr; ours say the same in one line."""
    level = cv2.utils.logging.getLogLevel() if hasattr(cv2.utils, "logging") else None
    if level is not None:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        if level is not None:
            cv2.utils.logging.setLogLevel(level)


def _decoded(decoder: Callable[[], Any]) -> Any:
    """What OpenCV makes of an image; ImageError where that is nothing."""
    import cv2

    try:
        with _quiet(cv2):
            image = decoder()
    except cv2.error as error:
        raise ImageError(f"cannot be decoded ({error.err or error})") from error
    if image is None:
        raise ImageError(
            "is damaged, or not an image of a known format (expected PNG, JPEG, BMP, TIFF, WebP, PGM, PPM or NPY)"
        )
    return image


def _decode_npy(data: bytes) -> Array:
    """NumPy's own format: an array (H, W[, C]); nothing in it is executed, and no more is read than is there."""
    file = io.BytesIO(data)
    try:
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = headers[np.lib.format.read_magic(file)](file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
            raise ValueError("its size is not what its header says")
        array = np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
        return array.astype(dtype.newbyteorder("="), copy=False)
    except (ValueError, KeyError) as error:
        raise ImageError(f"is no NumPy array that can be used ({error})") from error
