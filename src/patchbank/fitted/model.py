"""A fitted model as data: all that inspecting, explaining, updating and saving need, and none of these verbs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from patchbank.backbones import Backbone
from patchbank.bank.memory_bank import MemoryBank
from patchbank.calibration.image_check import ImageCheck
from patchbank.calibration.outliers import SuspectedOutlier
from patchbank.calibration.thresholds import Calibration
from patchbank.config import Config
from patchbank.errors import ConfigError
from patchbank.fitted.self_test import SelfTestImage
from patchbank.fitted.versions import State, Version, VersionHistory, images_of
from patchbank.imaging.images import Skipped
from patchbank.imaging.roi import Roi
from patchbank.scoring.normal_distances import NormalDistances
from patchbank.search.searcher import Searcher
from patchbank.util.wording import brief


@dataclass(frozen=True, eq=False)
class FittedModel:
    """Holds what a fit has learned. It does not change.

    config: all options, with the backbone's choices filled in. bank: the memory bank. searcher: holds the bank's
    vectors. calibration: held-out normal scores, or None. history: the bank's versions, and the vectors that are not in
    it. roi: the region of interest, None = all. thumbnails: JPEG bytes by the training image's number, or none.
    skipped: training images that could not be read. normal: left-out normal patches' distances; None without
    calibration. scene: how the images look as a whole; None if that is not checked. dropped: training images that
    `drop_outliers` left out. self_test_images: training images with the scores that this version gives them; none in
    models of older patchbanks.
    """

    config: Config
    backbone: Backbone
    bank: MemoryBank
    searcher: Searcher
    calibration: Calibration | None
    history: VersionHistory
    roi: Roi | None = None
    thumbnails: Mapping[int, bytes] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    normal: NormalDistances | None = None
    scene: ImageCheck | None = None
    dropped: tuple[SuspectedOutlier, ...] = ()
    self_test_images: tuple[SelfTestImage, ...] = ()

    __repr__ = brief

    @property
    def threshold(self) -> float | None:
        """The image score above which an image is anomalous; None without calibration. `Result.threshold` is it."""
        return self.calibration.threshold if self.calibration else None

    @property
    def pixel_threshold(self) -> float | None:
        """Likewise for the anomaly map: its pixels above make the mask and the regions; None without calibration."""
        return self.calibration.pixel_threshold if self.calibration else None

    @property
    def versions(self) -> tuple[Version, ...]:
        """Every version that the bank had, oldest first; the last is the present one."""
        return self.history.versions

    @property
    def life(self) -> VersionHistory:
        """The former name of `history`."""
        return self.history

    @property
    def training_images(self) -> tuple[str, ...]:
        """The names of the present version's training images; `bank.images` also names those of earlier versions."""
        return tuple(self.bank.images[image] for image in sorted(images_of(self.versions)[-1]))

    @property
    def suspects(self) -> tuple[SuspectedOutlier, ...]:
        """Training images that look defective, the oddest first: their left-out scores stand out
        (docs/operate/audit.md)."""
        return self.calibration.suspects if self.calibration else ()

    @property
    def unpictured(self) -> tuple[str, ...]:
        """Training images that have a vector in the bank and no thumbnail, because all of them together did not fit
        their share of the memory budget: explanations name them only. Empty for `thumbnail_size = 0`."""
        if not self.config.thumbnail_size:
            return ()
        return tuple(self.bank.images[n] for n in np.unique(self.bank.image).tolist() if n not in self.thumbnails)

    def state(self, number: int) -> State:
        """Returns what version `number` consists of. Raises ConfigError for a version that there is not."""
        if type(number) is not int or not 1 <= number <= len(self.versions):
            raise ConfigError(
                f"version: expected 1 to {len(self.versions)}; got {number!r} (patchbank history lists them)"
            )
        if number == len(self.versions):
            return State(np.arange(len(self.bank), dtype=np.int32), self.calibration, self.normal, self.scene)
        return self.history.past[number - 1]
