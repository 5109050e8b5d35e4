"""Images of every format, their headers above all."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from tests.fuzz import hostile

from patchbank.config import ImageFormat
from patchbank.errors import PatchbankError
from patchbank.imaging.images import read_image

_GIF = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + b"," + bytes(9) + b"\x02\x00;"
_FORMATS = (ImageFormat(), ImageFormat(channels=4), ImageFormat(white=4095.0))


def _bases() -> list[bytes]:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (64, 96, 3)).astype(np.uint8)
    deep = rng.integers(0, 65536, (24, 32)).astype(np.uint16)
    kinds = [(".png", colour), (".png", deep), (".jpg", colour), (".bmp", colour), (".tiff", colour), (".tiff", deep)]
    kinds += [(".webp", colour), (".pgm", colour[:, :, 0]), (".ppm", colour), (".jp2", colour), (".hdr", colour / 255)]
    found = [_GIF, b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 1078, 40, 30000, 30000, 1, 8, 1, 0, 0, 0, 256, 0)]
    for suffix, image in kinds:
        try:
            ok, data = cv2.imencode(suffix, np.asarray(image, np.float32) if suffix == ".hdr" else image)
        except cv2.error:  # not every OpenCV has every format
            ok = False
        if ok:
            found.append(data.tobytes())
    for array in (colour, deep, colour.astype(np.float64), np.asfortranarray(deep)):
        file = io.BytesIO()
        np.save(file, array)
        found.append(file.getvalue())
    return found


def _with_checksums(data: bytes) -> bytes:
    """A PNG whose parts have the checksums that fit them, so that what is in them reaches the decoders."""
    position, out = 8, bytearray(data)
    while data[:4] == b"\x89PNG" and position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        out[end : end + 4] = struct.pack(">I", zlib.crc32(data[position + 4 : end]))[: max(0, len(data) - end)]
        position = end + 4
    return bytes(out)


class Target:
    """Changed images, read as colours and as channels."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bases = folder, _bases()

    def case(self, rng: np.random.Generator) -> Path:
        suffixes = (".png", ".jpg", ".tif", ".bmp", ".npy", ".gif", "")
        path = self.folder / f"case{suffixes[rng.integers(len(suffixes))]}"
        data = self.bases[rng.integers(len(self.bases))]
        head = int(rng.choice([64, 200, len(data)]))
        changed = hostile.bytes_changed(data[:head], rng) + data[head:]
        path.write_bytes(_with_checksums(changed) if rng.random() < 0.5 else changed)
        return path

    def run(self, path: Path) -> None:
        for format in _FORMATS:
            try:
                assert read_image(path, format).ndim == 3
            except PatchbankError:
                continue
