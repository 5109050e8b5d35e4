"""What an image file's first bytes say: its format, whether that is read, and how large a picture it may hold.

Files are untrusted, so nothing is decoded before its header has passed `check_size`. One number limits everything: the
pixels of an image, `PATCHBANK_MAX_PIXELS`.
"""

from __future__ import annotations

import os
import struct

import numpy as np

from patchbank.arrays import Array
from patchbank.errors import ConfigError, ImageError

MAX_PIXELS = 75_000_000
VARIABLE = "PATCHBANK_MAX_PIXELS"
MAX_CHANNELS = 64
HEAD = 32  # bytes that `format_of` looks at

READ = ("PNG", "JPEG", "BMP", "TIFF", "WebP", "PBM", "PGM", "PPM", "NPY")
# What an image is counted as, by the bytes of a value: floats are made of deeper ones, and take the memory of more.
_WEIGHTS = {1: 1, 2: 3, 4: 3, 8: 6}
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\x93NUMPY", "NPY"),
    # known, so that they can be refused by name
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
    (b"DDS ", "DDS"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"P7\n", "PAM"),
    (b"PF\n", "PFM"),
    (b"Pf\n", "PFM"),
    (b"Y\xa6j\x95", "Sun raster"),
    (b"IIRO", "Olympus raw"),
    (b"IIU\0", "Panasonic raw"),
    (b"FUJIFILM", "Fujifilm raw"),
)
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIF", b"heix": "HEIF", b"mif1": "HEIF", b"msf1": "HEIF"}


def format_of(head: bytes) -> str | None:
    """The name of the format whose file begins with these bytes; None for no known one."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    if (
        head[:2] == b"BM"
        and len(head) >= 18
        and struct.unpack("<I", head[14:18])[0] in (12, 16, 40, 52, 56, 64, 108, 124)
    ):
        return "BMP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] and head[2:3] in b" \t\r\n\v\f#":
        return {"1": "PBM", "4": "PBM", "2": "PGM", "5": "PGM", "3": "PPM", "6": "PPM"}[chr(head[1])]
    return None


def check_format(head: bytes) -> str:
    """The format's name, which is one of READ. Raises ImageError for any other content, whatever the file's name."""
    name = format_of(head)
    if name is None:
        raise ImageError(f"is damaged, or not an image of a known format (expected {known_formats()})")
    if name not in READ:
        raise ImageError(f"is a {name} file; expected {known_formats()}: convert it, for example to PNG")
    return name


def known_formats() -> str:
    """The formats that are read, in words."""
    return f"{', '.join(READ[:-1])} or {READ[-1]}"


def max_pixels() -> int:
    """Returns how many pixels of 8 bits an image may have: MAX_PIXELS, or what the environment variable says.
    ConfigError for one that is no number."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return MAX_PIXELS
    try:
        number = int(text.replace("_", ""))
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"{VARIABLE}: expected a number of pixels, at least 1; got {text!r}")
    return number


def max_file_bytes() -> int:
    """Returns how large an image's file may be: what the largest picture takes without compression, and some room."""
    return 4 * max_pixels() + 2**24


def check_size(width: int, height: int, channels: int = 3, depth: int = 1, factor: int = 1) -> None:
    """ImageError for a picture without a pixel, or with more than `max_pixels` of them. depth: bytes a value; values of
    more than 8 bits count three times (64 bits: six times), channels beyond three by thirds. factor: what else the
    decoder needs, as multiples of the picture."""
    if width < 1 or height < 1 or not 1 <= channels <= MAX_CHANNELS or depth not in _WEIGHTS:
        raise ImageError(f"is damaged: its header says {width}x{height} pixels, {channels} channels of {depth} bytes")
    weight, limit = _WEIGHTS[depth] * factor, max_pixels()
    if width * height * max(channels, 3) * weight > 3 * limit:
        counted = "" if channels <= 3 and weight == 1 else f", {channels} channels of {8 * depth} bits"
        most = limit * 3 // (max(channels, 3) * weight)
        raise ImageError(
            f"is {width}x{height} pixels{counted}; expected at most {most:,} pixels in all "
            f"(the environment variable {VARIABLE} sets the limit, now {limit})"
        )


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
