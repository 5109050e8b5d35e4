"""What `predict` returns."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from patchbank.arrays import Array, BoolArray, ByteArray, FloatArray, IndexArray
from patchbank.calibration.image_check import Measurement
from patchbank.config import ImageFormat
from patchbank.errors import ConfigError, ImageError
from patchbank.imaging.images import COLOUR, fingerprint, read_image, shown
from patchbank.imaging.overlay import check_colours, overlay
from patchbank.imaging.roi import Roi
from patchbank.imaging.sources import ImageSource, is_path
from patchbank.results.explanation import ExplanationFacts
from patchbank.results.heat import map_of
from patchbank.results.verdict import Decision, Verdict, decide
from patchbank.scoring import regions as region_maps
from patchbank.scoring.regions import Region
from patchbank.util.wording import brief, finite


@dataclass(frozen=True)
class MadeBy:
    """Says which model made a result. sha256: the digest of the model's file, in hexadecimal. version: the number of
    the bank's version, from 1. software: patchbank's version."""

    sha256: str
    version: int
    software: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"sha256": self.sha256, "version": self.version, "patchbank": self.software}


class Maker(Protocol):
    """An object that makes results and answers for them: a model."""

    @property
    def made_by(self) -> MadeBy:
        """Returns what its results say of it."""
        ...

    def explain(self, result: Any, *, regions: int, neighbours: int, colours: str) -> ExplanationFacts:
        """Says why one of its results is as it is."""
        ...

    def _view_of(self, result: Any) -> str:
        """Returns what a notebook shows of one of its results, as HTML."""
        ...


@dataclass(frozen=True, eq=False)
class Result:
    """One inspected image. Scores are Euclidean distances, scaled as `distance_scaling` says; higher = more anomalous.

    path: the image's path, the name that it was given (`Named`), or 'image N' for one that came without. score: the
    image's score. threshold: an image whose score is larger is anomalous; None if the model was fitted without
    calibration. pixel_threshold: likewise for the anomaly map. p_value: the share of normal images that look at least
    this odd (0..1). review_rate: the largest p-value that a person should look at. patch_scores: (h, w) float32, row-
    major as on the image. distances: (h, w) float32, the same before they were scaled. nearest: (h, w) int64, each
    patch's nearest vector in the bank. image_size: (H, W) of the original image. timings: seconds, by stage. counted:
    (h, w) bool, the patches in the region of interest `roi`; the others have score 0. None = all. scene: measurements
    of the whole image, each with its normal range; None if the model does not check them. time: when it was inspected,
    UTC, ISO 8601. model: what inspected it, for `explain`; a copy that is pickled or sent to another process is without
    it (see `detached`). maker: what such a copy knows, for `made_by`. source: the image as it was given, for
    `read_again`, or None; fingerprint: `images.fingerprint` of what was inspected, None = not known.

    `anomaly_map`, `mask` and `regions` are computed when they are first asked for.
    """

    path: str
    score: float
    threshold: float | None
    pixel_threshold: float | None
    p_value: float | None
    review_rate: float
    patch_scores: FloatArray
    distances: FloatArray
    nearest: IndexArray
    image_size: tuple[int, int]
    input_size: tuple[int, int]
    smoothing_sigma: float
    timings: dict[str, float]
    source: ImageSource | None = field(repr=False)
    image_format: ImageFormat = COLOUR
    counted: BoolArray | None = field(default=None, repr=False)
    roi: Roi | None = field(default=None, repr=False)
    scene: tuple[Measurement, ...] | None = field(default=None, repr=False)
    maker: MadeBy | None = None
    time: str = ""
    fingerprint: bytes | None = field(default=None, repr=False)
    model: Maker | None = field(default=None, repr=False)

    __repr__ = brief

    def _repr_html_(self) -> str | None:
        """Returns what a notebook shows; its `repr`, for a result that has lost its model."""
        return self.model._view_of(self) if self.model else None

    @property
    def made_by(self) -> MadeBy | None:
        """Returns which model inspected the image; None if that is not known."""
        return self.maker or (self.model.made_by if self.model else None)

    @property
    def is_anomalous(self) -> bool | None:
        """Says whether the score is over the threshold, or is none that could be proven not to be (NaN); None without a
        threshold."""
        return None if self.threshold is None else not self.score <= self.threshold

    @cached_property
    def decision(self) -> Decision:
        """The verdict and its reason (`decide`)."""
        return decide(
            self.score, self.threshold, self.p_value, review_rate=self.review_rate, unlike=self.distribution_reasons
        )

    @property
    def verdict(self) -> Verdict:
        """Returns what to do with the part: OK, REVIEW or NG. NG where `is_anomalous`; OK only for what was proven
        ordinary."""
        return self.decision.verdict

    @property
    def reason(self) -> str:
        """Says why the verdict is as it is, in words."""
        return self.decision.reason

    @property
    def in_distribution(self) -> bool | None:
        """Says whether the image as a whole looks like the training images; if not, its score means little. None if
        that is not checked."""
        return None if self.scene is None else not self.distribution_reasons

    @property
    def distribution_reasons(self) -> tuple[str, ...]:
        """Says why the image is out of distribution, in words: one reason for each measure outside its range."""
        return tuple(measured.reason for measured in self.scene or () if measured.reason)

    @property
    def in_scene(self) -> bool | None:
        """The former name of `in_distribution`."""
        return self.in_distribution

    @property
    def scene_reasons(self) -> tuple[str, ...]:
        """The former name of `distribution_reasons`."""
        return self.distribution_reasons

    @cached_property
    def anomaly_map(self) -> FloatArray:
        """(H, W) float32 at the original image's size: the plain distances, interpolated and smoothed."""
        start = time.perf_counter()
        sizes = self.image_size, self.input_size
        result = map_of(self.distances, *sizes, self.smoothing_sigma, self.counted, self.roi)
        self.timings["map"] = time.perf_counter() - start
        return result

    @cached_property
    def mask(self) -> BoolArray:
        """(H, W) bool: where the anomaly map is over the pixel threshold. All False without a threshold."""
        if self._surely_clean:
            return np.zeros(self.image_size, np.bool_)
        assert self.pixel_threshold is not None
        return region_maps.mask_of(self.anomaly_map, self.pixel_threshold)

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The mask's connected regions, highest peak first. Independent of the verdict, which is the image score's."""
        return () if self._surely_clean else region_maps.regions_of(self.anomaly_map, self.mask)

    @property
    def _surely_clean(self) -> bool:
        # The map never exceeds the largest distance, so the common good image needs no map at all.
        return self.pixel_threshold is None or float(self.distances.max()) <= self.pixel_threshold

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: path, score, threshold, is_anomalous, p_value, regions, in_scene, scene, model, time,
        verdict, reason."""
        return {
            "path": self.path,
            "score": finite(self.score),
            "threshold": self.threshold,
            "is_anomalous": self.is_anomalous,
            "p_value": self.p_value,
            "regions": [region.to_dict() for region in self.regions],
            "in_scene": self.in_distribution,
            "scene": None if self.scene is None else {each.name: each.to_dict() for each in self.scene},
            "model": self.made_by.to_dict() if self.made_by else None,
            "time": self.time,
            "verdict": str(self.verdict),
            "reason": self.reason,
        }

    def overlay(self, colours: str = "orange") -> ByteArray:
        """(H, W, 3) uint8 RGB: the image with its heat map and outlined regions. Reads the image again if it came from
        a file. colours: the heat map's scale, 'orange' or 'blue'.

        Raises ImageError if the image is gone, or no longer the one that was inspected; ConfigError for another scale.
        """
        check_colours(colours)
        image = shown(self.read_again())
        return overlay(image, self.anomaly_map, self.pixel_threshold, self.regions, colours=colours)

    def explain(self, *, regions: int = 5, neighbours: int = 3, colours: str = "orange") -> ExplanationFacts:
        """Why: what the regions with the highest peaks are compared with (`PatchCore.explain`). Reads the image again
        if it came from a file.

        Raises ConfigError if the result has lost its model (see `model`), ImageError as `overlay` does.
        """
        if self.model is None:
            raise ConfigError(
                f"{self.path}: expected a result as predict returned it; got a copy without its model: "
                "use model.explain(result)"
            )
        return self.model.explain(self, regions=regions, neighbours=neighbours, colours=colours)

    def read_again(self) -> Array:
        """(H, W, 3 G) RGB in 0..255: the image that was inspected. ImageError if its file is gone, or if the file or
        the array holds another picture now."""
        if self.source is None:
            raise ImageError(f"{self.path}: the result was detached from its image; expected a result that holds it")
        image = read_image(self.source, self.image_format)
        if image.shape[:2] != self.image_size:
            raise ImageError(
                f"{self.path}: was {self.image_size} (height, width) when inspected, is {image.shape[:2]} now; "
                "inspect it again"
            )
        if self.fingerprint is not None and fingerprint(image) != self.fingerprint:
            kind = "a file" if is_path(self.source) else "an array"
            raise ImageError(
                f"{self.path}: is another picture now than the one that was inspected; inspect it again, or give each "
                f"picture {kind} of its own"
            )
        return image

    def detached(self) -> Result:
        """The result without its model, and without the image if that came as an array, to keep or to send: some
        kilobytes. It answers the same questions, but those that need the image or the model are an error: `explain`,
        and `overlay` of an array."""
        kept = {name: value for name, value in vars(self).items() if name in self.__dataclass_fields__}
        source = self.source if is_path(self.source) else None
        result = Result(
            **{**kept, "source": source, "timings": dict(self.timings), "maker": self.made_by, "model": None}
        )
        if "regions" in vars(self):  # they cost a map, and are small
            vars(result)["regions"] = self.regions
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "maker": self.made_by,
            "model": None,
        }  # a network cannot be pickled, and a bank is large
