"""Is this an image of the scene that the model knows? Another part, a moved camera, a lens cap, lost focus or another
exposure make every score meaningless, and are told apart here from defects.

Six measures of the whole image are compared with those of the training images. Each image's deviation is its largest
one over all measures, in units of how much the other training images differ in that measure; one quantile of these
leave-one-out deviations widens all ranges together, so that the false-alarm rate holds for the six combined (jackknife
version of conformal prediction; Vovk et al. 2005). A defect must not move them: two measures ask about the *most
ordinary* part of the image only, and their ranges are half as wide again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from patchbank.arrays import Array, DoubleArray, FloatArray, IndexArray, IntArray
from patchbank.calibration.thresholds import Support, support, threshold_of
from patchbank.config import Config
from patchbank.features.embedding import Patches, adaptive_averages
from patchbank.native.sums import both_ways, pair_distances, products, weighted
from patchbank.util.ieee import exp, log
from patchbank.util.wording import brief, finite

_Ranges = DoubleArray

GRID = 8  # cells down and across, in which the layout is compared
DIMS = 16  # of a cell's features, after a random projection
LEAST_IMAGES = 5  # fewer say nothing about what is normal
MOST_IMAGES = 500  # a random sample of more: bounds the file and the time of a check
_ORDINARY_PATCHES = 0.10  # this share of the patches is at most as far from the bank as `patch_distance`
_ORDINARY_CELLS = 0.25
_LARGEST_VALUE = 1e15  # the squares of its distances stay within float32
_LARGER = 5  # images whose deviations exceed the unit, or a tenth of them if they are few: close to the limit, so that
# no measure's long tail widens the others' ranges much


@dataclass(frozen=True)
class Measure:
    """One thing that is measured. log: compared by ratio. finest: the unit is at least this, in grey levels or as a
    logarithm. width: factor on the range. low, high: what it means to lie below or above, and what to look at; None:
    nothing is too low."""

    name: str
    log: bool
    finest: float
    width: float
    low: tuple[str, str] | None
    high: tuple[str, str]

    def scaled(self, values: Any) -> Any:
        """On the scale on which deviations are counted."""
        return log(np.maximum(values, 1e-6)) if self.log else values

    def unscaled(self, value: float) -> float:
        """The inverse of `scaled`."""
        return float(exp(min(value, 700.0))) if self.log else value


MEASURES = (
    Measure(
        "brightness",
        False,
        3.0,
        1,
        ("darker", "exposure, lighting or lens cap?"),
        ("brighter", "exposure or lighting?"),
    ),
    Measure(
        "sharpness",
        True,
        0.05,
        1,
        ("less sharp", "focus, motion or a dirty lens?"),
        ("sharper or noisier", "focus or gain?"),
    ),
    Measure("aspect_ratio", True, 0.02, 1, ("narrower", "cropped or turned?"), ("wider", "cropped or turned?")),
    Measure("pixels", True, 0.4, 1, ("smaller", "another camera setting?"), ("larger", "another camera setting?")),
    Measure(
        "patch_distance",
        True,
        0.05,
        1.5,
        None,
        ("even its most ordinary patches are unknown", "another part, light or focus?"),
    ),
    Measure(
        "layout_distance", True, 0.05, 1.5, None, ("arranged like no training image", "moved, turned or another part?")
    ),
)


@dataclass(frozen=True)
class Measurement:
    """One measure of one image. value: in grey levels (brightness), as a ratio (sharpness, aspect_ratio = width /
    height), in pixels, or as a Euclidean distance. low, high: its normal range. reason: in words, where it lies
    outside; else None."""

    name: str
    value: float
    low: float
    high: float
    reason: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: value, low, high, reason."""
        return {"value": finite(self.value), "low": self.low, "high": self.high, "reason": self.reason}


@dataclass(frozen=True, eq=False)
class ImageCheck:
    """The statistics of the training images as a whole, and the normal range of each.

    measures: (n, 6) float32, of n training images, in the order of MEASURES; distances are to the other images.
    deviations: (n,) float32, each image's largest against the others. cells: (n, V, d) float32, mean projected features
    of the cells that count. kept: (V,) int32, ascending, which of the GRID x GRID cells these are. projection: (D, d)
    float32. max_false_alarms: the share of normal images that may be taken for another scene.
    """

    measures: FloatArray
    deviations: FloatArray
    cells: FloatArray
    kept: IntArray
    projection: FloatArray
    max_false_alarms: float

    __repr__ = brief

    def __post_init__(self) -> None:
        n, v, d = len(self.measures), len(self.kept), self.projection.shape[1]
        if n < LEAST_IMAGES or self.measures.shape != (n, len(MEASURES)) or self.deviations.shape != (n,):
            raise ValueError(f"scene: expected {len(MEASURES)} measures of at least {LEAST_IMAGES} images")
        if self.cells.shape != (n, v, d) or v == 0 or d == 0:
            raise ValueError(f"scene: expected {n} images of {v} cells of {d} numbers; got {self.cells.shape}")
        if np.any(np.diff(self.kept) <= 0) or self.kept[0] < 0 or self.kept[-1] >= GRID * GRID:
            raise ValueError("scene: expected ascending cells of the grid")
        values = (self.measures, self.deviations, self.cells, self.projection)
        if not all((np.abs(x) <= _LARGEST_VALUE).all() for x in values):  # False for NaN
            raise ValueError(f"scene: expected finite values of at most {_LARGEST_VALUE:g}")
        if not 0 < self.max_false_alarms <= 0.5:
            raise ValueError(f"scene: expected a false-alarm rate in (0, 0.5]; got {self.max_false_alarms!r}")

    def check(self, patches: Patches, distances: FloatArray, layout: float) -> tuple[Measurement, ...]:
        """The measurements of an image, whose patches are so far (n,) from the bank. layout: as `layout` finds it."""
        rows = zip(MEASURES, (*plain_measures(patches, distances), layout), *self.ranges.tolist(), strict=True)
        return tuple(_measurement(*row) for row in rows)

    def layout(self, patches: Patches) -> float:
        """Returns the distance of an image's cells from those of the most similar training image. It
        needs no distances, so it can be found while these are."""
        cells = cells_of(patches, self.projection)[self.kept]
        return float(layout_distances(np.nan_to_num(cells), self.cells).min())

    @property
    def support(self) -> Support:
        """Says whether there are enough images for the guarantee, and which rate they support."""
        return support(len(self.measures), self.max_false_alarms, 0.0)

    @cached_property
    def ranges(self) -> _Ranges:
        """(2, 6) float64: the smallest and largest normal value of each measure."""
        centre, unit = _centre_and_unit(_scaled(self.measures))
        reach = widening(self.deviations, self.max_false_alarms) * unit
        low = [max(m.unscaled(v), 0.0) if m.low else 0.0 for m, v in zip(MEASURES, centre - reach, strict=True)]
        high = [m.unscaled(v) for m, v in zip(MEASURES, centre + reach, strict=True)]
        return np.array([low, high])


@dataclass(eq=False)
class ImageCheckLearner:
    """Takes left-out normal images one by one; ends as a ImageCheck. Keeps little of each: GRID * GRID * DIMS numbers.

    total: how many there will be, of which at most MOST_IMAGES are used.
    """

    total: int
    config: Config
    count: int = 0
    _values: list[tuple[float, ...]] = field(default_factory=list)
    _cells: list[FloatArray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng([self.config.seed, 2])
        few = min(self.total, MOST_IMAGES) if self.config.scene_false_alarms else 0
        self._chosen = frozenset(self._rng.choice(self.total, few, replace=False).tolist())
        self._projection: FloatArray = np.empty((0, 0), np.float32)

    def add(self, patches: Patches, distances: FloatArray) -> None:
        """Takes the next image: its patches, and their distances (n,) to the bank without its own vectors."""
        if self.count in self._chosen:
            if not self._values:
                self._projection = random_projection(patches.features.shape[1], self._rng)
            values, cells = described(patches, distances, self._projection)
            self._values.append(values)
            self._cells.append(cells)
        self.count += 1

    def finish(self) -> ImageCheck | None:
        """The scene; None if it is not wanted, or there are too few images."""
        n = len(self._values)
        if n < LEAST_IMAGES:
            return None
        cells, kept = common_cells(self._cells)
        if len(kept) == 0:
            return None
        measures = np.column_stack([self._values, left_out_layouts(cells)]).astype(np.float32)
        return ImageCheck(
            measures,
            leave_one_out_deviations(measures),
            cells,
            kept.astype(np.int32),
            self._projection,
            self.config.scene_false_alarms,
        )


def random_projection(dims: int, rng: np.random.Generator) -> FloatArray:
    """(D, d) float32, d at most DIMS: keeps squared distances on average."""
    projection = rng.standard_normal((dims, min(DIMS, dims))) / math.sqrt(min(DIMS, dims))
    return projection.astype(np.float32)


def common_cells(cells: Sequence[FloatArray]) -> tuple[FloatArray, IndexArray]:
    """Images' cells, (GRID * GRID, d) each -> those that have patches in all images, (n, V, d), and which they are."""
    every = np.stack(cells)
    kept = np.flatnonzero(np.isfinite(every).all(axis=(0, 2)))  # with a region of interest, some cells are empty
    return np.ascontiguousarray(every[:, kept]), kept


def left_out_layouts(cells: FloatArray) -> list[float]:
    """Returns the distance of each of n >= 2 images' cells, (n, V, d), from those of the most similar other image."""
    return [float(np.delete(layout_distances(own, cells), i).min()) for i, own in enumerate(cells)]


def described(patches: Patches, distances: FloatArray, projection: FloatArray) -> tuple[tuple[float, ...], FloatArray]:
    """All measures but the last, and (GRID * GRID, d) the cells' mean projected features."""
    return plain_measures(patches, distances), cells_of(patches, projection)


def plain_measures(patches: Patches, distances: FloatArray) -> tuple[float, ...]:
    """All measures but the last of an image, whose patches are so far (n,) from the bank."""
    look, k = patches.look, ordinary_patches(len(distances))
    ordinary = float(np.partition(distances, k)[k])
    return look.brightness, look.sharpness, look.width / look.height, float(look.width * look.height), ordinary


def ordinary_patches(n: int) -> int:
    """How many of n patches are no farther from the bank than `patch_distance`, beside the one that sets it."""
    return int(_ORDINARY_PATCHES * (n - 1))


def ordinary_cells(n: int) -> int:
    """How many of n cells are no farther from another image's than `layout_distance`, beside the one that sets it."""
    return int(_ORDINARY_CELLS * (n - 1))


def cells_of(patches: Patches, projection: FloatArray) -> FloatArray:
    """(GRID * GRID, d) mean projected features of the patches in each cell; NaN where none counts."""
    (height, width), place, dim = patches.grid, patches.place, patches.features.shape[1]
    full: FloatArray = patches.features
    counted: FloatArray = np.ones((height, width), np.float32)
    if len(place) < height * width:
        full, counted = np.zeros((height * width, dim), np.float32), np.zeros((height, width), np.float32)
        full[place], counted.reshape(-1)[place] = patches.features, 1
    rows, columns = adaptive_averages(height, GRID), adaptive_averages(width, GRID)
    down = weighted(rows, full.reshape(1, height, -1))  # (GRID, h) . (h, w D)
    pooled = weighted(columns, down.reshape(GRID, width, dim))  # (GRID, w) . (GRID, w, D) -> (GRID, GRID, D)
    cells = products(pooled.reshape(GRID * GRID, dim), projection.T)  # (GRID * GRID, D) -> (GRID * GRID, d)
    shares = both_ways(rows, columns, counted).reshape(-1, 1)  # of patches that count
    with np.errstate(invalid="ignore"):
        found: FloatArray = cells / shares
    return found


def leave_one_out_deviations(measures: FloatArray) -> FloatArray:
    """(n,) each image's largest deviation, in units that come from the other images."""
    scaled = _scaled(measures)
    largest = np.empty(len(scaled), np.float32)
    for i, own in enumerate(scaled):
        centre, unit = _centre_and_unit(np.delete(scaled, i, axis=0))
        largest[i] = (_sided(own - centre) / unit).max()
    return largest


def widening(deviations: FloatArray, max_false_alarms: float) -> float:
    """Returns by how many units a normal image may deviate. A further, exchangeable one exceeds it with probability at
    most `max_false_alarms`, as far as leaving one image out does not change the units.

    n images cannot support a rate below 1 / (n + 1). Their largest deviation is then widened as if deviations had
    exponential tails: by log(rate) / log(1 / (n + 1)). At least one unit: identical images have no deviations.
    """
    finest = 1.0 / (len(deviations) + 1)
    tail = max(1.0, float(log(max_false_alarms) / log(finest)))
    return max(1.0, threshold_of(deviations, max_false_alarms) * tail)


def _scaled(measures: Array) -> _Ranges:
    columns = measures.astype(np.float64).T
    return np.column_stack([m.scaled(column) for m, column in zip(MEASURES, columns, strict=True)])


def _centre_and_unit(scaled: _Ranges) -> tuple[_Ranges, _Ranges]:
    """(6,) medians, and the quantiles of the deviations from them: each measure's unit, times its width."""
    centre = np.median(scaled, axis=0)
    unit = np.quantile(_sided(scaled - centre), max(0.9, 1 - _LARGER / len(scaled)), axis=0)
    return centre, np.maximum(unit, [m.finest for m in MEASURES]) * [m.width for m in MEASURES]


def _sided(difference: _Ranges) -> _Ranges:
    """Returns the deviations that count: either direction, or upwards only."""
    upwards = np.array([not m.low for m in MEASURES])
    return np.where(upwards, np.maximum(difference, 0), np.abs(difference))


def layout_distances(cells: FloatArray, others: FloatArray) -> FloatArray:
    """(V, d) against (n, V, d) -> (n,): the distance that the most similar quarter of the cells does not exceed."""
    n, v, d = others.shape
    squared = pair_distances(others.reshape(-1, d), cells, None, np.tile(np.arange(v), n)).reshape(n, v)
    k = ordinary_cells(len(cells))
    return np.sqrt(np.partition(squared, k, axis=1)[:, k])


def _measurement(measure: Measure, value: float, low: float, high: float) -> Measurement:
    side = measure.low if value < low else measure.high if not value <= high else None
    normal = f"{low:.4g} to {high:.4g}" if measure.low else f"up to {high:.4g}"
    reason = f"{side[0]} ({measure.name} {value:.4g}, normal {normal}): {side[1]}" if side else None
    return Measurement(measure.name, value, low, high, reason)
