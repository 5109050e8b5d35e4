"""The memory bank: patch features of normal images, each with the place it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchbank.arrays import FloatArray, IndexArray, IntArray
from patchbank.scoring.scores import ExpectedDistance
from patchbank.util.wording import brief


@dataclass(frozen=True, eq=False)
class ArchivedVectors:
    """S patch features that the model keeps beside its bank, and their provenance: spares that can fill a hole, and
    vectors of earlier versions of the bank.

    vectors: (S, D) float32. image, row, column: (S,) int32, as in `MemoryBank`, whose `images` they count.
    """

    vectors: FloatArray
    image: IntArray
    row: IntArray
    column: IntArray

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, numbers: npt.NDArray[np.integer]) -> ArchivedVectors:
        """Some of the vectors, in the order of their numbers."""
        return ArchivedVectors(self.vectors[numbers], self.image[numbers], self.row[numbers], self.column[numbers])

    @classmethod
    def joined(cls, parts: Sequence[ArchivedVectors]) -> ArchivedVectors:
        """At least one part's vectors, one after the other."""
        names = ("vectors", "image", "row", "column")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """M patch features and their provenance.

    vectors: (M, D) float32. image, row, column: (M,) int32, the training image (an index into `images`) and the place
    in its patch grid that each vector was taken from. images: the n training images' names. covering_radius: the
    largest distance from any training patch to its nearest vector, Euclidean. grids: (n, 2) int32, the (rows, columns)
    of each training image's patch grid. expected: how far normal patches are from the vectors; None = not known, all
    alike. It was learned when the model was fitted, and does not change with the vectors.
    """

    vectors: FloatArray
    image: IntArray
    row: IntArray
    column: IntArray
    images: tuple[str, ...]
    covering_radius: float
    grids: IntArray
    expected: ExpectedDistance | None = None

    __repr__ = brief

    def __post_init__(self) -> None:
        m = len(self.vectors)
        if self.vectors.ndim != 2 or m == 0:
            raise ValueError(f"vectors: expected shape (M, D) with M > 0; got {self.vectors.shape}")
        for name in ("image", "row", "column"):
            if getattr(self, name).shape != (m,):
                raise ValueError(f"{name}: expected shape ({m},); got {getattr(self, name).shape}")
        if self.image.min() < 0 or self.image.max() >= len(self.images):
            raise ValueError(
                f"image: expected indices into {len(self.images)} names; got {self.image.min()}..{self.image.max()}"
            )
        self._check_places()

    def __len__(self) -> int:
        return len(self.vectors)

    def origin(self, index: int) -> tuple[str, int, int]:
        """Returns the origin of a vector: the training image's name, and the row and column in its patch grid."""
        return self.images[self.image[index]], int(self.row[index]), int(self.column[index])

    def _check_places(self) -> None:
        if self.grids.shape != (len(self.images), 2) or self.grids.min() < 1:
            raise ValueError(f"grids: expected shape ({len(self.images)}, 2) and values over 0; got {self.grids.shape}")
        rows, columns = self.grids[self.image].T  # (M, 2) -> two of (M,)
        inside = (self.row >= 0) & (self.row < rows) & (self.column >= 0) & (self.column < columns)
        if not inside.all():
            raise ValueError("row, column: expected places inside the training images' grids")

    def vectors_per_image(self) -> IndexArray:
        """(len(images),) how many vectors each training image contributed."""
        return np.bincount(self.image, minlength=len(self.images))
