"""JPEG, by libjpeg-turbo itself: unlike OpenCV's reader, it tells what the decoder warned about, and a decoder that
warns has filled a hole with grey blocks."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np

from patchbank.arrays import Array
from patchbank.errors import ImageError
from patchbank.imaging.formats import check_size, max_pixels, orientation

MAX_SCANS = 100
MAX_SEGMENTS = 10_000  # before the first scan
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# Where zeros do not mean the end of a block in every table, they are coefficients, mostly -1 -1 -1 ...: whole blocks of
# them.
_HOLE = bytes(48)


@dataclass(frozen=True)
class JpegHeader:
    """Holds what stands before the first scan. turn: EXIF's orientation. scans: where the coded picture begins.
    zeros_are_flat: whether zeros may be a flat picture's code."""

    width: int
    height: int
    components: int
    progressive: bool
    turn: int
    scans: int
    zeros_are_flat: bool


def decode_jpeg(data: bytes, accept_damaged: bool = False) -> tuple[Array, int]:
    """A JPEG file's bytes -> (H, W, C) uint8, C = 1 or 3 (RGB), and its EXIF orientation, which is not yet applied.

    Raises ImageError for what is too large, cut off, or no JPEG; and, unless `accept_damaged`, for one that libjpeg
    warns about or that has a hole.
    """
    header = read_header(data)
    check_scans(data, header, accept_damaged)
    return decoded(data, header, accept_damaged), header.turn


def decoded(data: bytes, header: JpegHeader, accept_damaged: bool = False) -> Array:
    """(H, W, 1 or 3) uint8 of a stream whose header has been read."""
    import simplejpeg

    space = {1: "GRAY", 3: "RGB", 4: "CMYK"}[header.components]
    try:
        picture = np.asarray(simplejpeg.decode_jpeg(data, space, strict=not accept_damaged))
    except ValueError as error:
        raise ImageError(
            f"is damaged (libjpeg: {error}); copy it again, or, if the pictures of this camera are sound, set "
            "accept_damaged"
        ) from error
    if picture.shape[:2] != (header.height, header.width):
        raise ImageError(f"is damaged: its header says {header.width}x{header.height} pixels, its picture has others")
    return _from_cmyk(picture) if header.components == 4 else picture


def read_header(data: bytes) -> JpegHeader:
    """Walks a JPEG's segments to its first scan. Raises ImageError for a picture that is too large or not there."""
    position, frame = 2, None
    turn: int | None = None
    firsts: dict[int, int] = {}
    segments = 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        segments += 1
        if segments > MAX_SEGMENTS:
            raise ImageError(f"is a JPEG of more than {MAX_SEGMENTS} parts: save it again")
        marker = data[position + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # fill bytes, and markers without a length
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if marker in _FRAMES and len(body) >= 6:
            depth, height, width, components = struct.unpack(">BHHB", body[:6])
            if depth != 8 or components not in (1, 3, 4):
                raise ImageError(f"is a JPEG of {components} channels of {depth} bits; expected 1, 3 or 4 of 8 bits")
            frame = (width, height, components, marker in _PROGRESSIVE)
            check_size(width, height, components)
        elif marker == 0xC4:
            firsts |= _first_symbols(body)
        elif marker == 0xE1 and body[:6] == b"Exif\0\0" and turn is None:  # of several, the first counts
            turn = orientation(body)
        position += 2 + length
        if marker == 0xDA:
            if frame is None:
                break
            used = {body[at] & 15 for at in range(2, len(body) - 3, 2)}  # the tables that this scan's components name
            return JpegHeader(*frame, turn or 1, position, all(firsts.get(table, 0) == 0 for table in used))
    raise ImageError("is truncated (the JPEG file ends before its picture)")


def check_scans(data: bytes, header: JpegHeader, accept_damaged: bool = False) -> None:
    """What follows the header: an end, not too many scans, no hole. Only real markers occur there (others are
    stuffed)."""
    end = data.find(b"\xff\xd9", header.scans)
    if end < 0:
        raise ImageError("is truncated (the JPEG file has no end)")
    scans = 1 + data.count(b"\xff\xda", header.scans, end)
    pixels = header.width * header.height
    if header.progressive or scans > 1:  # the whole picture is kept as coefficients, and gone through for each scan
        check_size(header.width, header.height, header.components, factor=2)
        if scans > MAX_SCANS or scans * pixels > max(20 * max_pixels(), 20 * pixels):
            raise ImageError(f"is a JPEG of {scans} scans, too many for {pixels:,} pixels: save it again")
    elif not (accept_damaged or header.zeros_are_flat) and data.find(_HOLE, header.scans, end) >= 0:
        raise ImageError("is damaged (the JPEG file has a hole); copy it again, or set accept_damaged")


def _first_symbols(tables: bytes) -> dict[int, int]:
    """Returns what a code of zeros means in each of these Huffman tables for coefficients, by number; 0 is the block's
    end."""
    position, found = 0, {}
    while position + 18 <= len(tables):
        if tables[position] >> 4 == 1:
            found[tables[position] & 15] = tables[position + 17]
        position += 17 + sum(tables[position + 1 : position + 17])
    return found


def _from_cmyk(picture: Array) -> Array:
    """(H, W, 4) as Adobe stores it, inverted -> (H, W, 3) RGB, by OpenCV's rule."""
    rgb = np.empty((*picture.shape[:2], 3), np.uint8)
    for top in range(0, len(picture), 256):  # the numbers in between take four times the room
        rows = picture[top : top + 256].astype(np.uint16)
        black = rows[:, :, 3:]
        rgb[top : top + 256] = black - ((255 - rows[:, :, :3]) * black >> 8)
    return rgb


def with_tables(tables: bytes, stream: bytes, ycc: bool) -> bytes:
    """A TIFF's JPEG strip as a file of its own: its shared tables before it, and a marker that says its colours."""
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([1 if ycc else 0])
    shared = re.sub(rb"\A\xff\xd8|\xff\xd9\Z", b"", tables)
    return b"\xff\xd8" + adobe + shared + stream[2:]
