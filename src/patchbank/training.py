"""What `fit` collects from the training images before it thins them: patch features and where each came from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from patchbank.errors import DatasetError, ImageError
from patchbank.images import Array, ImageSource, name_of, read_image, thumbnail
from patchbank.progress import Progress

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Skipped:
    """An image that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class TrainingPatches:
    """The patch features of all training images, one image after the other.

    features: (N, D) float32. image, row, column: (N,) int32, each patch's image and place. grids: each image's (h, w),
    as (n, 2) int32. names and thumbnails (JPEG bytes): one an image; no thumbnails at all if they are switched off.
    """

    features: FloatArray
    image: IntArray
    row: IntArray
    column: IntArray
    grids: IntArray
    names: tuple[str, ...]
    thumbnails: tuple[bytes, ...]
    skipped: tuple[Skipped, ...]

    def rows_of(self, image: int) -> slice:
        """The image's rows in `features`."""
        start, stop = np.searchsorted(self.image, [image, image + 1])
        return slice(int(start), int(stop))


def collect(
    images: Iterable[ImageSource],
    embed: Callable[[Array], FloatArray],
    *,
    thumbnail_size: int,
    skip_unreadable: bool,
    progress: Progress,
) -> TrainingPatches:
    """Reads and embeds every image; `embed` turns (H, W, 3) RGB into (h, w, D).

    Raises ImageError for the first unusable image, unless `skip_unreadable`; DatasetError if there is no usable image
    at all.
    """
    total = len(images) if isinstance(images, Sized) else 0
    rows = _GrowingRows(total)
    names: list[str] = []
    grids: list[tuple[int, int]] = []
    thumbnails: list[bytes] = []
    skipped: list[Skipped] = []
    for number, source in enumerate(images):
        progress("embed", number, total)
        try:
            image = read_image(source)
        except ImageError as error:
            if not skip_unreadable:
                raise
            skipped.append(Skipped(name_of(source, number), str(error)))
            continue
        features = embed(image)
        height, width, dims = features.shape
        rows.append(features.reshape(height * width, dims))
        grids.append((height, width))
        names.append(name_of(source, number))
        if thumbnail_size:
            thumbnails.append(thumbnail(image, thumbnail_size))
    progress("embed", total, total)
    if not names:
        reasons = f"; all {len(skipped)} were unusable, the first because: {skipped[0].reason}" if skipped else ""
        raise DatasetError(f"expected at least one image of a good part; got none{reasons}")
    shapes = np.array(grids, np.int32)
    return TrainingPatches(
        rows.array(), *_places(shapes), shapes, relative_names(names), tuple(thumbnails), tuple(skipped)
    )


def relative_names(names: list[str]) -> tuple[str, ...]:
    """Paths without the folder that all of them share: what remains says which image, and nothing about the machine."""
    paths = [name for name in names if not name.startswith("image ")]
    if len(paths) != len(names):
        return tuple(names)
    absolute = [Path(name).absolute() for name in paths]
    shared = os.path.commonpath([path.parent for path in absolute])
    return tuple(path.relative_to(shared).as_posix() for path in absolute)


def _places(grids: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """(n, 2) grids -> image, row and column of every patch, each (N,) int32."""
    image = np.repeat(np.arange(len(grids), dtype=np.int32), grids.prod(axis=1))
    rows = [np.repeat(np.arange(height, dtype=np.int32), width) for height, width in grids]
    columns = [np.tile(np.arange(width, dtype=np.int32), height) for height, width in grids]
    return image, np.concatenate(rows), np.concatenate(columns)


class _GrowingRows:
    """Blocks of rows in one array that is allocated once where the number of blocks is known, and doubled where it is
    not."""

    def __init__(self, expected_blocks: int) -> None:
        self._expected = max(expected_blocks, 8)
        self._array: FloatArray | None = None
        self._used = 0

    def append(self, block: FloatArray) -> None:
        if self._array is None:
            self._array = np.empty((self._expected * len(block), block.shape[1]), np.float32)
        needed = self._used + len(block)
        if needed > len(self._array):
            larger = np.empty((max(needed, 2 * len(self._array)), block.shape[1]), np.float32)
            larger[: self._used] = self._array[: self._used]
            self._array = larger
        self._array[self._used : needed] = block
        self._used = needed

    def array(self) -> FloatArray:
        assert self._array is not None
        return self._array[: self._used]
