"""The bank's life: every version that it had, what changed in each, and the way back.

A model keeps all vectors that were ever in its bank: those that are in it now, and the others in a reserve. A version
is a list of their numbers, so rollback and diff are selections. Nothing is ever recomputed for an old version: its
calibration scores are kept with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from patchbank.bank import MemoryBank, Reserve
from patchbank.calibration import Calibration
from patchbank.errors import ConfigError
from patchbank.normal import NormalDistances
from patchbank.scene import Scene

if TYPE_CHECKING:
    from patchbank.model import PatchCore

IntArray = npt.NDArray[np.int32]

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
    unknown. max_false_alarms, confidence, threshold, pixel_threshold: None without calibration. added: the learned
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
    """What a version consists of. members: (M,) int32, its vectors' numbers: the present bank's first, then the
    reserve's. calibration, normal, scene: as in `PatchCore`."""

    members: IntArray
    calibration: Calibration | None
    normal: NormalDistances | None
    scene: Scene | None


@dataclass(frozen=True, eq=False)
class Life:
    """versions: oldest first, the last is the model as it is. past: the states of all but the last. reserve: vectors
    that are not in the bank."""

    versions: tuple[Version, ...]
    past: tuple[State, ...]
    reserve: Reserve


def born(bank: MemoryBank, reserve: Reserve | None, calibration: Calibration | None) -> Life:
    """The life of a bank that was just fitted."""
    version = Version(
        number=1,
        action="fit",
        calibrated="exact" if calibration else "none",
        images=len(bank.images),
        size=len(bank),
        covering_radius=bank.covering_radius,
        **promises(calibration),
    )
    nothing = np.empty(0, np.int64)
    return Life((version,), (), reserve or rows_of(bank).take(nothing))


def promises(calibration: Calibration | None) -> dict[str, Any]:
    """The fields of a Version that follow from its calibration."""
    return {
        "max_false_alarms": calibration.max_false_alarms if calibration else None,
        "confidence": calibration.confidence if calibration else None,
        "threshold": calibration.threshold if calibration else None,
        "pixel_threshold": calibration.pixel_threshold if calibration else None,
    }


def rows_of(bank: MemoryBank) -> Reserve:
    """The bank's vectors with their provenance."""
    return Reserve(bank.vectors, bank.image, bank.row, bank.column)


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
            now = sets[-1].difference(removed).union(added)
        if len(now) != version.images or not now:
            raise ValueError(f"versions: {version.number} has {len(now)} images; it says {version.images}")
        sets.append(now)
    return sets


def state_of(model: PatchCore, number: int) -> State:
    """What version `number` of the model consists of. Raises ConfigError for a version that there is not."""
    versions = model.life.versions
    if not 1 <= number <= len(versions):
        raise ConfigError(f"version: expected 1 to {len(versions)}; got {number} (patchbank history lists them)")
    if number == len(versions):
        return State(np.arange(len(model.bank), dtype=np.int32), model.calibration, model.normal, model.scene)
    return model.life.past[number - 1]


def changed(
    model: PatchCore, learned: Reserve, members: npt.NDArray[np.integer]
) -> tuple[Reserve, Reserve, tuple[State, ...]]:
    """The vectors of the next version's bank, its reserve, and the past, which then includes the present version.

    learned: new vectors. members: (M',) the next version's vectors, numbered through the bank, the reserve and
    `learned`, in this order.
    """
    everything = Reserve.joined([rows_of(model.bank), model.life.reserve, learned])
    others = np.setdiff1d(np.arange(len(everything)), members)
    place = np.empty(len(everything), np.int32)  # each vector's number from now on
    place[np.concatenate([members, others])] = np.arange(len(everything), dtype=np.int32)
    states = (*model.life.past, state_of(model, len(model.life.versions)))
    past = tuple(replace(state, members=place[state.members]) for state in states)
    return everything.take(members), everything.take(others), past


@dataclass(frozen=True)
class ScoreChange:
    """A calibration image's score in two versions (None where it does not count), and whether it is over the version's
    threshold."""

    image: str
    before: float | None
    after: float | None
    over_before: bool | None
    over_after: bool | None

    @property
    def changed_sides(self) -> bool:
        """Whether it is over one version's threshold and not over the other's."""
        return None not in (self.over_before, self.over_after) and self.over_before != self.over_after


@dataclass(frozen=True)
class Diff:
    """What differs between two versions of a model. images_added, images_removed: names of training images.
    vectors_added, vectors_removed: of the bank. scores: of all calibration images of either version, each with image,
    before, after, over_before, over_after (the threshold; None where it does not count)."""

    before: Version
    after: Version
    images_added: tuple[str, ...]
    images_removed: tuple[str, ...]
    vectors_added: int
    vectors_removed: int
    scores: tuple[ScoreChange, ...]

    @property
    def changed_sides(self) -> tuple[ScoreChange, ...]:
        """The calibration images that are over one version's threshold and not over the other's."""
        return tuple(change for change in self.scores if change.changed_sides)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "images_added": list(self.images_added),
            "images_removed": list(self.images_removed),
            "vectors_added": self.vectors_added,
            "vectors_removed": self.vectors_removed,
            "changed_sides": [asdict(change) for change in self.changed_sides],
            "scores": [asdict(change) for change in self.scores],
        }


def difference(model: PatchCore, before: int, after: int) -> Diff:
    """What differs between two versions, by number. Raises ConfigError for a number that there is not."""
    bank, life = model.bank, model.life
    states = [state_of(model, number) for number in (before, after)]
    sets = images_of(life.versions)
    old, new = sets[before - 1], sets[after - 1]
    first, second = (set(state.members.tolist()) for state in states)
    return Diff(
        before=life.versions[before - 1],
        after=life.versions[after - 1],
        images_added=tuple(bank.images[image] for image in sorted(new - old)),
        images_removed=tuple(bank.images[image] for image in sorted(old - new)),
        vectors_added=len(second - first),
        vectors_removed=len(first - second),
        scores=_score_changes(*(state.calibration for state in states)),
    )


def _score_changes(before: Calibration | None, after: Calibration | None) -> tuple[ScoreChange, ...]:
    first, second = (
        {name: (float(score), float(score) > c.threshold) for name, score in zip(c.images, c.scores, strict=True)}
        if c
        else {}
        for c in (before, after)
    )
    nothing = (None, None)
    pairs = [(name, first.get(name, nothing), second.get(name, nothing)) for name in {**first, **second}]
    return tuple(ScoreChange(name, a[0], b[0], a[1], b[1]) for name, a, b in pairs)
