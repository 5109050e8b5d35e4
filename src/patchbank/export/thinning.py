"""A smaller memory bank for an exported graph, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from patchbank.bank.coreset import sample
from patchbank.bank.memory_bank import MemoryBank
from patchbank.calibration.held_out import summarised
from patchbank.errors import ConfigError
from patchbank.export.reference import Case
from patchbank.features.extract import patches_of
from patchbank.imaging.sources import ImageSource
from patchbank.model import PatchCore
from patchbank.search.searcher import build_searcher
from patchbank.update.recalibrate import read_again
from patchbank.util.progress import Progress

_GREEDY = ("greedy_coreset", "approx_greedy_coreset")


@dataclass(frozen=True)
class ThinningCost:
    """What a smaller bank costs. thresholds: before, and in the graph; the same one unless it was measured again, None
    without calibration. images: how many reference images there are. other_verdicts: how many of them have another
    verdict than before. median_rise, largest_rise: of their scores, relative: scores only rise. milliseconds_before,
    milliseconds_after: of the graph, for an image."""

    thresholds: tuple[float | None, float | None]
    images: int
    other_verdicts: int
    median_rise: float
    largest_rise: float
    milliseconds_before: float
    milliseconds_after: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "thresholds": list(self.thresholds)}

    @property
    def measured_again(self) -> bool:
        """Whether the threshold was measured with the smaller bank."""
        return self.thresholds[0] != self.thresholds[1]


def thinned(model: PatchCore, count: int) -> PatchCore:
    """The model with a bank of `count` of its vectors: k-center, as the fit thins. Thresholds stay what they are.
    Raises ConfigError for an impossible count."""
    bank = model.bank
    if not max(1, model.config.num_neighbours) <= count <= len(bank):
        least = max(1, model.config.num_neighbours)
        raise ConfigError(f"bank_size: expected {least} to {len(bank)} vectors (the bank's); got {count}")
    if count == len(bank):
        return model
    sampler = model.config.sampler if model.config.sampler in _GREEDY else _GREEDY[1]
    config = replace(model.config, sampler=sampler, coreset_size=count, coreset_limit=count, spare_ratio=0.0)
    picked = sample(bank.vectors, config)
    chosen = np.sort(picked.indices)
    parts = {name: getattr(bank, name)[chosen] for name in ("vectors", "image", "row", "column")}
    radius = bank.covering_radius + picked.covering_radius  # at most
    smaller = MemoryBank(**parts, images=bank.images, covering_radius=radius, grids=bank.grids, expected=bank.expected)
    return replace(model, bank=smaller, searcher=build_searcher(smaller.vectors, model.config))


def recalibrated(
    model: PatchCore, smaller: PatchCore, images: Mapping[str, ImageSource], progress: Progress
) -> PatchCore:
    """The model with the smaller bank, calibrated anew: thresholds, p-values and the ranges of the image check. images:
    the training images by name. Raises ConfigError, DatasetError or ImageError where they are not all there."""
    if model.calibration is None:
        raise ConfigError("training_images: the model was fitted without calibration: there is no threshold to measure")
    again = read_again(model, lambda image: patches_of(image, model.backbone, model.config, model.roi), (), images)
    size = len(smaller.bank)
    config = replace(model.config, coreset_size=size, coreset_limit=size)  # of the banks that cross-fitting makes
    found = summarised(again.calibration, smaller.bank, smaller.searcher, config, progress)
    calibration, normal, scene = found
    return replace(smaller, calibration=calibration, normal=normal, scene=scene)


def cost(
    models: tuple[PatchCore, PatchCore],
    before: Sequence[Case],
    after: Sequence[Case],
    milliseconds: tuple[float, float],
) -> ThinningCost:
    """What it costs: the same images, with the whole bank and with the smaller one."""
    thresholds = (models[0].threshold, models[1].threshold)
    pairs = [(a.expected, b.expected) for a, b in zip(before, after, strict=True)]
    rises = [b.score / a.score - 1 for a, b in pairs if a.score > 0] or [0.0]
    others = sum(a.verdict != b.verdict for a, b in pairs)
    return ThinningCost(thresholds, len(pairs), others, float(np.median(rises)), max(rises), *milliseconds)
