"""What differs between two versions of a model's bank."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from patchbank.calibration.thresholds import Calibration
from patchbank.fitted.model import FittedModel
from patchbank.fitted.versions import Version, images_of
from patchbank.util.wording import brief


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
        """Says whether it is over one version's threshold and not over the other's."""
        return None not in (self.over_before, self.over_after) and self.over_before != self.over_after


@dataclass(frozen=True)
class Diff:
    """Holds what differs between two versions of a model. images_added, images_removed: names of training images.
    vectors_added, vectors_removed: of the bank. scores: of all calibration images of either version, each with image,
    before, after, over_before, over_after (the threshold; None where it does not count)."""

    before: Version
    after: Version
    images_added: tuple[str, ...]
    images_removed: tuple[str, ...]
    vectors_added: int
    vectors_removed: int
    scores: tuple[ScoreChange, ...]

    __repr__ = brief

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


def difference(model: FittedModel, before: int, after: int) -> Diff:
    """Returns what differs between two versions, by number. Raises ConfigError for a number that there is not."""
    bank, history = model.bank, model.history
    states = [model.state(number) for number in (before, after)]
    sets = images_of(history.versions)
    old, new = sets[before - 1], sets[after - 1]
    first, second = (set(state.members.tolist()) for state in states)
    return Diff(
        before=history.versions[before - 1],
        after=history.versions[after - 1],
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
