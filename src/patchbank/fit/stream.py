"""Training patches under a memory budget: a chunk at a time, each reduced to what the bank does not cover yet.

While everything fits into one chunk, nothing is lost: the sampler sees every patch at once. Beyond that, a full buffer
is thinned to a net (`fit/buffer.py`). The final coreset is sampled from the net, which is several times larger, and
from all of the last chunk, so that what was dropped lies close to what was kept (composable coresets; Indyk et al.
2014).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from patchbank.arrays import Array
from patchbank.bank import coreset
from patchbank.bank.memory_bank import ArchivedVectors, MemoryBank
from patchbank.config import Config
from patchbank.errors import ConfigError
from patchbank.features.embedding import CalibrationPatches, Patches
from patchbank.fit.buffer import Arrays, CalibrationPool, ImageFacts, Net, PatchBuffer
from patchbank.scoring.expected_distance import SAMPLE, Reservoir, Sample
from patchbank.util.progress import Progress

NET_FACTOR = 12  # the net holds at most this many times the final coreset, ...
NET_SHARE = 3 / 8  # ... and at most this share of the buffer
CALIBRATION_IMAGES = 1000  # beyond one chunk, calibration uses a random sample of at most so many images
CALIBRATION_SHARE = 0.2  # of the memory budget
SAMPLE_SHARE = 0.02  # of the memory budget, for the patches that expected distances are learned from
PICTURE_SHARE = 0.1  # of the memory budget, for thumbnails
WORK_SHARE, WORK_BYTES = 0.15, 60e6  # of the memory budget, and at most, for what reducing takes beside the chunk
_ROW_OVERHEAD = 64  # bytes a patch, beside its features and their projection: provenance, bounds, counters


@dataclass(frozen=True)
class Limits:
    """Says how the memory budget, in bytes, is shared out. dims: of a patch's features. expected: images, 0 if
    unknown."""

    config: Config
    budget: int
    expected: int

    def buffer(self, dims: int, patches: int) -> int:
        """Returns how many patches the buffer may hold at first, of images of so many. Raises ConfigError for too
        few."""
        capacity = self.rows(dims, projected=True)
        if self.expected * patches > capacity:
            capacity = self.rows(dims, projected=False)
        if capacity < 4 * patches:
            needed = math.ceil(4 * patches / capacity * self.budget / 1e6)
            raise ConfigError(f"memory: expected at least {needed} MB for images of {patches} patches; raise memory")
        return capacity

    def rows(self, dims: int, *, projected: bool) -> int:
        """Returns how many patches the buffer may hold, if they are projected to be sampled, or if not."""
        config = self.config
        if projected and config.sampler == "approx_greedy_coreset":
            dims += config.projection_dim
        copies = 2 if config.calibration == "cross_fit" else 1  # a fold's bank is made from a copy of the others
        share = 1 - min(WORK_SHARE, WORK_BYTES / self.budget) - CALIBRATION_SHARE
        share -= PICTURE_SHARE if config.thumbnail_size else 0
        share -= SAMPLE_SHARE if config.distance_scaling else 0
        return int(share * self.budget / (copies * (4 * dims + _ROW_OVERHEAD)))

    def images(self, dims: int, patches: int) -> int:
        """Returns how many images of so many patches are kept to calibrate with, beyond one chunk."""
        return max(2, min(CALIBRATION_IMAGES, int(CALIBRATION_SHARE * self.budget / (4 * dims * patches))))

    def sample(self, dims: int) -> int:
        """Returns how many patches the expected distances are learned from."""
        return max(2, min(SAMPLE, int(SAMPLE_SHARE * self.budget / (8 * dims))))

    def net(self, seen: int, images: int, capacity: int) -> int:
        """Returns how many patches the net may hold, after so many of so many images: a multiple of the final coreset,
        as far as that can be foreseen."""
        foreseen = seen * max(1.0, self.expected / images) if self.expected else 8 * seen
        wanted = NET_FACTOR * coreset.coreset_size(int(foreseen), self.config)
        return max(2, min(wanted, int(NET_SHARE * capacity)))

    def bank(self, seen: int, half: int | None) -> int:
        """Returns how many vectors the bank gets. half: of what the buffer holds, if it was full. Raises ConfigError if
        the budget cannot hold that many."""
        size = coreset.coreset_size(seen, self.config) if self.config.sampler != "identity" else seen
        if half is not None and size > half:
            raise ConfigError(
                f"a bank of {size:,} vectors does not fit the memory budget, which holds {half:,}; "
                "raise memory, or set coreset_size"
            )
        return size


class PatchStream:
    """Takes images' patches in order; ends as a memory bank. One pass, bounded memory.

    config: sampler, size, seed. budget: bytes for all that grows with the number of images. expected_images: 0 if
    unknown. held_out: whether image number n is kept out of the bank, for calibration only. seen: patches so far, those
    of held-out images not counted. chunks: how often the buffer was full.
    """

    def __init__(
        self, config: Config, budget: int, expected_images: int, held_out: Callable[[int], bool], progress: Progress
    ) -> None:
        self.config, self.held_out, self.progress = config, held_out, progress
        self.facts, self.net = ImageFacts(), Net(progress)
        self._limits = Limits(config, budget, expected_images)
        self.seen, self.chunks = 0, 0
        self._rng = np.random.default_rng([config.seed, 1])

    def add(self, patches: Patches) -> None:
        """Takes the next image's patches."""
        image, count = len(self.facts), len(patches.place)
        if image == 0:
            self._begin(count, patches.features.shape[1])
        self.facts.add(patches)
        if self.held_out(image):
            self.pool.offer(CalibrationPatches(image, patches))
            return
        if self.buffer.used + count > self.buffer.capacity:
            self._reduce()
        if self.buffer.used + count > self.buffer.capacity:
            raise ConfigError(f"memory: an image of {count:,} patches does not fit the budget; raise memory")
        self.buffer.append(image, patches.features, patches.place)
        self.seen += count
        if self.config.distance_scaling:
            self._reservoir.add(image, patches.features)
        if self.chunks and self.config.calibration == "leave_one_out":
            self.pool.offer(CalibrationPatches(image, patches))

    def images_in_use(self) -> set[int]:
        """The images of which the buffer still holds a patch."""
        return set(np.unique(self.buffer.image[: self.buffer.used]).tolist())

    def held_twice(self) -> list[CalibrationPatches] | None:
        """All images, in order and without copies, if those of another stream fit the budget beside them; else None."""
        pool = self.pool.images
        rows = self.buffer.used + sum(len(held.patches.place) for held in pool)
        if self.chunks or len(pool) < self.pool.offered or 2 * rows > self.buffer.capacity:
            return None
        return sorted([*pool, *self.facts.split(self.buffer)], key=lambda held: held.image)

    def sample(self) -> Sample | None:
        """Some of the patches that were offered to the bank; None where the options need none."""
        return self._reservoir.sample() if self.config.distance_scaling and self.seen else None

    def finish(self, names: tuple[str, ...]) -> tuple[MemoryBank, ArchivedVectors, list[CalibrationPatches]]:
        """The bank, its spares, and the images to calibrate with. The stream must not be used afterwards."""
        size = self._limits.bank(self.seen, self.buffer.capacity // 2 if self.chunks else None)
        if self.chunks and self.config.sampler == "random":
            self._reduce()
            order = np.argsort(self.buffer.key[: self.buffer.used])
            spares, nothing = coreset.spare_size(self.buffer.used, size, self.config), np.empty(0, np.float32)
            chosen = coreset.Coreset(order[:size], nothing, float("nan"), order[size : size + spares])
        else:
            chosen = coreset.sample(self.buffer.features[: self.buffer.used], self._sampling(size), self.progress)
        bank = MemoryBank(
            *self.facts.located(self.buffer, chosen.indices),
            images=names,
            covering_radius=chosen.covering_radius + self.net.radius,
            grids=np.array(self.facts.grids, np.int32),
        )
        if self.chunks or self.config.calibration not in ("leave_one_out", "cross_fit"):
            calibration = sorted(self.pool.images, key=lambda held: held.image)
        else:
            calibration = self.facts.split(self.buffer)
        return bank, ArchivedVectors(*self.facts.located(self.buffer, chosen.spares)), calibration

    def state(self) -> dict[str, Array]:
        """All that `restore` needs to go on from here, as plain arrays; those of the buffer and pool are no copies."""
        if not len(self.facts):
            return {}
        rng = json.dumps(self._rng.bit_generator.state).encode()
        arrays: dict[str, Array] = {
            "stream": np.array([*self._first, self.seen, self.chunks], np.int64),
            "rng": np.frombuffer(rng, np.uint8),
        }
        for part in (self.facts, self.buffer, self.net, self.pool, self._reservoir):
            arrays |= part.state()
        return arrays

    def restore(self, state: Arrays) -> None:
        """Goes on from a state of the same fit; the stream must be new. A state that cannot be one raises ValueError,
        KeyError, TypeError, ConfigError or what NumPy raises."""
        if "stream" not in state:
            return
        patches, dims, self.seen, self.chunks = state["stream"].tolist()
        self._begin(patches, dims)
        if self.chunks:
            self.buffer.capacity = self._limits.rows(dims, projected=False)
        self.facts.restore(state)
        self.facts.check(state["image"], state["place"])
        self.buffer.restore(state)
        self.net.restore(state, self.buffer)
        self.pool.restore(state, self.facts)
        if "sample_key" in state:
            self._reservoir.restore(state)
        self._rng.bit_generator.state = json.loads(state["rng"].tobytes())

    def _begin(self, patches: int, dims: int) -> None:
        """Takes memory. patches, dims: of the first image."""
        self._first = patches, dims
        self.pool = CalibrationPool(self._limits.images(dims, patches), self._rng)
        self._reservoir = Reservoir(self._limits.sample(dims), self.config.seed)
        capacity = self._limits.buffer(dims, patches)
        rows = min(capacity, (self._limits.expected or 8) * patches)
        self.buffer = PatchBuffer(capacity, rows, dims, keyed=self.config.sampler == "random")

    def _reduce(self) -> None:
        """Makes room: the patches that have come since the last time are thinned to what the net lacks."""
        config, buffer = self.config, self.buffer
        if config.sampler == "identity":
            raise ConfigError(
                "sampler 'identity' keeps every patch, which does not fit the memory budget; raise memory"
            )
        if config.calibration == "cross_fit":
            raise ConfigError(
                "calibration 'cross_fit' makes banks of all patches but a fold's, which do not fit the memory budget; "
                "raise memory, or use 'leave_one_out' or 'holdout'"
            )
        if self.chunks == 0 and config.calibration == "leave_one_out":
            for held in self.facts.split(self.buffer):
                self.pool.offer(held)
        self.chunks += 1
        buffer.capacity = self._limits.rows(self._first[1], projected=False)
        limit = self._limits.net(self.seen, len(self.facts), buffer.capacity)
        if config.sampler == "random":
            self.net.draw(buffer, limit, self._rng)
        else:
            self.net.cover(buffer, limit)
        if len(buffer.features) < buffer.capacity:  # now, while there is little to copy
            buffer.grow(buffer.capacity)

    def _sampling(self, size: int) -> Config:
        """Returns how the bank is sampled. What is left of several chunks is few enough for exact k-center, which makes
        up for part of what was dropped, and needs no memory for projections."""
        if self.config.sampler == "identity":
            return self.config
        chunked = self.chunks > 0 or self.buffer.used > self._limits.rows(self._first[1], projected=True)
        exact = chunked and self.config.sampler == "approx_greedy_coreset"
        return replace(self.config, coreset_size=size, sampler="greedy_coreset" if exact else self.config.sampler)
