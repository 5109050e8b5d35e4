"""From the bytes of a camera's buffer to an image: the pixel formats of GigE Vision and USB3 Vision (PFNC).

Packed formats come in two kinds: 'Packed' of GigE Vision has the high bits of two pixels in the first and third byte
and the rest in the second one; 'p' is a stream of bits, the lowest first. Bayer patterns are named by their first row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from patchbank import CameraError

_Bytes = npt.NDArray[np.uint8]
_Values = npt.NDArray[Any]


@dataclass(frozen=True)
class PixelFormat:
    """code: in the standard. bits: of a value. layout: 'plain', 'packed' or 'p'. colour: '' = grey, 'RG', 'GR', 'GB',
    'BG' = Bayer, 'RGB', 'BGR'."""

    name: str
    code: int
    bits: int
    layout: str
    colour: str = ""

    @property
    def white(self) -> int:
        """The value of full brightness."""
        return (1 << self.bits) - 1

    def size(self, pixels: int) -> int:
        """Bytes of so many pixels."""
        if self.layout == "plain":
            return pixels * (3 if "B" in self.colour and "R" in self.colour else 1) * (1 if self.bits == 8 else 2)
        return -(-pixels * (12 if self.layout == "packed" else self.bits) // 8)


def _formats() -> tuple[PixelFormat, ...]:
    mono = (
        ("Mono8", 0x01080001, 8, "plain"),
        ("Mono10", 0x01100003, 10, "plain"),
        ("Mono10Packed", 0x010C0004, 10, "packed"),
        ("Mono12", 0x01100005, 12, "plain"),
        ("Mono12Packed", 0x010C0006, 12, "packed"),
        ("Mono16", 0x01100007, 16, "plain"),
        ("Mono10p", 0x010A0046, 10, "p"),
        ("Mono12p", 0x010C0047, 12, "p"),
    )
    found = [PixelFormat(*each) for each in mono]
    found += [PixelFormat("RGB8", 0x02180014, 8, "plain", "RGB"), PixelFormat("BGR8", 0x02180015, 8, "plain", "BGR")]
    for number, colour in enumerate(("GR", "RG", "GB", "BG")):
        found.append(PixelFormat(f"Bayer{colour}8", 0x01080008 + number, 8, "plain", colour))
        found.append(PixelFormat(f"Bayer{colour}10", 0x0110000C + number, 10, "plain", colour))
        found.append(PixelFormat(f"Bayer{colour}12", 0x01100010 + number, 12, "plain", colour))
        found.append(PixelFormat(f"Bayer{colour}12Packed", 0x010C002A + number, 12, "packed", colour))
    for number, colour in enumerate(("BG", "GB", "GR", "RG")):
        found.append(PixelFormat(f"Bayer{colour}10p", 0x010A0052 + 2 * number, 10, "p", colour))
        found.append(PixelFormat(f"Bayer{colour}12p", 0x010C0053 + 2 * number, 12, "p", colour))
    return tuple(found)


FORMATS: Mapping[int, PixelFormat] = {each.code: each for each in _formats()}


def image_of(data: bytes | memoryview, code: int, width: int, height: int) -> tuple[_Values, int]:
    """A buffer -> its image, (H, W) grey or (H, W, 3) RGB, uint8 or uint16, a copy; and the value of full brightness.
    Raises CameraError for an unknown format and a buffer that is too short."""
    format = FORMATS.get(code)
    if format is None:
        known = ", ".join(each.name for each in FORMATS.values())
        raise CameraError(f"pixel_format: expected one of {known}; the camera sends 0x{code:08X}")
    need = format.size(width * height)
    if width < 1 or height < 1 or len(data) < need:
        raise CameraError(f"expected {need} bytes of a {width}x{height} image of {format.name}; got {len(data)}")
    values = _UNPACK[format.layout](np.frombuffer(data, np.uint8, need), format.bits, width * height)
    if format.colour in ("RGB", "BGR"):
        colours = values.reshape(height, width, 3)
        return np.array(colours[:, :, ::-1] if format.colour == "BGR" else colours), format.white
    image = values.reshape(height, width)
    return (_colours(image, format.colour) if format.colour else np.array(image)), format.white


def _plain(data: _Bytes, bits: int, count: int) -> _Values:  # noqa: ARG001
    return data if bits == 8 else data.view("<u2").astype(np.uint16)


def _packed(data: _Bytes, bits: int, count: int) -> _Values:
    """GigE Vision's: three bytes hold two pixels."""
    triples = np.zeros(-(-len(data) // 3) * 3, np.uint8)
    triples[: len(data)] = data
    first, middle, last = triples.reshape(-1, 3).astype(np.uint16).T  # (n / 2,) each
    low = bits - 8
    mask = (1 << low) - 1
    pairs = np.stack([first << low | middle & mask, last << low | middle >> 4 & mask], axis=1)  # (n / 2, 2)
    return pairs.reshape(-1)[:count]


def _bit_stream(data: _Bytes, bits: int, count: int) -> _Values:
    """The lowest bit first: a group of pixels in a whole number of bytes."""
    pixels, size = (4, 5) if bits == 10 else (2, 3)
    groups = -(-count // pixels)
    whole = np.zeros(groups * size, np.uint8)
    whole[: len(data)] = data
    parts = whole.reshape(groups, size).astype(np.uint64)  # (g, bytes)
    word = np.zeros(groups, np.uint64)
    for byte in range(size):
        word |= parts[:, byte] << np.uint64(8 * byte)
    mask = np.uint64((1 << bits) - 1)
    values = np.stack([word >> np.uint64(bits * pixel) & mask for pixel in range(pixels)], axis=1)  # (g, pixels)
    return values.reshape(-1)[:count].astype(np.uint16)


_UNPACK: Mapping[str, Callable[[_Bytes, int, int], _Values]] = {"plain": _plain, "packed": _packed, "p": _bit_stream}


def _colours(image: _Values, pattern: str) -> _Values:
    """A Bayer pattern as RGB."""
    import cv2

    codes = {
        "RG": cv2.COLOR_BayerRGGB2RGB,
        "GR": cv2.COLOR_BayerGRBG2RGB,
        "GB": cv2.COLOR_BayerGBRG2RGB,
        "BG": cv2.COLOR_BayerBGGR2RGB,
    }
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), codes[pattern]))
