"""Decode, resize, normalise: the only preprocessing there is, for fit and predict alike.

Everything becomes RGB on the 0..255 scale. Rules, for files and arrays alike:

- grey is repeated over the three channels; an alpha channel is dropped; palettes are expanded; EXIF orientation is
  applied to files;
- uint8 stays as it is; uint16 is divided by 257, so that 65535 becomes 255; bool becomes 0 and 255;
- float arrays and files are expected in 0..1 and are multiplied by 255;
- where `white` is given (4095 for a 12-bit camera), it is the value that becomes 255, whatever the type.

Images of other channels than colours (several lights, several wavelengths) say so by `channels = n`. Their channels are
taken in groups of three, the last group filled up by repeating the last channel; each group goes through the network as
if it were RGB, and a patch is described by the features of all groups.
"""

from __future__ import annotations

import hashlib
import os
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard, Union

import numpy as np
import numpy.typing as npt

from patchbank.config import ImageFormat
from patchbank.errors import ImageError, OutputError, PatchbankError
from patchbank.imaging.decoding import check_pixels, decode, decode_channels
from patchbank.util.files import atomic_write, make_folder

MIN_SIDE = 8
SIDE_MULTIPLE = 32  # sides that patchbank chooses are multiples of this: the networks' deepest stride
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".npy"})

Array: TypeAlias = npt.NDArray[Any]
FloatArray: TypeAlias = npt.NDArray[np.float32]
# A path, a NumPy array (H, W[, C]), or anything that NumPy can turn into one (a PIL image).
ImageSource: TypeAlias = Union[str, "os.PathLike[str]", Array, Any]


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
    """Why an image cannot be used, beginning with its name."""
    if isinstance(error, PatchbankError):
        reason = str(error)
    else:
        reason = "internal error ({})".format(" ".join(f"{type(error).__name__}: {error}".split()))
    return reason if not name or reason.startswith(name) else f"{name}: {reason}"


def read_image(source: ImageSource, format: ImageFormat = COLOUR) -> Array:
    """Any image -> (H, W, 3 G) RGB, G = 1 for colour; uint8 for 8-bit sources, float32 for the others; values in
    0..255.

    Raises ImageError for a missing, damaged, truncated, oversized (decoding.MAX_PIXELS) or undersized (a side under
    MIN_SIDE) image, or one of another format.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            data = _read_bytes(path)
            return to_rgb(decode_channels(data) if format.channels else decode(data), format)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error
    return to_rgb(_as_array(source), format)


def to_rgb(array: Array, format: ImageFormat = COLOUR) -> Array:
    """(H, W), (H, W, C) of bool, uint8, uint16 or float -> (H, W, 3 G) RGB, 0..255, uint8 or float32.

    Colour: 1 channel is grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha, and G = 1. Other formats: exactly
    `format.channels` of them, in groups of three. Raises ImageError for any other shape, type or range.
    """
    if array.ndim == 2:
        array = array[:, :, None]  # (H, W) -> (H, W, 1)
    wanted = format.channels
    if array.ndim == 3 and wanted and array.shape[2] != wanted:
        raise ImageError(f"expected an image of {wanted} channels (as channels = {wanted} says); got {array.shape[2]}")
    if array.ndim != 3 or not (wanted or 1 <= array.shape[2] <= 4):
        more = "; for images of more channels set channels" if array.ndim == 3 and 4 < array.shape[2] < 64 else ""
        raise ImageError(f"expected an image of shape (H, W) or (H, W, 1 to 4); got {array.shape}{more}")
    height, width, channels = array.shape
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"is {width}x{height} pixels; expected at least {MIN_SIDE}x{MIN_SIDE}")
    check_pixels(width, height)
    if not wanted and channels in (2, 4):
        array = array[:, :, :-1]
    values = _to_255(array, format.white)
    if not wanted:
        return np.ascontiguousarray(np.broadcast_to(values, (height, width, 3)))
    filled = np.minimum(np.arange(-(-channels // 3) * 3), channels - 1)  # 4 channels: 0 1 2, 3 3 3
    return np.ascontiguousarray(values[:, :, filled])  # (H, W, C) -> (H, W, 3 G)


def input_size(image_size: tuple[int, ...], shape: tuple[int, ...], tile_size: int) -> tuple[int, int]:
    """The (height, width) that an image of `shape` (H, W, ...) is resized to.

    image_size: (N,) = the image's aspect ratio and about N x N pixels, sides rounded to multiples of SIDE_MULTIPLE;
    (height, width) = exactly that, whatever the image's shape, but rounded likewise if a side is longer than a tile.
    """
    sides: tuple[float, ...] = image_size
    if len(image_size) == 2 and max(image_size) <= tile_size:
        return image_size[0], image_size[1]
    if len(image_size) == 1:
        stretch = (shape[0] / shape[1]) ** 0.5
        sides = (image_size[0] * stretch, image_size[0] / stretch)
    height, width = (max(1, round(side / SIDE_MULTIPLE)) * SIDE_MULTIPLE for side in sides)
    return height, width


def resize(image: Array, size: tuple[int, int]) -> Array:
    """(H, W, 3 G) -> (height, width, 3 G), same dtype: area averaging along an axis that shrinks, bilinear along one
    that grows."""
    if image.shape[2] > 3:  # OpenCV takes four channels at most
        return np.concatenate([resize(image[:, :, c : c + 3], size) for c in range(0, image.shape[2], 3)], axis=2)
    import cv2

    height, width = size
    smaller = (min(height, image.shape[0]), min(width, image.shape[1]))
    if image.shape[:2] != smaller:
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
    if smaller != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def normalise(image: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> FloatArray:
    """(H, W, 3 G) RGB in 0..255 -> (G, 3, H, W) float32: (rgb - mean) / std, channel by channel."""
    batch = np.empty((image.shape[2] // 3, 3, *image.shape[:2]), np.float32)
    for group in range(len(batch)):
        for channel in range(3):
            scale, plane = np.float32(1.0 / std[channel]), batch[group, channel]
            np.multiply(image[:, :, 3 * group + channel], scale, out=plane, casting="unsafe")
            plane -= np.float32(mean[channel]) * scale
    return batch


def blank(image: Array, inside: npt.NDArray[np.bool_], mean: tuple[float, ...]) -> Array:
    """A copy of (H, W, 3 G) whose pixels that are not `inside`, (H, W), hold the network's mean: they tell nothing."""
    blanked = image.copy()
    blanked[~inside] = np.tile(np.asarray(mean, np.float32), image.shape[2] // 3).astype(image.dtype)
    return blanked


def shown(image: Array) -> npt.NDArray[np.uint8]:
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


def to_8bit(image: Array) -> npt.NDArray[np.uint8]:
    """(H, W, 3) in 0..255 of any dtype -> uint8, rounded."""
    return image if image.dtype == np.uint8 else np.clip(np.rint(image), 0, 255).astype(np.uint8)


def fingerprint(image: Array) -> bytes:
    """(H, W, 3 G) of any dtype -> 16 bytes that tell it from any other picture that a camera takes: for a file that was
    rewritten and an array that was used again, not against forgery.

    A digest of the pixels' sums in columns, at the speed of memory: 0.3 ms for 1024 x 1024 pixels, where BLAKE2 of all
    of them takes 2.3 ms. The numbers of columns are primes, so that what only moved does not have the same sums.
    """
    data = np.ascontiguousarray(image).reshape(-1).view(np.uint8)
    digest = hashlib.blake2b(str((image.shape, image.dtype.str)).encode(), digest_size=16)
    for columns in (4093, 4099):
        whole = data.size - data.size % (8 * columns)
        digest.update(data[:whole].view(np.uint64).reshape(-1, columns).sum(axis=0).data)  # modulo 2^64
        digest.update(data[whole:].data)
    return digest.digest()


def name_of(source: ImageSource, number: int) -> str:
    """What to call an image in messages and provenance: its path, or its place in the sequence (from 0)."""
    return os.fspath(source) if is_path(source) else f"image {number}"


def is_path(source: ImageSource) -> TypeGuard[str | os.PathLike[str]]:
    """Whether an image is named by its file. Its name cannot tell: a file may be called 'image 1'."""
    return isinstance(source, (str, os.PathLike))


def _to_255(array: Array, white: float | None) -> Array:
    if white is not None:
        return _scaled(array, white)
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


def _scaled(array: Array, white: float) -> FloatArray:
    """Numbers of any type, 0..white, on the 0..255 scale; brighter ones stay brighter."""
    if array.dtype.kind not in "buif":
        raise ImageError(f"expected numbers; got {array.dtype}")
    values = array.astype(np.float32) * np.float32(255.0 / white)
    if not (np.isfinite(values).all() and values.min() >= 0):
        raise ImageError("expected finite values of at least 0")
    return values


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
