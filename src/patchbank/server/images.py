"""Image files as they were sent: which format they have, and what a browser makes of them."""

from __future__ import annotations

_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"\x93NUMPY", "npy"),
    (b"P", "pnm"),
)
_MEDIA_TYPES = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "bmp": "image/bmp",
    "tiff": "image/tiff",
    "webp": "image/webp",
    "pnm": "image/x-portable-anymap",
}
SHOWN_BY_BROWSERS = ("png", "jpeg", "bmp", "webp")


def format_of(data: bytes) -> str:
    """The format of an image that was inspected, as a short word."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for beginning, name in _BEGINNINGS if data.startswith(beginning)), "unknown")


def media_type_of(format: str | None) -> str:
    """What to call a file of that format in HTTP; unknown ones are bytes, which no browser runs."""
    return _MEDIA_TYPES.get(format or "", "application/octet-stream")
