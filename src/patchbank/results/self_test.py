"""What a self-test found: each image's score now, beside the one that it had."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SelfTestScore:
    """One image of the self-test.

    image: the training image's name. expected: its score when the model was made. score: its score now. difference: the
    largest one of the patches' distances to the bank, of the score and of the patches' length, as a share of that
    length; infinite for patches of another number.
    """

    image: str
    expected: float
    score: float
    difference: float


@dataclass(frozen=True)
class SelfTest:
    """A self-test that was passed. images: at least one. tolerance: what their differences may be at most."""

    images: tuple[SelfTestScore, ...]
    tolerance: float

    @property
    def difference(self) -> float:
        """The largest difference of all images."""
        return max(each.difference for each in self.images)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        images = [asdict(each) for each in self.images]
        return {"tolerance": self.tolerance, "difference": self.difference, "images": images}
