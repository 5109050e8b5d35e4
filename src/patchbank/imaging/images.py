"""Decode, resize, normalise: the only preprocessing there is, for fit and predict alike.

Everything becomes RGB on the 0..255 scale. Rules, for files and arrays alike:

- grey is repeated over the three channels; an alpha channel is dropped; palettes are expanded; EXIF orientation is
  applied to files;
- uint8 stays as it is; uint16 is divided by 257, so that 65535 becomes 255; bool becomes 0 and 255;
- float arrays and files are expected in 0..1 and are multiplied by 255;
- arrays and NPY files, which do not say which channel is red, are RGB, or BGR where `channel_order` says so (OpenCV);
- where `white` is given (4095 for a 12-bit camera), it is the value that becomes 255, whatever the type; without it,
  the value that the file itself calls white is (PGM's maxval; packed TIFFs of 10, 12 or 14 bits).

Images of other channels than colours (several lights, several wavelengths) say so by `channels = n`. Their channels are
taken in groups of three, the last group filled up by repeating the last channel; each group goes through the network as
if it were RGB, and a patch is described by the features of all groups.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from patchbank.arrays import Array, BoolArray, ByteArray, FloatArray
from patchbank.config import ImageFormat
from patchbank.errors import ImageError, OutputError, PatchbankError
from patchbank.imaging.decoding import check_pixels, decode_picture, read_file
from patchbank.imaging.formats import HEAD, format_of
from patchbank.imaging.grey import grey_of, repeated
from patchbank.imaging.resize import resize
from patchbank.imaging.sources import (
    ImageSource,
    Named,
    array_of,
    bytes_of,
    is_encoded,
    is_open_file,
    is_path,
)
from patchbank.util.files import atomic_write, make_folder
from patchbank.util.log import logger
from patchbank.util.wording import printable
from patchbank.validation import without_code

MIN_SIDE = 8
# What images are usually called; what a file is, its first bytes say (formats.py).
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp"}
    | {".pbm", ".pgm", ".ppm", ".pnm", ".npy"}
)
TWELVE_BITS = 4095
LEAST_CONTRAST = 64  # of a lossy mask, of 255: below, noise is as bright as a mark


COLOUR = ImageFormat()


@dataclass(frozen=True)
class Skipped:
    """An image that could not be used, and why. kind: the class of the error; where that is none of patchbank's own,
    something went wrong that nobody foresaw, and `trace` is its traceback."""

    name: str
    reason: str
    kind: type[Exception] = ImageError
    trace: str = field(default="", repr=False)

    @classmethod
    def of(cls, name: str, error: Exception) -> Skipped:
        """An image that raised an error, whatever it is."""
        trace = "" if isinstance(error, PatchbankError) else "".join(traceback.format_exception(error))
        return cls(name, reason_of(error, name), type(error), trace)


def reason_of(error: Exception, name: str = "") -> str:
    """Says why an image cannot be used, beginning with its name."""
    if isinstance(error, PatchbankError):
        reason = str(error)
    else:
        reason = "internal error ({})".format(" ".join(f"{type(error).__name__}: {error}".split()))
    return reason if not name or reason.startswith(name) else f"{name}: {reason}"


def read_image(source: ImageSource, format: ImageFormat = COLOUR) -> Array:
    """Any image -> (H, W, 3 G) RGB, G = 1 for colour; uint8 for 8-bit sources, float32 for the others; values in
    0..255.

    Raises ImageError for a missing, damaged, truncated, oversized (formats.max_pixels) or undersized (a side under
    MIN_SIDE) image, or one of another format.
    """
    if isinstance(source, Named):
        with _naming(source.name):
            return read_image(source.image, format)
    if is_path(source):
        with _naming(str(Path(source))):
            return _decoded(read_file(source), format, str(source))
    if is_encoded(source) or is_open_file(source):
        return _decoded(bytes_of(source), format, "an image's bytes")
    array = array_of(source)
    _hint_at_depth("an array", array, format)
    if not isinstance(getattr(source, "mode", None), str):  # PIL says itself what is red
        array = reordered(array, format.channel_order)
    return to_rgb(array, format)


def _decoded(data: bytes, format: ImageFormat, name: str) -> Array:
    """A file's bytes -> (H, W, 3 G) RGB."""
    picture = decode_picture(data, format.channels, accept_damaged=format.accept_damaged)
    if format.white is None and picture.white is not None:
        format = replace(format, white=picture.white)
    _hint_at_depth(name, picture.values, format)
    if format_of(data[:HEAD]) != "NPY":  # the others say what is red
        return to_rgb(picture.values, format, ours=True)
    return to_rgb(reordered(picture.values, format.channel_order), format, ours=True)


def reordered(array: Array, order: str) -> Array:
    """An array whose channels come in this order, with their order in RGB, and the other way round: of (H, W, 3 or 4)
    BGR or BGRA, (H, W, 3) RGB. Anything else as it is."""
    if order not in ("rgb", "bgr"):
        raise without_code("channel_order", order)
    return array[:, :, 2::-1] if order == "bgr" and array.ndim == 3 and array.shape[2] in (3, 4) else array


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except MemoryError as error:
        raise ImageError(f"{name}: does not fit into the memory; expected a smaller image") from error


def to_rgb(array: Array, format: ImageFormat = COLOUR, *, ours: bool = False) -> Array:
    """(H, W), (H, W, C) of bool, uint8, uint16 or float -> (H, W, 3 G) RGB, 0..255, uint8 or float32.

    Colour: 1 channel is grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha, and G = 1. Other formats: exactly
    `format.channels` of them, in groups of three. ours: the array may be changed, which saves a copy. Raises
    ImageError for any other shape, type or range.
    """
    if array.ndim == 2:
        array = array[:, :, None]  # (H, W) -> (H, W, 1)
    wanted = format.channels
    if array.ndim == 3 and wanted and array.shape[2] != wanted:
        raise ImageError(f"expected an image of {wanted} channels (as channels = {wanted} says); got {array.shape[2]}")
    if array.ndim != 3 or not (wanted or 1 <= array.shape[2] <= 4):
        shape = f"{array.shape}{_advice(array.shape)}"
        raise ImageError(f"expected an image of shape (H, W) or (H, W, 1 to 4); got {shape}")
    height, width, channels = array.shape
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"is {width}x{height} pixels; expected at least {MIN_SIDE}x{MIN_SIDE}")
    check_pixels(width, height)
    if not wanted and channels in (2, 4):
        array = array[:, :, :-1]
    values = _to_255(array, format.white, ours)
    if not wanted:
        return _as_colour(values)
    filled = np.minimum(np.arange(-(-channels // 3) * 3), channels - 1)  # 4 channels: 0 1 2, 3 3 3
    return np.ascontiguousarray(values[:, :, filled])  # (H, W, C) -> (H, W, 3 G)


def _advice(shape: tuple[int, ...]) -> str:
    """Returns what to do about an array that is no image of colours, to a message's end."""
    if len(shape) == 4:
        return ": give the images of a batch one by one, as a list"
    if len(shape) != 3:
        return ""
    if shape[0] in (1, 3, 4):
        return ", channels first: use image.transpose(1, 2, 0), in PyTorch image.permute(1, 2, 0)"
    return "; for images of more channels set channels" if 4 < shape[2] < 64 else ""


_said = threading.Event()


def _hint_at_depth(name: str, values: Array, format: ImageFormat) -> None:
    """Says, once, that a 16-bit image is nearly black because its camera has fewer bits."""
    if _said.is_set() or values.dtype != np.uint16 or format.white is not None or not values.size:
        return
    if 0 < values.max() <= TWELVE_BITS:
        _said.set()
        logger.warning(
            f"{printable(name)}: no value of this 16-bit image is over {TWELVE_BITS} of 65535, so it is nearly black; "
            "if the camera has 12 bits, set white = 4095 (10 bits: 1023, 14 bits: 16383)"
        )


def read_mask(path: str | os.PathLike[str], *, ground_truth: bool) -> BoolArray:
    """A mask's file -> (H, W) bool: the pixels that it marks, whatever numbers it marks them with
    (docs/operate/datasets.md).

    Marked is what is brighter: of two values the higher, be they 0 and 1 or 0 and 255; in lossy files, whose values
    are not exact, what is over half of the brightest. Of more than two values, those over half of the brightest are
    marked (soft edges); in ground truth all but 0 (every defect has a number of its own). A picture that is the same
    all over, but for its alpha channel, is marked by that.

    Raises ImageError for a file that cannot be read, or that marks nothing or everything; only ground truth may be all
    black, which says that no pixel shows the defect.
    """
    try:
        picture = decode_picture(read_file(path), as_stored=True)
        return _marked(picture.values, picture.lossy, ground_truth)
    except ImageError as error:
        raise ImageError(f"{os.fspath(path)}: {error}") from error


def _marked(values: Array, lossy: bool, ground_truth: bool) -> BoolArray:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ImageError("expected a mask of finite numbers")
    alpha = values[:, :, -1] if values.shape[2] in (2, 4) else None
    plane = (values if alpha is None else values[:, :, :-1]).max(axis=2)  # (H, W, C) -> (H, W)
    if alpha is not None and alpha.min() == alpha.max():
        alpha = None
    if alpha is not None and plane.min() == plane.max():
        plane, alpha = alpha, None
    seen = np.unique(plane)
    low, high = seen[0], seen[-1]
    if ground_truth and low == high == 0:
        return np.zeros(plane.shape, np.bool_)
    if low < 0 or low == high or (lossy and high - low < LEAST_CONTRAST):
        numbers = ", ".join(f"{value:g}" for value in seen[:5].tolist())
        numbers += f" ... {high:g} ({len(seen)} values)" if len(seen) > 5 else ""
        raise ImageError(
            f"expected a mask that marks at least one place and not all, bright on dark; all its values are {numbers}"
            + (" (and it is lossy: save it as PNG)" if lossy else "")
        )
    if len(seen) == 2:
        marked = plane == high
    elif ground_truth and not lossy:
        marked = plane > 0
    else:
        marked = plane > high / 2
    if marked.all() or not marked.any():
        raise ImageError(f"expected a mask that leaves something out; its values are {low:g} to {high:g}, none dark")
    if alpha is not None and ((alpha > alpha.max() / 2) != marked).any():
        raise ImageError("expected a mask that is in the colours or in the alpha channel; it is another one in each")
    return marked


def _as_colour(values: Array) -> Array:
    """(H, W, 1 or 3) -> (H, W, 3): grey is repeated. Contiguous, but for grey uint8, which is a view that repeats it:
    what follows looks at a third of the numbers, and gets the same (`grey_of`)."""
    if values.shape[2] == 1 and values.dtype == np.uint8:
        return np.broadcast_to(np.ascontiguousarray(values), (*values.shape[:2], 3))
    if values.shape[2] == 1 and values.dtype == np.float32:
        return repeated(values[:, :, 0])
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def input_size(image_size: tuple[int, ...], shape: tuple[int, ...], tile_size: int, step: int) -> tuple[int, int]:
    """The (height, width) that an image of `shape` (H, W, ...) is resized to.

    image_size: (N,) = the image's aspect ratio and about N x N pixels, sides rounded to multiples of `step`, the
    network's `side_step`; (height, width) = exactly that, whatever the image's shape, but rounded likewise if a side is
    longer than a tile.
    """
    sides: tuple[float, ...] = image_size
    if len(image_size) == 2 and max(image_size) <= tile_size:
        return image_size[0], image_size[1]
    if len(image_size) == 1:
        stretch = math.sqrt(shape[0] / shape[1])
        sides = (image_size[0] * stretch, image_size[0] / stretch)
    height, width = (max(1, round(side / step)) * step for side in sides)
    return height, width


def normalise(image: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> FloatArray:
    """(H, W, 3 G) RGB in 0..255 -> (G, 3, H, W) float32: (rgb - mean) / std, channel by channel."""
    batch = np.empty((image.shape[2] // 3, 3, *image.shape[:2]), np.float32)
    for group in range(len(batch)):
        for channel in range(3):
            scale, plane = np.float32(1.0 / std[channel]), batch[group, channel]
            np.multiply(image[:, :, 3 * group + channel], scale, out=plane, casting="unsafe")
            plane -= np.float32(mean[channel]) * scale
    return batch


def blank(image: Array, inside: BoolArray, mean: tuple[float, ...]) -> Array:
    """A copy of (H, W, 3 G) whose pixels that are not `inside`, (H, W), hold the network's mean: they tell nothing."""
    grey = grey_of(image)
    blanked = image.copy() if grey is None else repeated(grey)
    blanked[~inside] = np.tile(np.asarray(mean, np.float32), image.shape[2] // 3).astype(image.dtype)
    return blanked


def shown(image: Array) -> ByteArray:
    """(H, W, 3 G) in 0..255 of any dtype -> (H, W, 3) uint8, rounded: the first group, for people to look at."""
    return to_8bit(image[:, :, :3])


def thumbnail(image: Array, longest: int) -> bytes:
    """(H, W, 3 G) -> a JPEG of its first group whose longer side is at most `longest` pixels; b"" for 0."""
    import cv2

    if longest == 0:
        return b""
    height, width = image.shape[:2]
    shrink = min(1.0, longest / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    small = to_8bit(resize(image[:, :, :3], size))
    ok, data = cv2.imencode(".jpg", np.ascontiguousarray(small[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not ok:
        raise ImageError(f"a thumbnail of {size[1]}x{size[0]} pixels cannot be encoded")
    return data.tobytes()


def to_8bit(image: Array) -> ByteArray:
    """(H, W, 3) in 0..255 of any dtype -> uint8, rounded."""
    return image if image.dtype == np.uint8 else np.clip(np.rint(image), 0, 255).astype(np.uint8)


def fingerprint(image: Array) -> bytes:
    """(H, W, 3 G) of any dtype -> 16 bytes that tell it from any other picture that a camera takes: for a file that was
    rewritten and an array that was used again, not against forgery.

    A digest of the pixels' sums in columns, at the speed of memory: 0.3 ms for 1024 x 1024 pixels, where BLAKE2 of all
    of them takes 2.3 ms. The numbers of columns are primes, so that what only moved does not have the same sums.
    """
    grey = grey_of(image)
    data = np.ascontiguousarray(image if grey is None else grey).reshape(-1).view(np.uint8)
    digest = hashlib.blake2b(str((image.shape, image.dtype.str)).encode(), digest_size=16)
    for columns in (4093, 4099):
        whole = data.size - data.size % (8 * columns)
        digest.update(data[:whole].view(np.uint64).reshape(-1, columns).sum(axis=0).data)  # modulo 2^64
        digest.update(data[whole:].data)
    return digest.digest()


def _to_255(array: Array, white: float | None, ours: bool) -> Array:
    if white is not None:
        return _scaled(array, white, ours)
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        values: Array = array.astype(np.float32)
        values /= np.float32(257)  # in place: a copy of a large image takes much memory
        return values
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0.0 and high <= 1.0):  # also catches NaN
            raise ImageError(
                f"expected float values in 0..1; got {low:g}..{high:g} (divide by the largest possible value)"
            )
        values = _floats(array, ours)
        values *= np.float32(255)
        return values
    raise ImageError(
        f"expected values of type uint8, uint16, bool or float; got {array.dtype} (convert it to one of them)"
    )


def _floats(array: Array, ours: bool) -> FloatArray:
    """float32 numbers that may be changed: a copy of what is not ours."""
    return array.astype(np.float32, copy=not (ours and array.flags.writeable))


def _scaled(array: Array, white: float, ours: bool) -> FloatArray:
    """Numbers of any type, 0..white, on the 0..255 scale; brighter ones stay brighter."""
    if array.dtype.kind not in "buif":
        raise ImageError(f"expected numbers; got {array.dtype}")
    values = _floats(array, ours)
    values *= np.float32(255.0 / white)
    if not (np.isfinite(values).all() and values.min() >= 0):
        raise ImageError("expected finite values of at least 0")
    return values


def write_png(path: Path, picture: Array) -> None:
    """Writes (H, W, 3) RGB or (H, W) uint8 or bool as PNG, aside and renamed; makes its folder. Raises OutputError."""
    try:
        data = encode_png(picture)
    except ImageError as error:
        raise OutputError(f"cannot write {path}: {error}") from error
    make_folder(path.parent)
    with atomic_write(path) as file:
        file.write(data)


def encode_png(picture: Array) -> bytes:
    """(H, W, 3) RGB or (H, W) uint8 or bool -> the bytes of a PNG file. Raises ImageError."""
    import cv2

    eight_bit = picture.astype(np.uint8) * 255 if picture.dtype == np.bool_ else picture
    ok, data = cv2.imencode(".png", eight_bit[:, :, ::-1] if eight_bit.ndim == 3 else eight_bit)
    if not ok:
        raise ImageError(f"an image of shape {picture.shape} cannot be encoded as PNG")
    return data.tobytes()
