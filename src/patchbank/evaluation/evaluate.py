"""Evaluation: how good a model is on a labelled data set. `docs/reference/metrics.md` defines each figure."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from patchbank.arrays import BoolArray, FloatArray
from patchbank.errors import DatasetError, ImageError, PatchbankError
from patchbank.evaluation.datasets import Dataset, Sample
from patchbank.evaluation.metrics import PixelMetrics, PixelResult, auroc, average_precision, best_f1
from patchbank.imaging import images
from patchbank.imaging.images import reason_of
from patchbank.results.tables import frame_of
from patchbank.util.log import logger
from patchbank.util.parallel import in_order
from patchbank.util.progress import Progress, silent
from patchbank.util.wording import brief, counted, printable

if TYPE_CHECKING:
    from pandas import DataFrame

KEYS = (
    "image_auroc",
    "image_ap",
    "image_f1",
    "pixel_auroc",
    "pixel_ap",
    "aupro",
    "n_test",
    "ms_per_image",
    "threshold",
    "false_alarm_rate",
    "miss_rate",
    "n_unreadable",
)
VERDICTS = ("ok", "review", "ng")
TIMED = 20  # images that are inspected one by one, for the time of one

T = TypeVar("T")
R = TypeVar("R")


class Inspected(Protocol):
    """The part of a result that evaluation needs. `patchbank.Result` has it."""

    @property
    def score(self) -> float: ...
    @property
    def threshold(self) -> float | None: ...
    @property
    def is_anomalous(self) -> bool | None: ...
    @property
    def anomaly_map(self) -> FloatArray: ...
    @property
    def verdict(self) -> str: ...


class Inspector(Protocol):
    """The part of a model that evaluation needs. `PatchCore` has it."""

    def predict(self, image: Path, /) -> Inspected: ...


@dataclass(frozen=True)
class Row:
    """One test image: the truth, its score (a distance; higher = more anomalous), the verdict (None: no threshold)."""

    path: Path
    kind: str
    defective: bool
    score: float
    is_anomalous: bool | None
    verdict: str


@dataclass(frozen=True)
class Skipped:
    """A test image that could not be read, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Kind:
    """One kind of defect against all good images: number of images, image AUROC, and the share that was flagged."""

    n: int
    image_auroc: float | None
    recall: float | None


@dataclass(frozen=True)
class Evaluation:
    """The figures of one model on one data set; fractions, None where they cannot be measured.

    image_f1: the best over all thresholds. pixel_*, aupro: None without masks. ms_per_image: median wall time from
    decoding to the anomaly map, of the first TIMED images, which are inspected one by one. false_alarm_rate, miss_rate:
    of good and of defective images, at the model's threshold. n_unreadable: test images that no figure includes. pixel:
    the pixel metrics with their error bounds. rows: one for each image that could be read.
    """

    image_auroc: float | None
    image_ap: float | None
    image_f1: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    aupro: float | None
    n_test: int
    ms_per_image: float
    threshold: float | None
    false_alarm_rate: float | None
    miss_rate: float | None
    n_unreadable: int
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]
    kinds: dict[str, Kind]
    pixel: PixelResult | None

    __repr__ = brief

    def to_dict(self) -> dict[str, Any]:
        """Gives plain JSON values under the keys of `patchbank evaluate --json`, KEYS and `verdicts`."""
        return {**{name: getattr(self, name) for name in KEYS}, "verdicts": self.verdicts}

    @property
    def verdicts(self) -> dict[str, dict[str, Any]]:
        """Returns how many images got which verdict: {"good": {"ok": n, "review": n, "ng": n}, "defective": {...},
        "kinds": {KIND: {...}}}."""
        bad = [row for row in self.rows if row.defective]
        return {
            "good": _counts(row for row in self.rows if not row.defective),
            "defective": _counts(bad),
            "kinds": {kind: _counts(row for row in bad if row.kind == kind) for kind in self.kinds},
        }

    def to_frame(self) -> DataFrame:
        """The `rows` as a pandas DataFrame: one row for each test image that could be read; `skipped` has the others.
        Raises MissingExtraError without pandas."""
        names = [each.name for each in fields(Row)]
        rows = [{name: getattr(row, name) for name in names} | {"path": str(row.path)} for row in self.rows]
        return frame_of(rows, names)


def evaluate(
    model: Inspector,
    dataset: Dataset,
    progress: Progress = silent,
    *,
    each: Callable[[Sample, Any], None] | None = None,
) -> Evaluation:
    """Inspects the test images and compares with their labels and masks: a PatchCore's two at a time, in order, but
    for the first TIMED.

    An image that cannot be read is left out and listed in `skipped`. `each` is called with every sample and its result,
    as they come. Raises DatasetError if there is no test image that can be read, or a mask does not fit its image.
    """
    if not dataset.test:
        raise DatasetError(
            f"{dataset.root}: expected test images to evaluate on, got only training images; "
            "give a folder with test/KIND, or a CSV file whose column split says test"
        )
    rows, skipped, black, seconds, threshold = [], [], [], [], None
    pixels = PixelMetrics() if dataset.has_masks else None
    for number, (sample, looked) in enumerate(_looks(model, dataset.test)):
        progress("evaluate", number, len(dataset.test))
        if isinstance(looked, Skipped):
            skipped.append(looked)
            continue
        result, anomaly_map, took = looked
        if number < TIMED:
            seconds.append(took)
        if pixels is not None:
            mask = _mask_of(sample, (anomaly_map.shape[0], anomaly_map.shape[1]))
            pixels.update(anomaly_map, mask)
            if sample.mask and not mask.any():
                black.append(sample.mask)
        rows.append(
            Row(
                sample.path,
                sample.kind,
                sample.defective,
                float(result.score),
                result.is_anomalous,
                str(result.verdict),
            )
        )
        threshold = result.threshold
        if each is not None:
            each(sample, result)
    progress("evaluate", len(dataset.test), len(dataset.test))
    if black:
        masks = counted(len(black), "mask of a defective image is", "masks of defective images are")
        names = printable(", ".join(map(str, black[:3]))) + (" ..." if len(black) > 3 else "")
        logger.warning(f"{masks} all black, so none of their pixels counts as anomalous: {names}")
    if not rows:
        raise DatasetError(f"{dataset.root}: none of {len(skipped)} test images can be read: {skipped[0].reason}")
    return _summary(rows, skipped, seconds, threshold, None if pixels is None else pixels.result())


def _looks(
    model: Inspector, samples: Sequence[Sample]
) -> Iterator[tuple[Sample, tuple[Inspected, FloatArray, float] | Skipped]]:
    """Each sample with its result, its map (H, W) and the seconds that both took; or why it cannot be read. The first
    TIMED have the model for themselves."""

    def look(sample: Sample) -> tuple[Sample, tuple[Inspected, FloatArray, float] | Skipped]:
        try:
            start = time.perf_counter()
            result = model.predict(sample.path)
            anomaly_map = result.anomaly_map  # part of the time, since a result may compute it late
            return sample, (result, anomaly_map, time.perf_counter() - start)
        except ImageError as error:
            return sample, Skipped(sample.path, str(error))
        except (PatchbankError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  (one odd image must not end an evaluation of all)
            return sample, Skipped(sample.path, reason_of(error, str(sample.path)))

    yield from map(look, samples[:TIMED])
    yield from at_once(model, look, islice(samples, TIMED, None))


def at_once(model: object, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """work(item) for each of the items, in order: two at a time for a PatchCore, whose `predict` several threads may
    call; one by one for any other model, of which that is not known."""
    from patchbank.model import PatchCore

    return in_order(work, items) if isinstance(model, PatchCore) else map(work, items)


def read_mask(path: Path) -> BoolArray:
    """A mask file -> (H, W) bool: True where it marks a defect (`images.read_mask`); all False where it is black.

    Raises DatasetError for a file that cannot be read, or that marks everything: a test image without its mask must not
    pass for a good one.
    """
    try:
        return images.read_mask(path, ground_truth=True)
    except ImageError as error:
        raise DatasetError(f"expected a mask that can be read, but {error}; replace it") from error


def _mask_of(sample: Sample, size: tuple[int, int]) -> BoolArray:
    """The sample's mask; all False for a good image."""
    if sample.mask is None:
        return np.zeros(size, np.bool_)
    mask = read_mask(sample.mask)
    if mask.shape != size:
        raise DatasetError(
            f"{sample.mask}: expected a mask of {size[1]}x{size[0]} pixels, as its image {sample.path} has; "
            f"got {mask.shape[1]}x{mask.shape[0]}; resize the mask without interpolation, or use the original image"
        )
    return mask


def _summary(
    rows: Sequence[Row],
    skipped: Sequence[Skipped],
    seconds: Sequence[float],
    threshold: float | None,
    pixel: PixelResult | None,
) -> Evaluation:
    scores, labels = [row.score for row in rows], [row.defective for row in rows]
    best = best_f1(scores, labels)
    good, bad = [row for row in rows if not row.defective], [row for row in rows if row.defective]
    caught = _flagged(bad)
    return Evaluation(
        image_auroc=auroc(scores, labels),
        image_ap=average_precision(scores, labels),
        image_f1=None if best is None else best[0],
        pixel_auroc=None if pixel is None else pixel.auroc,
        pixel_ap=None if pixel is None else pixel.average_precision,
        aupro=None if pixel is None else pixel.aupro,
        n_test=len(rows),
        ms_per_image=1000 * statistics.median(seconds),
        threshold=None if threshold is None else float(threshold),
        false_alarm_rate=_flagged(good),
        miss_rate=None if caught is None else 1 - caught,
        n_unreadable=len(skipped),
        rows=tuple(rows),
        skipped=tuple(skipped),
        kinds={kind: _kind(kind, good, bad) for kind in dict.fromkeys(row.kind for row in bad)},
        pixel=pixel,
    )


def _kind(kind: str, good: Sequence[Row], bad: Sequence[Row]) -> Kind:
    these = [row for row in bad if row.kind == kind]
    both = [*good, *these]
    return Kind(len(these), auroc([row.score for row in both], [row.defective for row in both]), _flagged(these))


def _counts(rows: Iterable[Row]) -> dict[str, int]:
    """Returns how many images got which verdict. A verdict that is none of the three would be a KeyError."""
    counts = dict.fromkeys(VERDICTS, 0)
    for row in rows:
        counts[row.verdict] += 1
    return counts


def _flagged(rows: Sequence[Row]) -> float | None:
    """The share that the model calls anomalous; None without images or without a threshold."""
    verdicts = [row.is_anomalous for row in rows]
    if not verdicts or None in verdicts:
        return None
    return sum(map(bool, verdicts)) / len(verdicts)
