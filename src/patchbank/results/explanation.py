"""An explanation's facts: for each region its most anomalous patch, the normal patches that come closest to it, and how
far normal patches are from the bank at that place and overall.

Pictures with marks, pages and sheets are made of these facts by the renderers above.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchbank.arrays import ByteArray, FloatArray
from patchbank.imaging.boxes import Box
from patchbank.results.verdict import Verdict
from patchbank.scoring.normal_distances import Distribution
from patchbank.scoring.regions import Region
from patchbank.util.wording import brief


@dataclass(frozen=True, eq=False)
class NormalPatch:
    """A patch of a training image.

    image: the training image's name. row, column: the patch's place in that image's `grid` (rows, columns). distance:
    Euclidean, to the explained patch, scaled as that one's score is. thumbnail: the training image as JPEG bytes; None
    where the model holds none. mark: the patch's neighbourhood in that image; close: its surroundings.
    """

    image: str
    row: int
    column: int
    grid: tuple[int, int]
    distance: float
    thumbnail: bytes | None
    mark: Box
    close: Box

    __repr__ = brief

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `box` is [x, y, width, height] in shares (0..1) of the training image."""
        return {
            "image": self.image,
            "row": self.row,
            "column": self.column,
            "grid": list(self.grid),
            "box": [round(value, 6) for value in self.mark],
            "distance": self.distance,
        }


@dataclass(frozen=True, eq=False)
class Finding:
    """One region's most anomalous patch, and what it is compared with.

    region: None where the image has no region and this is its most anomalous patch. row, column: the patch's place in
    the `grid`. score: the patch's score, a Euclidean distance. here, overall: left-out normal patches' scores around
    that place and anywhere; None where the model holds none. neighbours: the closest normal patches, nearest first,
    from distinct training images where possible. mark: the patch's neighbourhood; close: its surroundings; around:
    those of the whole region. close_picture, around_picture: (h, w, 3) uint8 RGB, as the image is there.
    """

    region: Region | None
    row: int
    column: int
    grid: tuple[int, int]
    score: float
    here: Distribution | None
    overall: Distribution | None
    neighbours: tuple[NormalPatch, ...]
    mark: Box
    close: Box
    around: Box
    close_picture: ByteArray
    around_picture: ByteArray

    __repr__ = brief

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "kind": "region" if self.region else "most anomalous patch",
            "region": self.region.to_dict() if self.region else None,
            "patch": {
                "row": self.row,
                "column": self.column,
                "grid": list(self.grid),
                "box": [round(value, 6) for value in self.mark],
                "score": self.score,
            },
            "normal_here": _compared(self.here, self.score),
            "normal_overall": _compared(self.overall, self.score),
            "nearest_normal": [patch.to_dict() for patch in self.neighbours],
        }


@dataclass(frozen=True, eq=False)
class ExplanationFacts(ABC):
    """Says why an image was judged as it was. Made by `Result.explain` or `PatchCore.explain`.

    path, score, threshold, pixel_threshold, is_anomalous, image_size: as in `Result`. regions: all of the image's.
    findings: the regions explained, or the most anomalous patch if there are none. good_scores: (n,) image scores of
    left-out good images; None without calibration. notes: what cannot be told, and why. picture, overlay: the image
    without and with its heat map, (h, w, 3) uint8 RGB, shrunk if it is large. verdict: as in `Result`. unlike: why the
    image is out of distribution, in words. colours: the scale of the heat map.
    """

    path: str
    score: float
    threshold: float | None
    pixel_threshold: float | None
    is_anomalous: bool | None
    image_size: tuple[int, int]
    regions: tuple[Region, ...]
    findings: tuple[Finding, ...]
    good_scores: FloatArray | None
    notes: tuple[str, ...]
    picture: ByteArray
    overlay: ByteArray
    verdict: Verdict | None = None
    unlike: tuple[str, ...] = ()
    colours: str = "orange"

    __repr__ = brief

    @property
    def good_at_least(self) -> int | None:
        """Returns how many of the left-out good images score at least as high."""
        return None if self.good_scores is None else int((self.good_scores >= np.float32(self.score)).sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: everything but the pictures."""
        good = None
        if self.good_scores is not None:
            good = {"count": len(self.good_scores), "score_at_least": self.good_at_least}
        return {
            "path": self.path,
            "score": self.score,
            "threshold": self.threshold,
            "is_anomalous": self.is_anomalous,
            "image_size": list(self.image_size),
            "good_images": good,
            "regions": len(self.regions),
            "findings": [finding.to_dict() for finding in self.findings],
            "notes": list(self.notes),
        }

    @abstractmethod
    def save(self, path: str | Path, *, model: str | None = None) -> None:
        """Writes the explanation as one file: a page if `path` ends in .html, a picture if it ends in .png. model: the
        model's name, for the heading. Raises ConfigError for another ending, OutputError."""


def _compared(normal: Distribution | None, score: float) -> dict[str, Any] | None:
    if normal is None:
        return None
    return {
        "count": normal.count,
        "median": normal.median,
        "q99": normal.quantile(0.99),
        "largest": normal.largest,
        "share_at_most": normal.share_at_most(score),
    }
