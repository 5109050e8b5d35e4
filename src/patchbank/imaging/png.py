"""PNG: every part has a checksum, and all of them are looked at.

What nearly all files are, grey or RGB of 8 or 16 bits, is unpacked by libdeflate and the compiled part, which take a
third of the time of OpenCV's libpng and zlib. About whatever else a file may be or hold (palettes, interlacing, parts
in another order, damage) OpenCV decides. PNG loses nothing, so the pixels of a sound file are the same either way.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchbank import native
from patchbank.arrays import Array
from patchbank.errors import ImageError
from patchbank.imaging.by_opencv import by_opencv
from patchbank.imaging.formats import check_size, orientation
from patchbank.native.calls import unfiltered

MAX_CHUNKS = 200_000
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the type of colours
_HEADER = struct.Struct(">IIBBBBB")
_LONGEST_SIDE = 1_000_000  # libpng's
_MOST = 2**32 - 65536  # bytes that libdeflate's binding unpacks: a number of 32 bits
_WHOLE_WINDOW = 0x78  # how a zlib stream begins that may look back 32 KB; libpng is strict about others


@dataclass(frozen=True, eq=False)
class _Parts:
    """A file's parts. header: of the picture. coded: its data, in pieces. kept: all that says what its pixels are, the
    file's first bytes before it. kinds: of the kept parts. turn: EXIF's orientation. raw: bytes of the rows, at most.
    """

    header: tuple[int, ...]
    coded: list[memoryview]
    kept: list[bytes | memoryview]
    kinds: list[bytes]
    turn: int
    raw: int


def decode_png(data: bytes, as_stored: bool) -> tuple[Array, int]:
    """A PNG file's bytes -> (H, W, C) uint8 or uint16: C = 1 grey, 3 RGB; as stored also 4, RGB and alpha. And its EXIF
    orientation, which is not yet applied. Raises ImageError for what is too large, damaged, or an animation."""
    parts = _read(data, as_stored)
    size = sum(map(len, parts.coded))
    if size > parts.raw + parts.raw // 16 + 65536:  # interlacing adds some bytes a row
        raise ImageError(f"is damaged (the PNG file has {size:,} coded bytes for a picture of {parts.raw:,})")
    picture = _unpacked(parts, as_stored) if _is_plain(parts, as_stored) else None
    if picture is None:
        _check_coded(parts.coded, parts.raw)
        grey = parts.header[3] == 0 and b"tRNS" not in parts.kinds  # read as it is: a third of the numbers
        picture = by_opencv(b"".join(parts.kept), as_stored or grey)
    return picture, parts.turn


def _read(data: bytes, as_stored: bool) -> _Parts:
    """Texts and profiles are not kept: unpacking them can take minutes."""
    from deflate import crc32

    position, turn, raw, view, header = 8, 1, 0, memoryview(data), (0,) * 7
    coded, kinds, kind = list[memoryview](), list[bytes](), b""
    kept: list[bytes | memoryview] = [data[:8]]
    for number in range(MAX_CHUNKS):
        if position + 12 > len(data):
            raise ImageError("is truncated (the PNG file has no end)")
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        body, end = position + 8, position + 12 + length
        if end > len(data):
            raise ImageError("is truncated (a part of the PNG file is not all there)")
        if crc32(view[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ImageError("is damaged (a part of the PNG file does not match its checksum); copy it again")
        if kind == b"IHDR":
            header = _HEADER.unpack_from(data, body)
            width, height, bits, colours = header[:4]
            check_size(width, height, 4 if colours == 6 and as_stored else 3, 2 if bits == 16 else 1)
            raw = height * (1 + width * bits * _CHANNELS.get(colours, 4) // 8 + 1)
        elif number == 0:
            raise ImageError("is damaged (the PNG file has no header)")
        elif kind == b"acTL":
            raise ImageError("is an animated PNG; expected one picture")
        elif kind == b"eXIf":
            turn = orientation(data[body : end - 4])
        elif kind == b"IDAT":
            coded.append(view[body : end - 4])
        if kind[:1].isupper() or kind == b"tRNS":
            kept.append(view[position:end])
            kinds.append(kind)
        position = end
        if kind == b"IEND":
            return _Parts(header, coded, kept, kinds, turn, raw)
    raise ImageError(f"is a PNG of more than {MAX_CHUNKS} parts: save it again")


def _is_plain(parts: _Parts, as_stored: bool) -> bool:
    """Whether `_unpacked` knows it: a header, data and an end, of grey or RGB in 8 or 16 bits, from top to bottom."""
    width, height, bits, colours, *methods = parts.header
    usual = parts.kinds == [b"IHDR", *[b"IDAT"] * len(parts.coded), b"IEND"] and len(parts.kept[1]) == 25
    known = bits in (8, 16) and colours in ((0, 2, 6) if as_stored else (0, 2, 4, 6)) and methods == [0, 0, 0]
    small = max(width, height) <= _LONGEST_SIDE and parts.raw < _MOST
    return usual and known and small and len(parts.kept[-1]) == 12 and native.available()


def _unpacked(parts: _Parts, as_stored: bool) -> Array | None:
    """(H, W, C) of a plain file; None where something is wrong with its data, which OpenCV says."""
    import cv2
    from deflate import DeflateError, zlib_decompress

    width, height, bits, colours = parts.header[:4]
    step = _CHANNELS[colours] * bits // 8
    coded = parts.coded[0] if len(parts.coded) == 1 else b"".join(parts.coded)
    if coded[:1] != bytes([_WHOLE_WINDOW]):
        return None
    try:
        raw = zlib_decompress(coded, height * (1 + width * step))  # no more than that is ever unpacked
    except DeflateError:
        return None
    if len(raw) != height * (1 + width * step):
        return None
    rows = unfiltered(np.frombuffer(raw, np.uint8), height, width, step)
    if rows is None:
        return None
    picture: Any = rows if bits == 8 else rows.view(np.dtype(">u2")).astype(np.uint16)
    if colours == 4:
        return cv2.extractChannel(picture, 0)[:, :, None]
    return cv2.cvtColor(picture, cv2.COLOR_RGBA2RGB) if colours == 6 and not as_stored else picture


_MUCH = 1_000_000  # bytes that at the most become 1 GB
_LAG = 315  # words of 64 bits: after so many, codes of 1 to 10 bits that repeat are in the same place again


def _check_coded(parts: list[memoryview], raw: int) -> None:
    """ImageError for coded data that would become much more than the picture's `raw` bytes: libpng unpacks it all."""
    from deflate import DeflateError, zlib_decompress

    if sum(map(len, parts)) < _MUCH:
        return
    coded = b"".join(parts)
    words = np.frombuffer(coded, np.uint64, len(coded) // 8)
    other = np.flatnonzero(words[_LAG:] != words[:-_LAG])
    if np.diff(other, prepend=-1, append=len(words) - _LAG).max() < 128:
        return  # what unpacks to hundreds of times its size is the same few bits over and over
    if raw < _MOST:
        with contextlib.suppress(DeflateError):
            zlib_decompress(coded, raw + 65536)
            return
    inflate, total = zlib.decompressobj(), 0
    while not inflate.eof and coded:
        total += len(inflate.decompress(coded, 2**20))
        coded = inflate.unconsumed_tail
        if total > 2 * raw + 65536:
            raise ImageError("is damaged (the PNG file's coded data are longer than its picture)")
