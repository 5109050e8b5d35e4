"""A model that needs no network, and data sets on disk small enough to check by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from patchbank.errors import ImageError

SIZE = (12, 10)  # height, width


@dataclass(frozen=True)
class FakeResult:
    score: float
    threshold: float | None
    anomaly_map: npt.NDArray[np.float32]

    @property
    def is_anomalous(self) -> bool | None:
        return None if self.threshold is None else self.score > self.threshold

    @property
    def verdict(self) -> str:
        return {True: "ng", False: "ok", None: "review"}[self.is_anomalous]


@dataclass(frozen=True)
class Failure:
    reason: str


@dataclass
class FakeModel:
    """Scores by the path's last two parts; the map holds the score in rows 2..4, columns 3..6 and 0.5 elsewhere."""

    scores: dict[str, float]
    threshold: float | None = 1.0
    bank: tuple[int, ...] = (1, 2, 3)
    skipped: tuple[Failure, ...] = ()
    seen: list[Path] = field(default_factory=list)

    def predict(self, image: Path, /) -> FakeResult:
        self.seen.append(image)
        name = "/".join(image.parts[-2:])
        if name not in self.scores:
            raise ImageError(f"{image}: is damaged")
        anomaly_map = np.full(SIZE, 0.5, np.float32)
        anomaly_map[2:5, 3:7] = self.scores[name]
        return FakeResult(self.scores[name], self.threshold, anomaly_map)


def write_mask(path: Path, size: tuple[int, int] = SIZE, value: int = 255) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    mask[2:5, 3:7] = value
    assert cv2.imwrite(str(path), mask)


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
