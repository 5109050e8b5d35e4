"""The bank's history: every version that it had, what changed in each, and the way back.

A model keeps all vectors that were ever in its bank: those that are in it now, and the others in a archived. A version
is a list of their numbers, so rollback and diff are selections. Nothing is ever recomputed for an old version: its
calibration scores are kept with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from patchbank.arrays import IntArray
from patchbank.bank.memory_bank import ArchivedVectors, MemoryBank
from patchbank.calibration.image_check import ImageCheck
from patchbank.calibration.thresholds import Calibration
from patchbank.scoring.normal_distances import NormalDistances
from patchbank.util.wording import brief

ACTIONS = ("fit", "update", "threshold", "rollback")
# What a version's calibration scores are: those of its bank; at least those (it has grown since they were measured);
# of a bank that has lost vectors since, so that they may be too low; or there are none.
CALIBRATED = ("exact", "bound", "stale", "none")


@dataclass(frozen=True)
class Added:
    """A good image that an update has learned.

    image, name: its number and name in the bank's `images`. patches: how many it has; covered: how many of them the
    bank covered already; vectors: how many joined the bank. score_before, score_after: its score by the old and the new
    bank.
    """

    image: int
    name: str
    patches: int
    covered: int
    vectors: int
    score_before: float
    score_after: float


@dataclass(frozen=True)
class Removed:
    """A training image that an update has taken out.

    image, name: its number and name in the bank's `images`. vectors: how many left the bank. uncovered: how many of
    these are farther from the new bank than the old one's covering radius: what looks like them is unknown now.
    """

    image: int
    name: str
    vectors: int
    uncovered: int


@dataclass(frozen=True)
class Version:
    """One version of the bank, and how it came about.

    number: from 1, the fit. action: 'fit', 'update', 'threshold' (another promise) or 'rollback'. time: UTC, ISO 8601;
    empty for a fit, whose file holds no clock. refilled: vectors that took the place of removed ones. restored: the
    version that a rollback went back to. calibrated: what the calibration scores are: 'exact'; 'bound', at least the
    exact ones (the bank has grown since, so false alarms are rarer than promised); 'stale', perhaps lower than the
    exact ones (the bank has lost vectors since, so nothing is promised); 'none'. images: training images. size: bank
    vectors. covering_radius: no training patch is farther from the bank; an upper bound after an update; NaN where
    unknown. max_false_alarms, confidence, threshold, pixel_threshold, review_rate, with_suspects: as in
    `Calibration`; None without one. added: the learned
    images, each with its name, patches, how many of them were covered, vectors that joined, score_before, score_after.
    removed: the forgotten ones, each with its name, vectors that left, and how many of these are uncovered now.
    """

    number: int
    action: str
    calibrated: str
    images: int
    size: int
    covering_radius: float
    max_false_alarms: float | None
    confidence: float | None
    threshold: float | None
    pixel_threshold: float | None
    time: str = ""
    author: str = ""
    note: str = ""
    added: tuple[Added, ...] = ()
    removed: tuple[Removed, ...] = ()
    refilled: int = 0
    restored: int | None = None
    review_rate: float | None = None
    with_suspects: bool | None = None

    __repr__ = brief

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; an unknown covering radius is None."""
        values = asdict(self)
        radius = None if math.isnan(self.covering_radius) else self.covering_radius
        return values | {
            "covering_radius": radius,
            "added": list(values["added"]),
            "removed": list(values["removed"]),
        }


@dataclass(frozen=True, eq=False)
class State:
    """Holds what a version consists of. members: (M,) int32, its vectors' numbers: the present bank's first, then the
    reserve's. calibration, normal, scene: as in `PatchCore`."""

    members: IntArray
    calibration: Calibration | None
    normal: NormalDistances | None
    scene: ImageCheck | None

    __repr__ = brief


@dataclass(frozen=True, eq=False)
class VersionHistory:
    """versions: oldest first, the last is the model as it is. past: the states of all but the last. archived: vectors
    that are not in the bank."""

    versions: tuple[Version, ...]
    past: tuple[State, ...]
    archived: ArchivedVectors

    __repr__ = brief


def initial_history(
    bank: MemoryBank, archived: ArchivedVectors | None, calibration: Calibration | None
) -> VersionHistory:
    """The life of a bank that was just fitted."""
    version = Version(
        number=1,
        action="fit",
        calibrated="exact" if calibration else "none",
        images=len(bank.images),
        size=len(bank),
        covering_radius=bank.covering_radius,
        **guarantee_fields(calibration),
    )
    nothing = np.empty(0, np.int64)
    return VersionHistory((version,), (), archived or rows_of(bank).take(nothing))


def guarantee_fields(calibration: Calibration | None) -> dict[str, Any]:
    """The fields of a Version that follow from its calibration."""
    return {
        "max_false_alarms": calibration.max_false_alarms if calibration else None,
        "confidence": calibration.confidence if calibration else None,
        "threshold": calibration.threshold if calibration else None,
        "pixel_threshold": calibration.pixel_threshold if calibration else None,
        "review_rate": calibration.review_rate if calibration else None,
        "with_suspects": calibration.with_suspects if calibration else None,
    }


def rows_of(bank: MemoryBank) -> ArchivedVectors:
    """The bank's vectors with their provenance."""
    return ArchivedVectors(bank.vectors, bank.image, bank.row, bank.column)


def images_of(versions: Sequence[Version]) -> list[frozenset[int]]:
    """Each version's training images, as numbers in the bank's `images`.

    Raises ValueError for a history that cannot be: an image added twice, or removed without having been there.
    """
    sets: list[frozenset[int]] = []
    known = 0
    for place, version in enumerate(versions):
        if version.number != place + 1 or (version.action == "fit") != (place == 0):
            raise ValueError(f"versions: expected a fit and then changes, numbered from 1; got {version}")
        added, removed = ([each.image for each in group] for group in (version.added, version.removed))
        if place == 0:
            known, now = version.images, frozenset(range(version.images))
        elif version.action == "rollback":
            if version.restored is None or not 1 <= version.restored <= place:
                raise ValueError(f"versions: {version.number} goes back to {version.restored}")
            now = sets[version.restored - 1]
        else:
            new = list(range(known, known + len(added)))
            if added != new or not set(removed) <= sets[-1] or len(set(removed)) < len(removed):
                raise ValueError(f"versions: {version.number} adds or removes images that it cannot")
            known += len(added)
            now = sets[-1].difference(removed).union(added) if added or removed else sets[-1]
        if len(now) != version.images or not now:
            raise ValueError(f"versions: {version.number} has {len(now)} images; it says {version.images}")
        sets.append(now)
    return sets
