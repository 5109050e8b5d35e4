"""From an image file's bytes to an array. Files are untrusted: what a file is, its bytes say and not its name; its size
is checked before anything is decoded; and one that is cut off or damaged is an error, not a picture with grey blocks.

`docs/reference/image-formats.md` says what is promised of each format.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchbank.arrays import Array
from patchbank.errors import ConfigError, ImageError
from patchbank.imaging.by_opencv import by_opencv
from patchbank.imaging.formats import HEAD, check_format, check_size, max_file_bytes, max_pixels, orientation, turned
from patchbank.imaging.jpeg import decode_jpeg
from patchbank.imaging.png import decode_png
from patchbank.imaging.tiff import decode_tiff


class Picture(NamedTuple):
    """values: (H, W, C) in the file's own depth. white: the value that means white, None = the type's own. lossy:
    whether the values are only nearly those that were saved."""

    values: Array
    white: float | None = None
    lossy: bool = False


def decode(data: bytes) -> Array:
    """An image file's bytes -> (H, W, 3) RGB in the file's own depth. ImageError unless they are all there."""
    values = decode_picture(data).values
    if values.ndim == 2:
        values = values[:, :, None]
    if values.shape[2] in (2, 4):
        values = values[:, :, :-1]
    return np.broadcast_to(values, (*values.shape[:2], 3)) if values.shape[2] == 1 else values


def decode_picture(data: bytes, channels: int = 0, *, as_stored: bool = False, accept_damaged: bool = False) -> Picture:
    """An image file's bytes -> its picture: 1 channel is grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.

    channels: where it is not 0, the channels of all the file's pages, one after the other. as_stored: alpha is kept.
    Whatever a decoder raises becomes an ImageError. Raises ConfigError for an impossible limit.
    """
    try:
        return _decoded(data, channels, bool(channels) or as_stored, accept_damaged)
    except (ImageError, ConfigError):
        raise
    except struct.error as error:
        raise ImageError("is truncated (its header is not all there)") from error
    except MemoryError as error:
        raise ImageError("does not fit into the memory; expected a smaller image") from error
    except Exception as error:  # (what else damaged bytes can do to a decoder is not known)
        raise ImageError(f"cannot be decoded ({type(error).__name__}: {error})") from error


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image's file. Raises ImageError for one that is missing, empty, larger than an image can be, or
    no file at all: a pipe would never end."""
    try:
        about = Path(path).stat()
        if stat.S_ISDIR(about.st_mode):
            raise ImageError("cannot be read (it is a folder)")
        if not stat.S_ISREG(about.st_mode):
            raise ImageError("cannot be read (it is a device, pipe or socket; expected a file)")
        most = max_file_bytes()
        if about.st_size > most:
            raise ImageError(f"is a file of {about.st_size:,} bytes; expected at most {most:,}")
        with Path(path).open("rb") as file:
            data = file.read(about.st_size + 1)  # not `most`: Python would first take the memory for it
    except FileNotFoundError as error:
        gone = "its link leads nowhere" if Path(path).is_symlink() else "check the path"
        raise ImageError(f"no such file ({gone})") from error
    except (ImageError, ConfigError):
        raise
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # a null character in the name
        raise ImageError(f"cannot be read ({error})") from error
    if not data:
        raise ImageError("is empty (0 bytes)")
    if len(data) > about.st_size:
        raise ImageError("is being written while it is read; try again when it is whole")
    return data


def check_pixels(width: int, height: int) -> None:
    """ImageError for more pixels than the limit; for arrays, which are in memory already."""
    if width * height > max_pixels():
        check_size(width, height)


def _decoded(data: bytes, channels: int, as_stored: bool, accept_damaged: bool) -> Picture:
    name = check_format(data[:HEAD])
    if name == "JPEG":
        picture, turn = decode_jpeg(data, accept_damaged)
        return Picture(turned(picture, turn), lossy=True)
    if name == "TIFF":
        return Picture(*decode_tiff(data, channels))
    if name == "NPY":
        return _npy(data)
    if name in ("PBM", "PGM", "PPM"):
        return _pnm(data)
    if name == "PNG":
        return Picture(turned(*decode_png(data, as_stored)))
    return {"BMP": _bmp, "WebP": _webp}[name](data, as_stored)


_BGRX = (0xFF0000, 0xFF00, 0xFF)  # where red, green and blue are in 32 bits


def _bmp(data: bytes, as_stored: bool) -> Picture:
    start, size = struct.unpack_from("<II", data, 10)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        packing, colours = 0, 0
    else:
        width, height, _, bits = struct.unpack_from("<iiHH", data, 18)
        packing, colours = struct.unpack_from("<I12xI", data, 30) if size >= 40 else (0, 0)
    check_size(width, abs(height), 4 if as_stored and bits == 32 else 3)
    if packing not in (0, 3, 6):
        raise ImageError("is a BMP with compression; expected none: save it again, for example as PNG")
    if bits not in (1, 4, 8, 16, 24, 32):
        raise ImageError(f"is a BMP of {bits} bits a pixel; expected 1, 4, 8, 16, 24 or 32")
    if size < 52 and packing and bits == 32 and struct.unpack_from("<3I", data, 54) != _BGRX:
        raise ImageError("is a BMP whose header is of another order of colours; save it again")  # OpenCV ignores it
    palette = (colours or 2**bits) * (3 if size == 12 else 4) if bits <= 8 else 0
    if start < 14 + size + palette:
        raise ImageError("is damaged (the BMP file's picture begins inside of its header)")
    row = (width * bits + 31) // 32 * 4
    if start + row * (abs(height) - 1) + (width * bits + 7) // 8 > len(data):
        raise ImageError("is truncated (the BMP file is shorter than its picture)")
    return Picture(by_opencv(data, as_stored))


def _webp(data: bytes, as_stored: bool) -> Picture:
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise ImageError("is truncated (the WebP file is shorter than it says)")
    position, turn, lossy, sizes = 12, 1, False, 0
    while position + 8 <= end:
        kind, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        body = data[position + 8 : position + 8 + min(length, 2**20)]
        if kind in (b"ANIM", b"ANMF") or (kind == b"VP8X" and body[:1] and body[0] & 2):
            raise ImageError("is an animated WebP; expected one picture")
        size = _webp_size(kind, body)
        if size:
            check_size(*size, 4 if as_stored else 3)
            sizes += 1
        lossy = lossy or kind == b"VP8 "
        if kind == b"EXIF":
            turn = orientation(body)
        position += 8 + length + length % 2
    if not sizes:
        raise ImageError("is damaged (the WebP file has no picture)")
    return Picture(turned(by_opencv(data, as_stored), turn), lossy=lossy)


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int] | None:
    """The width and height that a part of a WebP file gives, if it gives any."""
    if kind == b"VP8X" and len(body) >= 10:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(body) >= 10:
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    return None


_PNM = re.compile(rb"P([1-6])((?:\s|#[^\n]*\n)+(\d{1,9}))((?:\s|#[^\n]*\n)+(\d{1,9}))(?=\s)")
_MAXVAL = re.compile(rb"(?:\s|#[^\n]*\n)+(\d{1,5})(?=\s)")


def _pnm(data: bytes) -> Picture:
    """PBM, PGM and PPM, as numbers or as text. Their header says which value is white."""
    head = _PNM.match(data[:4096])
    if head is None:
        raise ImageError("is damaged (its header has no width and height)")
    kind, width, height, end, most = int(head[1]), int(head[3]), int(head[5]), head.end(), 1
    if kind not in (1, 4):
        found = _MAXVAL.match(data[end : end + 4096])
        if found is None or not 1 <= (most := int(found[1])) <= 65535:
            raise ImageError("is damaged (its header does not say which value is white)")
        end += found.end()
    depth = 1 if most < 256 else 2
    colours = 3 if kind in (3, 6) else 1
    check_size(width, height, colours, 8 if kind in (2, 3) else depth)  # numbers as text take the memory of 64 bits
    count = width * height * colours
    if kind < 4 and len(data) - end > 16 * count + 2**16:
        raise ImageError("is damaged (it is longer than its picture)")
    if kind == 4:
        row = -(-width // 8)
        _check_length(len(data) - end - 1, row * height)
        rows = np.frombuffer(data, np.uint8, row * height, end + 1).reshape(height, row)
        values = 1 - np.unpackbits(rows, axis=1, count=width)
    elif kind == 1:
        digits = np.frombuffer(re.sub(rb"#[^\n]*\n", b"", data[end:]).translate(None, b" \t\r\n\v\f"), np.uint8)
        _check_length(len(digits), count)
        values = 49 - digits[:count]  # "1" is black
        if values.max() > 1:
            raise ImageError("is damaged (it has other digits than 0 and 1)")
    elif kind in (2, 3):
        text = re.sub(rb"#[^\n]*\n?", b" ", data[end:])
        if text.translate(None, b"0123456789 \t\r\n\v\f"):
            raise ImageError("is damaged (it has other characters than digits)")
        # NumPy does not say how many numbers it found, and fills up with whatever lies in the memory: an end of ours
        values = np.fromstring((text + b" -1").decode("ascii"), np.int64, count + 1, sep=" ")
        ends = np.flatnonzero(values < 0)
        _check_length(int(ends[0]) if len(ends) else count + 1, count)
        values = values[:count]
    else:
        _check_length(len(data) - end - 1, count * depth)
        values = np.frombuffer(data, ">u2" if depth == 2 else np.uint8, count, end + 1)
    if values.max() > most:
        raise ImageError(f"is damaged (it has values over {most}, which its header says is white)")
    values = values.reshape(height, width, colours).astype(np.uint16 if depth == 2 else np.uint8, copy=False)
    if kind in (1, 4):
        return Picture(values * np.uint8(255))
    return Picture(values, None if most in (255, 65535) else float(most))


def _check_length(found: int, wanted: int) -> None:
    if found < wanted:
        raise ImageError(f"is truncated (it has {max(0, found):,} of the {wanted:,} numbers of its picture)")
    if found > wanted:
        raise ImageError(
            "is longer than its picture: it holds several, or is damaged (by a program that changed its line ends?)"
        )


def _npy(data: bytes) -> Picture:
    """NumPy's own format: an array (H, W[, C]); nothing in it is executed, and no more is read than is there."""
    file = io.BytesIO(data)
    try:
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = headers[np.lib.format.read_magic(file)](file, max_header_size=1024)
        if dtype.kind not in "buif" or dtype.itemsize > 8:
            raise ValueError(f"expected numbers of 8 to 64 bits; got {dtype}")
        if not 2 <= len(shape) <= 3 or any(type(side) is not int or side < 1 for side in shape):
            raise ValueError(f"expected the shape (H, W) or (H, W, C); got {shape}")
        if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
            raise ValueError("its size is not what its header says")
    except Exception as error:  # (the header is a text that NumPy parses: it raises a dozen different errors)
        reason = " ".join(str(error).split())[:200]
        raise ImageError(f"is no NumPy array that can be used ({reason or type(error).__name__})") from error
    check_size(shape[1], shape[0], shape[2] if len(shape) == 3 else 1, dtype.itemsize)
    array = np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
    array = array.view(np.uint8) != 0 if dtype.kind == "b" else array.astype(dtype.newbyteorder("="), copy=False)
    return Picture(array if array.ndim == 3 else array[:, :, None])
