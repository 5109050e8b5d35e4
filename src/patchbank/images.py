"""Decode, resize, normalise: the only preprocessing there is, for fit and predict alike.

Everything becomes RGB on the 0..255 scale. Rules, for files and arrays alike:

- grey is repeated over the three channels; an alpha channel is dropped; palettes are expanded; EXIF orientation is
  applied to files;
- uint8 stays as it is; uint16 is divided by 257, so that 65535 becomes 255; bool becomes 0 and 255;
- float arrays and files are expected in 0..1 and are multiplied by 255.
"""

from __future__ import annotations

import os
import struct
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from patchbank.errors import ImageError, OutputError
from patchbank.files import atomic_write, make_folder

MAX_PIXELS = 200_000_000
MIN_SIDE = 8
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})

Array: TypeAlias = npt.NDArray[Any]
FloatArray: TypeAlias = npt.NDArray[np.float32]
# A path, a NumPy array (H, W[, C]), or anything that NumPy can turn into one (a PIL image).
ImageSource: TypeAlias = Union[str, "os.PathLike[str]", Array, Any]


def read_image(source: ImageSource) -> Array:
    """Any image -> (H, W, 3) RGB; uint8 for 8-bit sources, float32 for the others; values in 0..255.

    Raises ImageError for a missing, damaged, truncated, oversized (over MAX_PIXELS) or undersized (a side under
    MIN_SIDE) image.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            return to_rgb(decode(_read_bytes(path)))
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error
    return to_rgb(_as_array(source))


def read_ahead(
    sources: Iterable[ImageSource], depth: int = 2
) -> Iterator[tuple[ImageSource, Array | ImageError, float]]:
    """Reads images in a thread of its own, up to `depth` ahead of the consumer: (source, image or why not, seconds), in
    order."""
    waiting: deque[tuple[ImageSource, Future[tuple[Array | ImageError, float]]]] = deque()
    remaining = iter(sources)
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="patchbank-read")
    try:
        while True:
            for source in islice(remaining, depth + 1 - len(waiting)):
                waiting.append((source, pool.submit(_timed_read, source)))
            if not waiting:
                return
            source, future = waiting.popleft()
            yield source, *future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _timed_read(source: ImageSource) -> tuple[Array | ImageError, float]:
    start = time.perf_counter()
    try:
        return read_image(source), time.perf_counter() - start
    except ImageError as error:
        return error, time.perf_counter() - start


def decode(data: bytes) -> Array:
    """An image file's bytes -> (H, W, 3) RGB in the file's own depth. ImageError unless they are all there."""
    import cv2

    _check_header(data)
    try:
        with _quiet(cv2):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"cannot be decoded ({error.err or error})") from error
    if image is None:
        raise ImageError(
            "is damaged, or not an image of a known format (expected PNG, JPEG, BMP, TIFF, WebP, PGM or PPM)"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # not IMREAD_COLOR_RGB: OpenCV 5.0 scrambles 16-bit TIFFs with it


def to_rgb(array: Array) -> Array:
    """(H, W), (H, W, 1..4) of bool, uint8, uint16 or float -> (H, W, 3) RGB, 0..255, uint8 or float32.

    Channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha. Raises ImageError for any other shape, type or range.
    """
    if array.ndim == 2:
        array = array[:, :, None]  # (H, W) -> (H, W, 1)
    if array.ndim != 3 or not 1 <= array.shape[2] <= 4:
        raise ImageError(f"expected an image of shape (H, W) or (H, W, 1 to 4); got {array.shape}")
    height, width, channels = array.shape
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"is {width}x{height} pixels; expected at least {MIN_SIDE}x{MIN_SIDE}")
    _check_pixels(width, height)
    if channels in (2, 4):
        array = array[:, :, :-1]
    return np.ascontiguousarray(np.broadcast_to(_to_255(array), (height, width, 3)))


def resize(image: Array, size: tuple[int, int]) -> Array:
    """(H, W, 3) -> (height, width, 3), same dtype: area averaging along an axis that shrinks, bilinear along one that
    grows."""
    import cv2

    height, width = size
    smaller = (min(height, image.shape[0]), min(width, image.shape[1]))
    if image.shape[:2] != smaller:
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
    if smaller != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def normalise(image: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> FloatArray:
    """(H, W, 3) RGB in 0..255 -> (1, 3, H, W) float32: (rgb - mean) / std, channel by channel."""
    batch = np.empty((1, 3, *image.shape[:2]), np.float32)
    for channel in range(3):
        scale = np.float32(1.0 / std[channel])
        np.multiply(image[:, :, channel], scale, out=batch[0, channel], casting="unsafe")
        batch[0, channel] -= np.float32(mean[channel]) * scale
    return batch


def thumbnail(image: Array, longest: int) -> bytes:
    """(H, W, 3) RGB -> the bytes of a JPEG whose longer side is at most `longest` pixels; none at all for 0."""
    import cv2

    if longest == 0:
        return b""
    height, width = image.shape[:2]
    shrink = min(1.0, longest / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    small = to_8bit(resize(image, size))
    ok, data = cv2.imencode(".jpg", np.ascontiguousarray(small[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not ok:
        raise ImageError(f"a thumbnail of {size[1]}x{size[0]} pixels cannot be encoded")
    return data.tobytes()


def to_8bit(image: Array) -> npt.NDArray[np.uint8]:
    """(H, W, 3) in 0..255 of any dtype -> uint8, rounded."""
    return image if image.dtype == np.uint8 else np.clip(np.rint(image), 0, 255).astype(np.uint8)


def name_of(source: ImageSource, number: int) -> str:
    """What to call an image in messages and provenance: its path, or its place in the sequence (from 0)."""
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else f"image {number}"


def _to_255(array: Array) -> Array:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return array.astype(np.float32) / np.float32(257)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0.0 and high <= 1.0):  # also catches NaN
            raise ImageError(
                f"expected float values in 0..1; got {low:g}..{high:g} (divide by the largest possible value)"
            )
        return array.astype(np.float32) * np.float32(255)
    raise ImageError(
        f"expected values of type uint8, uint16, bool or float; got {array.dtype} (convert it to one of them)"
    )


def _as_array(source: Any) -> Array:
    if isinstance(source, np.ndarray):
        return source
    if getattr(source, "mode", None) in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "La", "RGBa"):
        source = source.convert("RGB")  # a PIL image whose raw values are not grey or RGB
    array = np.asarray(source)
    if array.dtype == object:
        raise ImageError(f"expected a path, a NumPy array or a PIL image; got {type(source).__name__}")
    if array.dtype == np.int32 and getattr(source, "mode", "").startswith("I") and array.size and array.min() >= 0:
        return array.astype(np.uint16) if array.max() <= 65535 else array  # PIL's guise of a 16-bit grey image
    return array


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError("no such file") from error
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from error
    if not data:
        raise ImageError("is empty (0 bytes)")
    return data


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"is {width}x{height} pixels; expected at most {MAX_PIXELS:,} pixels in all")


def _check_header(data: bytes) -> None:
    """Finds out before decoding what OpenCV would not say: an enormous or a truncated PNG or JPEG."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        _check_pixels(width, height)
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
            _check_pixels(width, height)
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


def write_png(path: Path, picture: Array) -> None:
    """Writes (H, W, 3) RGB or (H, W) uint8 or bool as PNG, aside and renamed; makes its folder. Raises OutputError."""
    import cv2

    eight_bit = picture.astype(np.uint8) * 255 if picture.dtype == np.bool_ else picture
    ok, data = cv2.imencode(".png", eight_bit[:, :, ::-1] if eight_bit.ndim == 3 else eight_bit)
    if not ok:
        raise OutputError(f"cannot write {path}: an image of shape {picture.shape} cannot be encoded as PNG")
    make_folder(path.parent)
    with atomic_write(path) as file:
        file.write(data.tobytes())
