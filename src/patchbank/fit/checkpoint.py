"""An interrupted fit's state on disk, so that the same fit can go on where it stopped.

The file is NumPy's .npz without pickles, written aside and renamed. It belongs to one fit: a fingerprint of the
options, the memory budget and the images (names and sizes) is compared before it is used, and another fit's file is
left alone and overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchbank.backbones import Backbone
from patchbank.config import Config
from patchbank.errors import ConfigError
from patchbank.util.files import atomic_write

State = dict[str, npt.NDArray[Any]]

_LAYOUT = 2  # of states: one of another layout belongs to another fit


@dataclass(frozen=True)
class Checkpoint:
    """Where a fit keeps its state, and whose state it is."""

    path: Path
    fingerprint: str

    def load(self) -> State | None:
        """The state that was saved by the same fit; None if there is none, it is damaged, or it is another fit's."""
        with (
            suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
            np.load(self.path, allow_pickle=False) as file,
        ):
            if str(file["fingerprint"]) == self.fingerprint:
                return {name: file[name] for name in file.files}
        return None

    def save(self, state: State) -> None:
        """Writes the state. Raises OutputError."""
        with atomic_write(self.path) as file:
            np.savez(file, **state, fingerprint=np.array(self.fingerprint))  # type: ignore[arg-type]

    def remove(self) -> None:
        """Forgets the state: the fit has ended."""
        self.path.unlink(missing_ok=True)


@contextmanager
def resumable(
    path: str | Path | None, images: Iterable[Any], config: Config, budget: int, network: Backbone
) -> Iterator[Checkpoint | None]:
    """A fit's checkpoint, forgotten once the block has ended well; None without a path. Raises ConfigError for images
    that a later fit could not recognise."""
    if not path:
        yield None
        return
    if not isinstance(images, (list, tuple)) or not all(isinstance(image, (str, os.PathLike)) for image in images):
        raise ConfigError("checkpoint: expected the images as a list of paths, which a later fit can recognise")
    state = Checkpoint(Path(path), fingerprint(images, config, budget, network.to_onnx()))
    yield state
    state.remove()


def fingerprint(images: Sequence[Any], config: Config, budget: int, backbone: bytes) -> str:
    """Identifies a fit: its options, memory budget, network, and the images' names and sizes in order."""
    digest = hashlib.sha256(json.dumps([_LAYOUT, config.to_dict(), budget]).encode())
    digest.update(hashlib.sha256(backbone).digest())
    for image in images:
        path = os.fspath(image) if isinstance(image, (str, os.PathLike)) else ""
        size = -1
        with suppress(OSError):
            size = Path(path).stat().st_size
        digest.update(f"{path}\0{size}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


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
