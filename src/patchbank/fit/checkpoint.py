"""An interrupted fit's state on disk, so that the same fit can go on where it stopped.

The file holds plain arrays, one after the other, behind a header that says which, and ends with the SHA-256 of all
before. It is written aside and renamed. It belongs to one fit: a fingerprint of all that decides the model but for the
pictures, and a digest of each picture that has been learned, are compared before it is used. Whatever does not agree
means that the fit starts anew, and says why.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from patchbank.arrays import Array, ByteArray
from patchbank.backbones import Backbone
from patchbank.config import Config, Runtime
from patchbank.errors import ConfigError, OutputError
from patchbank.imaging.roi import Roi
from patchbank.util.files import atomic_write, remove_left_behind
from patchbank.util.log import logger
from patchbank.util.progress import Progress
from patchbank.version import __version__

State = dict[str, Array]

_MAGIC = b"patchbank fit state 4\n"
_DTYPES = {np.dtype(each).str for each in (np.float32, np.float64, np.int32, np.int64, np.uint8)}
_HEADER_BYTES = 1 << 20  # at most: a few thousand arrays
_OTHER_BYTES, _IMAGE_BYTES = 64 << 20, 8 << 10  # of a state at most, beside the patches; and for each image
_READ_AT_ONCE = 1 << 20
_LARGEST_PICTURE = 4 << 30  # bytes of a picture's file that are compared; its size always is


class Checkpoint:
    """Says where a fit keeps its state, and whose state it is. images: paths, all that the fit learns."""

    def __init__(self, path: Path, fingerprint: str, images: Sequence[Any], budget: int) -> None:
        self.path, self.fingerprint = path, fingerprint
        self._images, self._largest = images, 2 * budget + _OTHER_BYTES + _IMAGE_BYTES * len(images)
        self._digests: list[bytes] = []  # of the images that were taken, in order
        self._full = False  # a save has failed

    def watch(self, images: Iterable[Any]) -> Iterator[Any]:
        """The images that are left, which remembers what each held just before it is read."""
        for image in images:
            self._digests.append(digest_of(image))
            yield image

    def load(self, progress: Progress) -> State | None:
        """The state that the same fit saved, of pictures that have not changed; None if there is none, it is damaged,
        or it is another fit's, which is said."""
        if not os.path.lexists(self.path):
            return None
        try:
            state = _read(self.path, self.fingerprint, self._largest)
            digests = [row.tobytes() for row in state["digests"]]
        except Exception as error:  # noqa: BLE001  (an untrusted file; whatever is wrong with it)
            self.refuse(error)
            return None
        if len(digests) > len(self._images):
            self.refuse("it is of more images than there are")
            return None
        for number, digest in enumerate(digests):
            progress("compare", number, len(digests))
            if digest_of(self._images[number]) != digest:
                self.refuse(f"{os.fspath(self._images[number])} has changed since")
                return None
        progress("compare", len(digests), len(digests))
        self._digests = digests
        return state

    def refuse(self, why: object) -> None:
        """Says that the state is not used."""
        logger.warning("%s: cannot go on from this state (%s); the fit starts anew", self.path, _one_line(why))
        self._digests = []

    def resumed(self, done: int) -> None:
        """Says that the state is used."""
        total = len(self._images)
        logger.info("resumed at image %d of %d, from %s", min(done + 1, total), total, self.path)

    def save(self, state: State, done: int) -> None:
        """Writes the state after so many images. Where that fails, the fit goes on without, which is said once."""
        if self._full:
            return
        digests = np.array([list(each) for each in self._digests[:done]], np.uint8).reshape(done, 32)
        try:
            with atomic_write(self.path) as file:
                _write(file, self.fingerprint, {**state, "digests": digests})
        except OutputError as error:
            self._full = True
            logger.warning(
                "the state of this fit cannot be kept, in case that it is interrupted (%s)", _one_line(error)
            )

    def remove(self) -> None:
        """Forgets the state: the fit has ended."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s: cannot be removed (%s)", self.path, error.strerror)
        remove_left_behind(self.path)


def checkpoint_of(
    path: str | Path,
    images: Iterable[Any],
    config: Config,
    runtime: Runtime,
    budget: int,
    network: Backbone,
    roi: Roi | None,
) -> Checkpoint:
    """A fit's checkpoint. Raises ConfigError for images that a later fit could not recognise."""
    if not isinstance(images, (list, tuple)) or not all(isinstance(image, (str, os.PathLike)) for image in images):
        raise ConfigError("checkpoint: expected the images as a list of paths, which a later fit can recognise")
    import cv2
    import onnxruntime

    versions = [__version__, np.__version__, cv2.__version__, onnxruntime.__version__]
    digest = hashlib.sha256(json.dumps([versions, config.to_dict(), runtime.device, budget]).encode())
    digest.update(hashlib.sha256(network.to_onnx()).digest())
    if roi:
        digest.update(f"{roi.mask.shape}".encode() + hashlib.sha256(np.packbits(roi.mask).tobytes()).digest())
    for image in images:
        digest.update(os.fsencode(image) + b"\0")
    return Checkpoint(Path(path), digest.hexdigest(), images, budget)


def digest_of(image: Any) -> bytes:
    """32 bytes that are the same for a path as long as its file holds the same bytes. What is no file, or cannot be
    read, has its own."""
    digest = hashlib.sha256()
    try:
        with _opened(image) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                return bytes(32)
            digest.update(struct.pack("<Q", about.st_size))
            block, left = bytearray(_READ_AT_ONCE), _LARGEST_PICTURE
            while left > 0 and (count := file.readinto(block)):
                digest.update(memoryview(block)[:count])
                left -= count
    except (OSError, ValueError):
        return bytes(32)
    return digest.digest()


def json_array(value: Any) -> ByteArray:
    """Any JSON value -> its text's bytes."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def json_value(array: Array) -> Any:
    """The inverse of `json_array`."""
    return json.loads(array.tobytes())


def pack_blobs(blobs: dict[int, bytes]) -> State:
    """Bytes by number -> three arrays."""
    return {
        "blob_numbers": np.array(list(blobs), np.int64),
        "blob_sizes": np.array([len(data) for data in blobs.values()], np.int64),
        "blob_bytes": np.frombuffer(b"".join(blobs.values()), np.uint8),
    }


def unpack_blobs(state: State) -> dict[int, bytes]:
    """The inverse of `pack_blobs`."""
    data, start, blobs = state["blob_bytes"].tobytes(), 0, {}
    for number, size in zip(state["blob_numbers"].tolist(), state["blob_sizes"].tolist(), strict=True):
        blobs[number], start = data[start : start + size], start + size
    return blobs


def _write(file: IO[bytes], fingerprint: str, state: State) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
    about = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    header = json.dumps({"fingerprint": fingerprint, "arrays": about}).encode()
    digest = hashlib.sha256()
    start = _MAGIC + struct.pack("<Q", len(header)) + header
    parts: list[bytes | memoryview] = [start, *(_bytes_of(array) for array in arrays.values())]
    for part in parts:
        digest.update(part)
        file.write(part)
    file.write(digest.digest())


def _read(path: Path, fingerprint: str, largest: int) -> State:
    """The state in a file. Raises OSError, ValueError, or what JSON and NumPy raise, for a file that holds none of this
    fit; nothing that its header claims is believed before it was compared with its size."""
    with _opened(path) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no regular file")
        start = file.read(len(_MAGIC) + 8)
        if len(start) < len(_MAGIC) + 8 or not start.startswith(_MAGIC):
            raise ValueError("it is no state that this version of patchbank has written")
        (length,) = struct.unpack("<Q", start[len(_MAGIC) :])
        if length > _HEADER_BYTES or about.st_size > largest:
            raise ValueError("it is larger than a state can be")
        header = file.read(length)
        held = json.loads(header)
        if held["fingerprint"] != fingerprint:
            raise ValueError("it is of a fit of other images, options, network, mask, memory or versions")
        shapes = {str(name): (_dtype(dtype), _shape(shape, about.st_size)) for name, dtype, shape in held["arrays"]}
        size = sum(dtype.itemsize * math.prod(shape) for dtype, shape in shapes.values())
        if len(start) + length + size + hashlib.sha256().digest_size != about.st_size:
            raise ValueError("it is damaged: its size is another one")
        digest = hashlib.sha256(start + header)
        state = {}
        for name, (dtype, shape) in shapes.items():
            state[name] = np.empty(shape, dtype)
            data = _bytes_of(state[name])
            if file.readinto(data) != len(data):
                raise ValueError("it is truncated")
            digest.update(data)
        if file.read() != digest.digest():
            raise ValueError("it is damaged: its checksum differs")
    return state


def _bytes_of(array: Array) -> memoryview:
    """A contiguous array's bytes, where they lie."""
    return array.reshape(-1).view(np.uint8).data


def _dtype(name: Any) -> np.dtype[Any]:
    if name not in _DTYPES:
        raise ValueError("it holds arrays of an unexpected type")
    return np.dtype(name)


def _shape(sizes: Any, most: int) -> tuple[int, ...]:
    if not isinstance(sizes, list) or not all(type(size) is int and 0 <= size <= most for size in sizes):
        raise ValueError("it holds arrays of an impossible shape")
    return tuple(sizes)


def _opened(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a file to read it, without waiting for anybody to write into a pipe."""
    return os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")


def _one_line(what: object) -> str:
    return " ".join(str(what).split()) or type(what).__name__
