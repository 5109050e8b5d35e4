"""What a fit holds of its images: a buffer of patches, the net that a full buffer is thinned to, facts of the images,
and a sample of them to calibrate with. Each part can be stored and restored.

A *net* is a set of patches such that every patch dropped so far lies within its radius. A full buffer adds to the net,
by greedy k-center, only patches that are farther from it than its spacing; a net that outgrows its share of the memory
is thinned by greedy k-center, which widens the spacing, and the radius by as much (the r-net of Gonzalez 1985).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from patchbank.arrays import Array, FloatArray, IndexArray, IntArray
from patchbank.bank import coreset
from patchbank.features.embedding import CalibrationPatches, ImageStatistics, Patches
from patchbank.search.exact import ExactSearcher
from patchbank.util.progress import Progress

Arrays = Mapping[str, Array]

_BLOCK_ROWS, _SEARCHED_ROWS = 4096, 8192


class PatchBuffer:
    """Rows of patches, and where each came from; of them `used` are filled, and `capacity` may be.

    features: (rows, D) float32. image, place: (rows,) int32, the number of the image, and row * w + column in its grid.
    key: (rows,) float64, a number that was drawn for the patch; empty where none are drawn.
    """

    def __init__(self, capacity: int, rows: int, dims: int, *, keyed: bool) -> None:
        self.capacity, self.used = capacity, 0
        self.features = np.empty((rows, dims), np.float32)  # pages are taken from the system as they are written
        self.image, self.place = np.empty(rows, np.int32), np.empty(rows, np.int32)
        self.key = np.empty(rows if keyed else 0)
        self._names = ("features", "image", "place", *(["key"] if keyed else []))

    def append(self, image: int, features: FloatArray, place: IntArray) -> None:
        """Adds an image's patches, for which there must be room."""
        rows = slice(self.used, self.used + len(place))
        if rows.stop > len(self.features):
            self.grow(max(rows.stop, 2 * len(self.features)))
        self.features[rows], self.image[rows], self.place[rows] = features, image, place
        self.used = rows.stop

    def grow(self, rows: int) -> None:
        """Has memory for so many rows, but for `capacity` at most."""
        for name in self._names:
            kept = getattr(self, name)[: self.used].copy()
            setattr(self, name, kept)  # frees what there was, before the new pages are taken
            new = np.empty((min(self.capacity, rows), *kept.shape[1:]), kept.dtype)
            new[: self.used] = kept
            setattr(self, name, new)

    def keep(self, rows: IndexArray) -> None:
        """Drops all patches but these, which are sorted: in place, without a copy of all."""
        for name in self._names:
            each = getattr(self, name)
            for start in range(0, len(rows), _BLOCK_ROWS):
                some = rows[start : start + _BLOCK_ROWS]
                each[start : start + len(some)] = each[some]
        self.used = len(rows)

    def state(self) -> dict[str, Array]:
        """All that `restore` needs, without copies."""
        return {name: getattr(self, name)[: self.used] for name in self._names}

    def restore(self, state: Arrays) -> None:
        """Goes on from a state. Raises ValueError for one that cannot be this buffer's."""
        count = len(state["place"])
        if count > self.capacity or any(len(state[name]) != count for name in self._names):
            raise ValueError("its buffer does not fit this fit's")
        if count > len(self.features):
            self.grow(count)
        for name in self._names:
            getattr(self, name)[:count] = state[name]
        self.used = count


class Net:
    """size: rows of the buffer, from the first, that are the net; the others have come since. spacing: a patch that is
    this close to the net does not join it. radius: every patch that was dropped is this close to the net: the sum of
    the spacings it has had."""

    def __init__(self, progress: Progress) -> None:
        self.size, self.spacing, self.radius = 0, 0.0, 0.0
        self._progress = progress

    def draw(self, buffer: PatchBuffer, limit: int, rng: np.random.Generator) -> None:
        """Thins the buffer by chance. Every patch draws a number; those with the smallest stay. What is left of all of
        them is a uniform sample."""
        buffer.key[self.size : buffer.used] = rng.random(buffer.used - self.size)
        buffer.keep(np.sort(np.argsort(buffer.key[: buffer.used], kind="stable")[:limit]))
        self.size = buffer.used

    def cover(self, buffer: PatchBuffer, limit: int) -> None:
        """Thins the buffer by distance. The net grows by new patches that are farther than its spacing from it and from
        each other; a net that has no room for these is thinned, together with them, to half of what it may hold."""
        if not self.size or not self._joined(buffer, limit):
            thin = coreset.greedy_kcenter(buffer.features[: buffer.used], max(limit // 2, 1), progress=self._progress)
            self.spacing = thin.covering_radius
            self.radius += thin.covering_radius
            buffer.keep(np.sort(thin.indices))
        self.size = buffer.used

    def state(self) -> dict[str, Array]:
        """All that `restore` needs."""
        return {"net": np.array([self.size, self.spacing, self.radius])}

    def restore(self, state: Arrays, buffer: PatchBuffer) -> None:
        """Goes on from a state, the buffer being restored. Raises ValueError for one that cannot be."""
        size, self.spacing, self.radius = state["net"].tolist()
        self.size = int(size)
        if not (0 <= self.size <= buffer.used and self.spacing >= 0 and self.radius >= 0):
            raise ValueError("its net does not fit its buffer")

    def _joined(self, buffer: PatchBuffer, limit: int) -> bool:
        """Drops the new patches that the net covers; whether the others have joined it, which they do if there is
        room."""
        distances = self._distances(buffer)
        far = np.flatnonzero(distances > self.spacing)
        net = np.arange(self.size)
        buffer.keep(np.concatenate([net, self.size + far]))
        joining = self._joining(buffer.features[self.size : buffer.used], distances[far], limit - self.size)
        if joining is None:
            return False
        buffer.keep(np.concatenate([net, self.size + joining]))
        return True

    def _joining(self, fresh: FloatArray, distances: FloatArray, room: int) -> IndexArray | None:
        """Returns which of the new patches join the net, sorted; None if they are more than `room`. distances: to the
        net."""
        if len(distances) <= room:
            return np.arange(len(distances))
        if room < 1:
            return None
        picks = coreset.greedy_kcenter(fresh, room, start_bounds=distances, progress=self._progress)
        joining = picks.indices[picks.distances > self.spacing]
        return np.sort(joining) if len(joining) < room else None

    def _distances(self, buffer: PatchBuffer) -> FloatArray:
        """(n,) each new patch's distance to the nearest of the net. In parts, because a searcher takes as much memory
        as what it searches."""
        fresh = buffer.features[self.size : buffer.used]
        nearest = np.full(len(fresh), np.inf, np.float32)
        for first in range(0, self.size, _SEARCHED_ROWS):
            searcher = ExactSearcher(buffer.features[first : min(first + _SEARCHED_ROWS, self.size)])
            for a in range(0, len(fresh), _BLOCK_ROWS):
                part = nearest[a : a + _BLOCK_ROWS]
                np.minimum(part, searcher.search(fresh[a : a + _BLOCK_ROWS], 1)[0][:, 0], out=part)
        return nearest


class ImageFacts:
    """Holds what is remembered of every image: grids (h, w), input sizes (H', W') and looks, in order."""

    def __init__(self) -> None:
        self.grids: list[tuple[int, int]] = []
        self.input_sizes: list[tuple[int, int]] = []
        self._looks = array("d")  # four numbers an image, as in ImageStatistics

    def __len__(self) -> int:
        return len(self.grids)

    def add(self, patches: Patches) -> None:
        """Takes the next image's facts."""
        for sizes, size in ((self.grids, patches.grid), (self.input_sizes, patches.input_size)):
            sizes.append(sizes[-1] if sizes and sizes[-1] == size else size)  # one object for all that are equal
        self._looks.extend(patches.look)

    def patches_of(self, image: int, features: FloatArray, place: IntArray) -> CalibrationPatches:
        """An image's patches as they were before they came into the buffer."""
        brightness, sharpness, height, width = self._looks[4 * image : 4 * image + 4]
        look = ImageStatistics(brightness, sharpness, int(height), int(width))
        return CalibrationPatches(image, Patches(features, place, self.grids[image], self.input_sizes[image], look))

    def split(self, buffer: PatchBuffer) -> list[CalibrationPatches]:
        """The images whose patches are all in the buffer, without copies."""
        image = buffer.image[: buffer.used]
        numbers, starts = np.unique(image, return_index=True)
        stops = [*starts[1:], buffer.used]
        return [
            self.patches_of(int(n), buffer.features[a:b], buffer.place[a:b])
            for n, a, b in zip(numbers, starts, stops, strict=True)
        ]

    def located(self, buffer: PatchBuffer, rows: IndexArray) -> tuple[FloatArray, IntArray, IntArray, IntArray]:
        """Some of the buffer's patches: vectors, image, row, column."""
        image, place = buffer.image[rows], buffer.place[rows]
        widths = np.array([width for _, width in self.grids], np.int32)[image]
        return buffer.features[rows], image, place // widths, place % widths

    def state(self) -> dict[str, Array]:
        """All that `restore` needs."""
        return {
            "grids": np.array(self.grids, np.int64).reshape(-1, 2),
            "input_sizes": np.array(self.input_sizes, np.int64).reshape(-1, 2),
            "looks": np.array(self._looks).reshape(-1, 4),
        }

    def restore(self, state: Arrays) -> None:
        """Goes on from a state. Raises ValueError for one that cannot be."""
        grids, sizes, looks = state["grids"], state["input_sizes"], state["looks"]
        if not (grids.shape == sizes.shape == (len(looks), 2) and looks.shape == (len(looks), 4)):
            raise ValueError("its images do not belong together")
        if grids.min() < 1 or sizes.min() < 1 or not np.isfinite(looks).all():
            raise ValueError("its images have impossible sizes")
        self.grids, self.input_sizes = ([(h, w) for h, w in each.tolist()] for each in (grids, sizes))
        self._looks = array("d", looks.astype(np.float64).tobytes())

    def check(self, image: IntArray, place: IntArray) -> None:
        """Raises ValueError unless these are places of these images."""
        if not len(image):
            return
        if image.min() < 0 or image.max() >= len(self):
            raise ValueError("it names images that it does not hold")
        areas = np.array(self.grids, np.int64).prod(axis=1)
        if not ((place >= 0) & (place < areas[image])).all():
            raise ValueError("it names places outside its images")


class CalibrationPool:
    """A uniform random sample of at most `size` of the images that are offered (reservoir sampling; Vitter 1985,
    algorithm R)."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.offered = size, 0
        self.images: list[CalibrationPatches] = []
        self._rng = rng

    def offer(self, held: CalibrationPatches) -> None:
        """Takes an image's patches, or not; a copy, since they may lie in a buffer."""
        self.offered += 1
        if len(self.images) < self.size:
            self.images.append(_copied(held))
        elif (place := int(self._rng.integers(self.offered))) < self.size:
            self.images[place] = _copied(held)

    def state(self) -> dict[str, Array]:
        """All that `restore` needs."""
        arrays: dict[str, Array] = {"pool": np.array([self.offered, *(held.image for held in self.images)], np.int64)}
        for number, held in enumerate(self.images):
            arrays[f"pool_{number}"] = held.patches.features
            arrays[f"pool_{number}_place"] = held.patches.place
        return arrays

    def restore(self, state: Arrays, facts: ImageFacts) -> None:
        """Goes on from a state. Raises ValueError for one that cannot be."""
        self.offered, *images = state["pool"].tolist()
        if len(images) > min(self.size, self.offered):
            raise ValueError("it holds more images to calibrate with than there is room for")
        for number, image in enumerate(images):
            features, place = state[f"pool_{number}"], state[f"pool_{number}_place"]
            facts.check(np.full(len(place), image, np.int32), place)
            if len(features) != len(place):
                raise ValueError("an image's patches are not all there")
            self.images.append(facts.patches_of(image, features, place))


def _copied(held: CalibrationPatches) -> CalibrationPatches:
    patches = held.patches
    return CalibrationPatches(
        held.image, replace(patches, features=patches.features.copy(), place=patches.place.copy())
    )
