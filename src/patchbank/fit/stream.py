"""Training patches under a memory budget: a chunk at a time, each reduced to what the bank does not cover yet.

While everything fits into one chunk, nothing is lost: the sampler sees every patch at once. Beyond that, the stream
keeps a *net*: a set of patches such that every patch dropped so far lies within its radius. A full chunk adds to the
net, by greedy k-center, only patches that are farther from it than its spacing; a net that outgrows its share of the
memory is thinned by greedy k-center, which widens the spacing, and the radius by as much. The final coreset is sampled
from the net, which is several times larger, and from all of the last chunk, so that what was dropped lies close to what
was kept (composable coresets; Indyk et al. 2014, and the r-net of Gonzalez 1985).
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from patchbank.bank import coreset
from patchbank.bank.memory_bank import MemoryBank, Reserve
from patchbank.config import Config
from patchbank.errors import ConfigError
from patchbank.features.embedding import Patches
from patchbank.imaging.statistics import Look
from patchbank.scoring.expected_distance import SAMPLE, Reservoir, Sample
from patchbank.search.exact import ExactSearcher
from patchbank.util.progress import Progress

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

NET_FACTOR = 12  # the net holds at most this many times the final coreset, ...
NET_SHARE = 3 / 8  # ... and at most this share of the buffer
CALIBRATION_IMAGES = 1000  # beyond one chunk, calibration uses a random sample of at most so many images
CALIBRATION_SHARE = 0.2  # of the memory budget
SAMPLE_SHARE = 0.02  # of the memory budget, for the patches that expected distances are learned from
PICTURE_SHARE = 0.1  # of the memory budget, for thumbnails
WORK_SHARE, WORK_BYTES = 0.15, 60e6  # of the memory budget, and at most, for what reducing takes beside the chunk
_BLOCK_ROWS, _SEARCHED_ROWS = 4096, 8192
_ROW_OVERHEAD = 64  # bytes a patch, beside its features and their projection: provenance, bounds, counters


@dataclass(eq=False)
class CalibrationPatches:
    """One training image's patches, kept to score it later."""

    image: int
    patches: Patches


@dataclass(eq=False)
class PatchStream:
    """Takes images' patches in order; ends as a memory bank. One pass, bounded memory.

    config: sampler, size, seed. budget: bytes for all that grows with the number of images. expected_images: 0 if
    unknown. held_out: whether image number n is kept out of the bank, for calibration only.
    """

    config: Config
    budget: int
    expected_images: int
    held_out: Callable[[int], bool]
    progress: Progress
    grids: list[tuple[int, int]] = field(default_factory=list)
    input_sizes: list[tuple[int, int]] = field(default_factory=list)
    looks: array[float] = field(default_factory=lambda: array("d"))  # four numbers an image, as in Look
    pool: list[CalibrationPatches] = field(default_factory=list)
    spacing: float = 0.0  # a patch that is this close to the net does not join it
    radius: float = 0.0  # every patch that was dropped is this close to the net: the sum of the spacings it has had
    seen: int = 0  # patches, those of held-out images not counted
    net: int = 0  # rows of the buffer, from the first, that are the net; the others have come since
    used: int = 0
    chunks: int = 0
    offered: int = 0  # images that the calibration pool was drawn from

    def add(self, patches: Patches) -> None:
        """Takes the next image's patches."""
        image, count = len(self.grids), len(patches.place)
        if image == 0:
            self._allocate(count, patches.features.shape[1])
        for sizes, size in ((self.grids, patches.grid), (self.input_sizes, patches.input_size)):
            sizes.append(sizes[-1] if sizes and sizes[-1] == size else size)  # one object for all that are equal
        self.looks.extend(patches.look)
        if self.held_out(image):
            self._offer(CalibrationPatches(image, patches))
            return
        if self.used + count > self._capacity:
            self._reduce()
        if self.used + count > self._capacity:
            raise ConfigError(f"memory: an image of {count:,} patches does not fit the budget; raise memory")
        self._reserve(self.used + count)
        rows = slice(self.used, self.used + count)
        self._features[rows] = patches.features
        self._image[rows] = image
        self._place[rows] = patches.place
        self.used, self.seen = rows.stop, self.seen + count
        if self.config.distance_scaling:
            self._reservoir.add(image, patches.features)
        if self.chunks and self.config.calibration == "leave_one_out":
            self._offer(CalibrationPatches(image, patches))

    def images_in_use(self) -> set[int]:
        """The images of which the buffer still holds a patch."""
        return set(np.unique(self._image[: self.used]).tolist())

    def held_twice(self) -> list[CalibrationPatches] | None:
        """All images, in order and without copies, if those of another stream fit the budget beside them; else None."""
        rows = self.used + sum(len(held.patches.place) for held in self.pool)
        if self.chunks or len(self.pool) < self.offered or 2 * rows > self._capacity:
            return None
        return sorted([*self.pool, *self._buffered_images()], key=lambda held: held.image)

    def sample(self) -> Sample | None:
        """Some of the patches that were offered to the bank; None where the options need none."""
        return self._reservoir.sample() if self.config.distance_scaling and self.seen else None

    def finish(self, names: tuple[str, ...]) -> tuple[MemoryBank, Reserve, list[CalibrationPatches]]:
        """The bank, its spares, and the images to calibrate with. The stream must not be used afterwards."""
        size = self._final_size()
        if self.chunks and self.config.sampler == "random":
            self._reduce()
        features = self._features[: self.used]
        if self.config.sampler == "random" and self.chunks:
            order, spares = np.argsort(self._key[: self.used]), coreset.spare_size(self.used, size, self.config)
            nothing = np.empty(0, np.float32)
            chosen = coreset.Coreset(order[:size], nothing, float("nan"), order[size : size + spares])
        else:
            chosen = coreset.sample(features, self._sampling(size), self.progress)
        bank = MemoryBank(
            *self._rows(chosen.indices),
            images=names,
            covering_radius=chosen.covering_radius + self.radius,
            grids=np.array(self.grids, np.int32),
        )
        return bank, Reserve(*self._rows(chosen.spares)), self._calibration_patches()

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that `restore` needs to go on from here, as plain arrays."""
        if not self.grids:
            return {}
        counters = [self.seen, self.net, self.used, self.chunks, self.offered, self._pool_size, self._capacity]
        arrays: dict[str, npt.NDArray[Any]] = {
            "features": self._features[: self.used],
            "image": self._image[: self.used],
            "place": self._place[: self.used],
            "key": self._key[: self.used],
            "grids": np.array(self.grids, np.int64),
            "input_sizes": np.array(self.input_sizes, np.int64),
            "looks": np.array(self.looks).reshape(-1, 4),
            "counters": np.array(counters, np.int64),
            "radii": np.array([self.spacing, self.radius]),
            "rng": np.array(json.dumps(self._rng.bit_generator.state)),
            "pool_images": np.array([held.image for held in self.pool], np.int64),
        }
        pool = {f"pool_{number}": held.patches.features for number, held in enumerate(self.pool)}
        arrays |= self._reservoir.state()
        return arrays | pool | {f"pool_{number}_place": held.patches.place for number, held in enumerate(self.pool)}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continues from a state of the same fit."""
        if not state:
            return
        for sizes, name in ((self.grids, "grids"), (self.input_sizes, "input_sizes")):
            sizes[:] = [(int(height), int(width)) for height, width in state[name]]
        self.looks = array("d", state["looks"].astype(np.float64).tobytes())
        features = state["features"]
        self._allocate(int(np.prod(self.grids[0])), features.shape[1])
        counters = (int(value) for value in state["counters"])
        self.seen, self.net, self.used, self.chunks, self.offered, self._pool_size, self._capacity = counters
        used, self.used = self.used, 0
        self._reserve(used)
        self.used = used
        self._features[:used], self._image[:used], self._place[:used] = features, state["image"], state["place"]
        self._key[: len(state["key"])] = state["key"]
        self.spacing, self.radius = map(float, state["radii"])
        self._rng.bit_generator.state = json.loads(str(state["rng"]))
        if "sample_key" in state:
            self._reservoir.restore(state)
        self.pool = [
            self._held(int(image), state[f"pool_{number}"], state[f"pool_{number}_place"])
            for number, image in enumerate(state["pool_images"])
        ]

    def _sampling(self, size: int) -> Config:
        """How the bank is sampled. What is left of several chunks is few enough for exact k-center, which makes up for
        part of what was dropped, and needs no memory for projections."""
        if self.config.sampler == "identity":
            return self.config
        chunked = self.chunks > 0 or self.used > self._rows_within_budget(projected=True)
        exact = chunked and self.config.sampler == "approx_greedy_coreset"
        return replace(self.config, coreset_size=size, sampler="greedy_coreset" if exact else self.config.sampler)

    def _calibration_patches(self) -> list[CalibrationPatches]:
        if self.chunks or self.config.calibration not in ("leave_one_out", "cross_fit"):
            return sorted(self.pool, key=lambda held: held.image)
        return self._buffered_images()

    def _rows(self, rows: npt.NDArray[np.int64]) -> tuple[FloatArray, IntArray, IntArray, IntArray]:
        """Some of the buffer's patches: vectors, image, row, column."""
        image, place = self._image[rows], self._place[rows]
        widths = np.array([width for _, width in self.grids], np.int32)[image]
        return self._features[rows], image, place // widths, place % widths

    def _final_size(self) -> int:
        """How many vectors the bank gets. Raises ConfigError if the budget cannot hold that many."""
        size = coreset.coreset_size(self.seen, self.config) if self.config.sampler != "identity" else self.seen
        if self.chunks and size > self._capacity // 2:
            raise ConfigError(
                f"a bank of {size:,} vectors does not fit the memory budget, which holds {self._capacity // 2:,}; "
                "raise memory, or set coreset_size"
            )
        return size

    def _allocate(self, patches: int, dims: int) -> None:
        self._dims = dims
        self._pool_size = max(2, min(CALIBRATION_IMAGES, int(CALIBRATION_SHARE * self.budget / (4 * dims * patches))))
        self._reservoir = Reservoir(max(2, min(SAMPLE, int(SAMPLE_SHARE * self.budget / (8 * dims)))), self.config.seed)
        self._capacity = self._rows_within_budget(projected=True)
        if self.expected_images * patches > self._capacity:
            self._capacity = self._rows_within_budget(projected=False)
        if self._capacity < 4 * patches:
            needed = math.ceil(4 * patches / self._capacity * self.budget / 1e6)
            raise ConfigError(f"memory: expected at least {needed} MB for images of {patches} patches; raise memory")
        self._rng = np.random.default_rng([self.config.seed, 1])
        rows = min(self._capacity, (self.expected_images or 8) * patches)
        self._features = np.empty((rows, dims), np.float32)  # pages are taken from the system as they are written
        self._image, self._place = np.empty(rows, np.int32), np.empty(rows, np.int32)
        self._key = np.empty(rows if self.config.sampler == "random" else 0)

    def _rows_within_budget(self, *, projected: bool) -> int:
        """How many patches the buffer may hold, if they are projected to be sampled, or if not."""
        config = self.config
        dims = self._dims
        if projected and config.sampler == "approx_greedy_coreset":
            dims += config.projection_dim
        copies = 2 if config.calibration == "cross_fit" else 1  # a fold's bank is made from a copy of the others
        share = 1 - min(WORK_SHARE, WORK_BYTES / self.budget) - CALIBRATION_SHARE
        share -= PICTURE_SHARE if config.thumbnail_size else 0
        share -= SAMPLE_SHARE if config.distance_scaling else 0
        return int(share * self.budget / (copies * (4 * dims + _ROW_OVERHEAD)))

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._features):
            return
        self._reallocate(min(self._capacity, max(rows, 2 * len(self._features))))

    def _reallocate(self, size: int) -> None:
        for name in ("_features", "_image", "_place", *(["_key"] if self.config.sampler == "random" else [])):
            kept = getattr(self, name)[: self.used].copy()
            setattr(self, name, kept)  # frees what there was, before the new pages are taken
            new = np.empty((size, *kept.shape[1:]), kept.dtype)
            new[: self.used] = kept
            setattr(self, name, new)

    def _offer(self, held: CalibrationPatches) -> None:
        """Keeps a uniform random sample of the images offered (reservoir sampling; Vitter 1985, algorithm R)."""
        self.offered += 1
        if len(self.pool) < self._pool_size:
            self.pool.append(_own(held))
        elif (place := int(self._rng.integers(self.offered))) < self._pool_size:
            self.pool[place] = _own(held)

    def _reduce(self) -> None:
        """Makes room: the patches that have come since the last time are thinned to what the net lacks."""
        if self.config.sampler == "identity":
            raise ConfigError(
                "sampler 'identity' keeps every patch, which does not fit the memory budget; raise memory"
            )
        if self.config.calibration == "cross_fit":
            raise ConfigError(
                "calibration 'cross_fit' makes banks of all patches but a fold's, which do not fit the memory budget; "
                "raise memory, or use 'leave_one_out' or 'holdout'"
            )
        if self.chunks == 0 and self.config.calibration == "leave_one_out":
            for held in self._buffered_images():
                self._offer(held)
        self.chunks += 1
        self._capacity = self._rows_within_budget(projected=False)
        if self.config.sampler == "random":
            self._reduce_random()
        else:
            self._reduce_greedy()
        self.net = self.used
        if len(self._features) < self._capacity:  # now, while there is little to copy
            self._reallocate(self._capacity)

    def _keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Drops all of the buffer's patches but these, which are sorted: in place, without a copy of all."""
        arrays: list[npt.NDArray[Any]] = [self._features, self._image, self._place]
        for each in [*arrays, self._key] if len(self._key) else arrays:
            for start in range(0, len(rows), _BLOCK_ROWS):
                some = rows[start : start + _BLOCK_ROWS]
                each[start : start + len(some)] = each[some]
        self.used = len(rows)

    def _buffered_images(self) -> list[CalibrationPatches]:
        image = self._image[: self.used]
        numbers, starts = np.unique(image, return_index=True)
        stops = [*starts[1:], self.used]
        return [
            self._held(int(n), self._features[a:b], self._place[a:b])
            for n, a, b in zip(numbers, starts, stops, strict=True)
        ]

    def _held(self, image: int, features: FloatArray, place: IntArray) -> CalibrationPatches:
        brightness, sharpness, height, width = self.looks[4 * image : 4 * image + 4]
        look = Look(brightness, sharpness, int(height), int(width))
        return CalibrationPatches(image, Patches(features, place, self.grids[image], self.input_sizes[image], look))

    def _reduce_random(self) -> None:
        """Every patch draws a number; those with the smallest stay. What is left of all of them is a uniform sample."""
        self._key[self.net : self.used] = self._rng.random(self.used - self.net)
        self._keep(np.sort(np.argsort(self._key[: self.used], kind="stable")[: self._net_size()]))

    def _reduce_greedy(self) -> None:
        """The net grows by new patches that are farther than its spacing from it and from each other; a net that has no
        room for these is thinned, together with them, to half of what it may hold."""
        limit = self._net_size()
        if self.net:
            distances = self._distances_to_net(self._features[self.net : self.used])
            far = np.flatnonzero(distances > self.spacing)
            self._keep(np.concatenate([np.arange(self.net), self.net + far]))
            joining = self._joining(distances[far], limit - self.net)
            if joining is not None:
                self._keep(np.concatenate([np.arange(self.net), self.net + joining]))
                return
        thin = coreset.greedy_kcenter(self._features[: self.used], max(limit // 2, 1), progress=self.progress)
        self.spacing = thin.covering_radius
        self.radius += thin.covering_radius
        self._keep(np.sort(thin.indices))

    def _joining(self, distances: FloatArray, room: int) -> npt.NDArray[np.int64] | None:
        """Which of the new patches join the net, sorted; None if they are more than `room`. distances: to the net."""
        if len(distances) <= room:
            return np.arange(len(distances))
        if room < 1:
            return None
        fresh = self._features[self.net : self.used]
        picks = coreset.greedy_kcenter(fresh, room, start_bounds=distances, progress=self.progress)
        joining = picks.indices[picks.distances > self.spacing]
        return np.sort(joining) if len(joining) < room else None

    def _distances_to_net(self, fresh: FloatArray) -> FloatArray:
        """(n,) each patch's distance to the nearest of the net. In parts, because a searcher takes as much memory as
        what it searches."""
        nearest = np.full(len(fresh), np.inf, np.float32)
        for first in range(0, self.net, _SEARCHED_ROWS):
            searcher = ExactSearcher(self._features[first : min(first + _SEARCHED_ROWS, self.net)])
            for a in range(0, len(fresh), _BLOCK_ROWS):
                part = nearest[a : a + _BLOCK_ROWS]
                np.minimum(part, searcher.search(fresh[a : a + _BLOCK_ROWS], 1)[0][:, 0], out=part)
        return nearest

    def _net_size(self) -> int:
        """How many patches the net may hold: a multiple of the final coreset, as far as that can be foreseen."""
        done = len(self.grids)
        foreseen = self.seen * max(1.0, self.expected_images / done) if self.expected_images else 8 * self.seen
        wanted = NET_FACTOR * coreset.coreset_size(int(foreseen), self.config)
        return max(2, min(wanted, int(NET_SHARE * self._capacity)))


def _own(held: CalibrationPatches) -> CalibrationPatches:
    patches = held.patches
    return CalibrationPatches(
        held.image, replace(patches, features=patches.features.copy(), place=patches.place.copy())
    )
