"""An audit's facts: what is odd about training images, the oddest first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchbank.imaging.boxes import Box
from patchbank.util.wording import brief

ODDEST = 12  # images that are shown whether they are odd or not


@dataclass(frozen=True)
class Outlier:
    """Holds what is odd about an image. kind: 'defect', 'duplicate' or the name of a measure. value: the score, the
    distance to the duplicate, or the measure's value. oddness: in units from the median (0 for a duplicate); limit:
    what is usual. text: in words. other: the duplicate's name."""

    kind: str
    value: float
    oddness: float
    limit: float
    text: str
    other: str | None = None


@dataclass(frozen=True, eq=False)
class AuditedImage:
    """A training image. score: left-out score, Euclidean; None if unknown. severity: the largest oddness over its
    limit; over 1 is odd. leading: what the severity is of, 'score', 'duplicate' or a measure's name, also where it is
    not over 1; empty if nothing could be told. oddities: what is odd, the worst first. mark: the patch that is least
    like other images, in shares (x, y, width, height). picture: JPEG, of odd images and of the
    oddest, as far as there is one."""

    name: str
    score: float | None
    severity: float
    oddities: tuple[Outlier, ...] = ()
    mark: Box | None = None
    picture: bytes = field(default=b"", repr=False)
    leading: str = ""

    __repr__ = brief

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "score": self.score,
            "severity": self.severity,
            "leading": self.leading,
            "oddities": [vars(each) for each in self.oddities],
            "mark": list(self.mark) if self.mark else None,
        }


@dataclass(frozen=True, eq=False)
class AuditFacts(ABC):
    """images: all training images, the oddest first. unreadable: (name, reason) of images that cannot be used.
    notes: what could not be told, and why."""

    images: tuple[AuditedImage, ...]
    unreadable: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    __repr__ = brief

    @property
    def odd(self) -> tuple[AuditedImage, ...]:
        """The images about which anything is odd."""
        return tuple(image for image in self.images if image.oddities)

    @property
    def oddest(self) -> tuple[AuditedImage, ...]:
        """The first images of the ranking, odd or not: what to look at in any case, since a bad image may be no odder
        than the limit allows."""
        return self.images[:ODDEST]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "images": [image.to_dict() for image in self.images],
            "unreadable": [{"name": name, "reason": reason} for name, reason in self.unreadable],
            "notes": list(self.notes),
        }

    @abstractmethod
    def save(self, path: str | Path, title: str = "", commands: Sequence[tuple[str, str]] = ()) -> None:
        """Writes one self-contained HTML page. title: what was audited. commands: what may be done about it, as (what
        it does, command line to copy). Raises OutputError."""
