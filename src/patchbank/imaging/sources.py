"""What an image may come as, and what it is called: a file's path, its bytes, an open file, an array of any library, a
PIL image; with a name of its own, if it is given one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, TypeGuard, Union, runtime_checkable

import numpy as np

from patchbank.arrays import Array
from patchbank.errors import ConfigError, ImageError
from patchbank.imaging.formats import max_file_bytes

_LONGEST_NAME = 4096  # characters: more than any file's path


@runtime_checkable
class BinaryFile(Protocol):
    """A file that is open for reading bytes."""

    def read(self, size: int, /) -> bytes: ...


class ArrayLike(Protocol):
    """An object that NumPy makes an array of: tensors of PyTorch, arrays of JAX, ..."""

    def __array__(self) -> Any: ...


class ArrayInterface(Protocol):
    """An object that NumPy makes an array of, in an older way: PIL images."""

    @property
    def __array_interface__(self) -> Any: ...


@dataclass(frozen=True, eq=False)
class Named:
    """An image with a name of its own, wherever an image is taken. Results, messages and the model's `bank.images` have
    the name as it is given, in place of the path or of 'image N'.

    Among training images a name is given once. Raises ConfigError for a name that is no text, or empty.
    """

    name: str
    image: ImageSource = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or len(self.name) > _LONGEST_NAME:
            raise ConfigError(f"expected an image's name, a text of 1 to {_LONGEST_NAME} characters; got {self.name!r}")
        if isinstance(self.image, Named):
            raise ConfigError(f"{self.name}: expected an image; got one that has a name already, {self.image.name!r}")


# A path; a file's bytes; an open file; an array (H, W[, C]) of NumPy, PyTorch, JAX or CuPy; a PIL image; any of them
# with a name.
ImageSource: TypeAlias = Union[
    str, "os.PathLike[str]", Array, bytes, bytearray, memoryview, BinaryFile, ArrayLike, ArrayInterface, Named
]


def name_of(source: ImageSource, number: int) -> str:
    """Returns what to call an image in messages and provenance: its name or path, or its place in the sequence (from
    0)."""
    if isinstance(source, Named):
        return source.name
    return os.fspath(source) if is_path(source) else f"image {number}"


def unnamed(source: ImageSource) -> ImageSource:
    """The image without the name that it was given."""
    return source.image if isinstance(source, Named) else source


def is_path(source: object) -> TypeGuard[str | os.PathLike[str]]:
    """Says whether an image is named by its file. Its name cannot tell: a file may be called 'image 1'."""
    return isinstance(source, (str, os.PathLike))


def is_encoded(source: object) -> TypeGuard[bytes | bytearray | memoryview]:
    """Says whether an image comes as the bytes of its file. A memoryview of two or three dimensions is an array."""
    return isinstance(source, (bytes, bytearray)) or (isinstance(source, memoryview) and source.ndim == 1)


def is_open_file(source: object) -> TypeGuard[BinaryFile]:
    """Says whether an image comes as an open file."""
    return callable(getattr(source, "read", None)) and not is_path(source) and not hasattr(source, "__array__")


def is_one_image(source: object) -> bool:
    """Says whether it is one image, although Python may take it for a sequence or an iterator (of bytes, of lines)."""
    single = isinstance(source, (np.ndarray, Named, memoryview)) or is_path(source) or is_encoded(source)
    return single or is_open_file(source) or isinstance(getattr(source, "mode", None), str)


def bytes_of(source: bytes | bytearray | memoryview | BinaryFile) -> bytes:
    """The file's bytes; an open file is read from where it stands. ImageError for one that cannot be read, is empty, or
    larger than an image can be."""
    most = max_file_bytes()
    data: Any = source if isinstance(source, (bytes, bytearray, memoryview)) else _read(source, most + 1)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ImageError(f"expected a file of bytes; got one of {type(data).__name__}: open it with mode 'rb'")
    if not len(data):
        raise ImageError("is empty (0 bytes), or was read already")
    if len(data) > most:
        raise ImageError(f"is a file of more than {most:,} bytes")
    return bytes(data)


def _read(file: BinaryFile, size: int) -> Any:
    try:
        return file.read(size)
    except Exception as error:
        raise ImageError(f"cannot be read ({type(error).__name__}: {error})") from error


def array_of(source: Any) -> Array:
    """An array of whatever NumPy makes one of. ImageError for anything else."""
    if isinstance(source, np.ndarray):
        given = np.asarray(source)
        return given if given.dtype.isnative else given.astype(given.dtype.newbyteorder("="))
    if getattr(source, "mode", None) in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "La", "RGBa"):
        source = _loaded(lambda: source.convert("RGB"))  # a PIL image whose raw values are not grey or RGB
    array: Array = _loaded(lambda: np.asarray(on_this_side(source)))
    if array.dtype == object or array.dtype.kind in "USV":
        raise ImageError(
            "expected a path, a file's bytes, an open file, an array (H, W, 3) or a PIL image; "
            f"got {type(source).__name__}"
        )
    if array.dtype == np.int32 and getattr(source, "mode", "").startswith("I") and array.size and array.min() >= 0:
        return array.astype(np.uint16) if array.max() <= 65535 else array  # PIL's guise of a 16-bit grey image
    return array


def on_this_side(source: Any) -> Any:
    """An array that lies on a GPU, or that PyTorch computes gradients of, where NumPy can reach it."""
    if callable(getattr(source, "detach", None)) and callable(getattr(source, "cpu", None)):  # PyTorch
        return source.detach().cpu()
    if hasattr(source, "__cuda_array_interface__") and callable(getattr(source, "get", None)):  # CuPy
        return source.get()
    return source


def held(image: ImageSource) -> ImageSource:
    """An open file's bytes, because it can be read only once; anything else as it is."""
    if isinstance(image, Named):
        return replace(image, image=held(image.image))
    if not is_open_file(image):
        return image
    try:
        return bytes_of(image)
    except ImageError as error:
        return _Unusable(str(error))


def own(image: ImageSource) -> ImageSource:
    """A copy of an image that its giver may still change; a path, or an array that nobody can write to, as it is. What
    cannot be copied is no image, and stays to be refused where it is read."""
    if isinstance(image, Named):
        return replace(image, image=own(image.image))
    if is_path(image) or isinstance(image, bytes):
        return image
    if is_encoded(image):
        return bytes(image)
    if is_open_file(image):
        return held(image)
    if isinstance(image, np.ndarray):
        return image if image.flags.owndata and not image.flags.writeable else image.copy()
    try:
        mine: Any = image
        if isinstance(getattr(mine, "mode", None), str) and callable(getattr(mine, "copy", None)):
            copied: ImageSource = mine.copy()  # a PIL image, which keeps its mode and its palette
            return copied
        array: Any = np.asarray(
            on_this_side(mine)
        ).copy()  # np.array() leaves the copy to the object, which may forget it
    except Exception:  # noqa: BLE001  (of someone else's class; reading it says what is wrong with it)
        return image
    return array if array.dtype != object else image


class _Unusable:
    """An open file that could not be read, in its place: whoever reads the image gets its error."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise ImageError(self._reason)


def _loaded(load: Callable[[], Any]) -> Any:
    """Returns what `load` returns; ImageError for whatever it raises: PIL reads a file only when its pixels are asked
    for."""
    try:
        return load()
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"cannot be turned into an array ({type(error).__name__}: {error})") from error
