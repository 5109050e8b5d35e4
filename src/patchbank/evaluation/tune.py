"""Tuning: measures cost and quality of a few settings on this machine, for these parts.

Without labelled defects, quality is how well planted ones are found (planting.py): good for comparing settings, no
forecast. Every candidate meets the same images: some good ones are learned, others are held out, and inspected with and
without a defect.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from patchbank.arrays import ByteArray, DoubleArray, FloatArray
from patchbank.config import PRESETS, Config, ImageFormat, Runtime
from patchbank.errors import DatasetError, ImageError, WeightsNotFoundError
from patchbank.evaluation.datasets import Dataset
from patchbank.evaluation.evaluate import at_once
from patchbank.evaluation.metrics import auroc
from patchbank.evaluation.planting import KINDS, plant_each
from patchbank.imaging.images import read_image, reordered
from patchbank.imaging.roi import Roi
from patchbank.imaging.sources import ImageSource
from patchbank.util.log import quiet
from patchbank.util.parallel import in_order
from patchbank.util.progress import Progress, silent

MOST_LEARNED = 200  # good images that a candidate learns from
MOST_HELD = 60  # good images that are held out
LEAST_GOOD = 10
TIMED = 12  # images whose inspection is timed
NOISE = 2.0  # standard errors of a difference that may be by chance (95 %)
TOO_SLOW = 2.0  # times the budget: larger candidates are not tried any more

# What is tried beside the presets, smallest first.
_SIZES = (192, 320, 448, 640)


class Inspected(Protocol):
    """The part of a result that tuning needs. `patchbank.Result` has it."""

    @property
    def score(self) -> float: ...
    @property
    def anomaly_map(self) -> FloatArray: ...


class Inspector(Protocol):
    """The part of a model that tuning needs. `PatchCore` has it."""

    def predict(self, image: Any, /) -> Inspected: ...


Fit = Callable[[Sequence[Path], Config, Runtime], Inspector]


@dataclass(frozen=True)
class Trial:
    """One candidate. ms: median wall time of an image, file to anomaly map. image_auroc: 0..1, over held-out good and
    defective images; standard_error: its own. scores: (n,) of all these images, the good ones first, which are the same
    for all candidates; empty where they are unknown."""

    name: str
    config: Config
    ms: float
    image_auroc: float
    standard_error: float
    within_budget: bool
    scores: tuple[float, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "ms": self.ms,
            "image_auroc": self.image_auroc,
            "standard_error": self.standard_error,
            "within_budget": self.within_budget,
            "config": self.config.to_dict(),
        }


@dataclass(frozen=True)
class TuneReport:
    """All trials, cheapest first, and the chosen one. defects: 'labelled' or 'planted'. missing: candidates whose
    network's weights are not on this machine, by name, and how to get them. tied: the names of the trials within the
    budget that these images cannot tell from the best one, cheapest first; default: the name of the one whose options
    are those that were given, empty if it was not tried."""

    trials: tuple[Trial, ...]
    chosen: Trial
    budget_ms: float
    defects: str
    n_good: int
    n_defective: int
    missing: Mapping[str, str] = field(default_factory=dict)
    tied: tuple[str, ...] = ()
    default: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "chosen": self.chosen.name,
            "budget_ms": self.budget_ms,
            "defects": self.defects,
            "n_good": self.n_good,
            "n_defective": self.n_defective,
            "missing": dict(self.missing),
            "tied": list(self.tied),
            "trials": [trial.to_dict() for trial in self.trials],
        }


def candidates(base: Config) -> dict[str, Config]:
    """The presets and a few sizes between them, over `base`, by name, smallest image first; the presets also in 8
    bits, if `base` leaves the precision open and names a network of the zoo."""
    found = {name: replace(base, **changes) for name, changes in PRESETS.items()}
    if base.precision == "auto" and not base.backbone.lower().endswith(".onnx"):
        found |= {f"{name}, int8": replace(config, precision="int8") for name, config in list(found.items())}
    taken = {config.image_size for config in found.values()}
    found |= {f"{size} px": replace(base, image_size=(size,)) for size in _SIZES if (size,) not in taken}
    return dict(sorted(found.items(), key=lambda item: math.prod(item[1].image_size) ** (2 / len(item[1].image_size))))


def tune(
    dataset: Dataset,
    base: Config,
    runtime: Runtime,
    budget_ms: float,
    progress: Progress = silent,
    *,
    among: Mapping[str, Config] | None = None,
    fit: Fit | None = None,
) -> TuneReport:
    """Measures the candidates and chooses among those within the budget that these images cannot tell from the best
    one (`tied`): the options that were given, if they are among them, for noise is no reason to leave them; else the
    cheapest. If none is within the budget, the fastest. Raises DatasetError for fewer than LEAST_GOOD good images,
    WeightsNotFoundError if no candidate's network is on this machine.
    """
    trained, good, defective, kind = _images(dataset, base)
    trials: list[Trial] = []
    missing: dict[str, str] = {}
    tried = among or candidates(base)
    for number, (name, config) in enumerate(tried.items()):
        progress("tune", number, len(tried))
        if trials and trials[-1].ms > TOO_SLOW * budget_ms:
            break
        try:
            model = (fit or _fit_patchcore)(trained, replace(config, calibration="none", thumbnail_size=0), runtime)
        except WeightsNotFoundError as error:
            missing[name] = str(error)
            if len(missing) == len(tried):
                raise
            continue
        trials.append(_trial(name, config, model, good, defective, budget_ms))
    progress("tune", len(tried), len(tried))
    trials.sort(key=lambda trial: trial.ms)
    default = next((name for name, config in tried.items() if config == base), "")
    alike = tuple(trial.name for trial in tied(trials, len(good)))
    chosen = choose(trials, len(good), default)
    return TuneReport(tuple(trials), chosen, budget_ms, kind, len(good), len(defective), missing, alike, default)


def tied(trials: Sequence[Trial], n_good: int) -> list[Trial]:
    """The trials within the budget whose AUROC is not surely below the best one's: by less than NOISE standard errors
    of the difference, on the same images; where the scores are unknown, by no more than the best one's own."""
    allowed = [trial for trial in trials if trial.within_budget]
    if not allowed:
        return []
    best = max(allowed, key=lambda trial: trial.image_auroc)

    def noise(trial: Trial) -> float:
        if not (trial.scores and best.scores):
            return best.standard_error
        return NOISE * difference_error(best.scores, trial.scores, n_good)

    return [trial for trial in allowed if trial is best or best.image_auroc - noise(trial) <= trial.image_auroc]


def choose(trials: Sequence[Trial], n_good: int = 0, default: str = "") -> Trial:
    """The trial called `default` if it is as good as the best within the budget, as far as these images can tell; else
    the cheapest of those that are. n_good: how many of the scores, the first, are of good images."""
    alike = tied(trials, n_good)
    if not alike:
        return min(trials, key=lambda trial: trial.ms)
    named = [trial for trial in alike if trial.name == default]
    return (named or [min(alike, key=lambda trial: trial.ms)])[0]


def difference_error(first: Sequence[float], second: Sequence[float], n_good: int) -> float:
    """The standard error of the difference of two AUROC on the same images (DeLong, DeLong and Clarke-Pearson 1988).
    first, second: (n,) scores, the good images' first. Infinite with less than two images of a class: one image tells
    nothing about others."""
    if not 2 <= n_good <= len(first) - 2:
        return math.inf
    bad, good = (a - b for a, b in zip(_placements(first, n_good), _placements(second, n_good), strict=True))
    return math.sqrt(sum(float(part.var(ddof=1)) / len(part) for part in (bad, good)))


def _placements(scores: Sequence[float], n_good: int) -> tuple[DoubleArray, DoubleArray]:
    """For each defective image the share of good ones that it scores over, and for each good image the share of
    defective ones that score over it; ties count half."""
    good, bad = np.array(scores[:n_good]), np.array(scores[n_good:])
    over = (bad[:, None] > good) + 0.5 * (bad[:, None] == good)  # (n_bad, n_good)
    return over.mean(axis=1), over.mean(axis=0)


def standard_error(area: float, positives: int, negatives: int) -> float:
    """Of an AUROC (Hanley and McNeil 1982)."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (positives - 1) * (q1 - area**2) + (negatives - 1) * (q2 - area**2)
    return math.sqrt(max(spread, 0.0) / (positives * negatives))


def _trial(
    name: str,
    config: Config,
    model: Inspector,
    good: Sequence[ImageSource],
    defective: Sequence[ImageSource],
    budget_ms: float,
) -> Trial:
    seconds = [_timed(model, image) for image in (good[0], *good[:TIMED])][1:]  # the first warms up
    scores = np.array(list(at_once(model, lambda image: model.predict(image).score, (*good, *defective))))
    labels = np.arange(len(scores)) >= len(good)
    area = auroc(scores, labels)
    assert area is not None  # there are good and defective images
    ms = 1000 * float(np.median(seconds))
    error = standard_error(area, len(defective), len(good))
    return Trial(name, config, ms, area, error, ms <= budget_ms, tuple(scores.tolist()))


def _timed(model: Inspector, image: ImageSource) -> float:
    start = time.perf_counter()
    _ = model.predict(image).anomaly_map
    return time.perf_counter() - start


def _images(dataset: Dataset, config: Config) -> tuple[list[Path], list[Path], list[ImageSource], str]:
    """Images to learn, held-out good ones, defective ones, and where those come from."""
    rng = np.random.default_rng(config.seed)
    paths = dataset.train_paths
    shuffled = (paths[n] for n in rng.permutation(len(paths)))
    checked = in_order(lambda path: path if _readable(path, config.image_format) else None, shuffled)
    readable = (path for path in checked if path)
    usable = list(islice(readable, 5 * MOST_HELD))  # of more images, none would be used
    if len(usable) < LEAST_GOOD:
        raise DatasetError(
            f"{dataset.root}: expected at least {LEAST_GOOD} good images to tune on; got {len(usable)} that can be read"
        )
    held = max(3, len(usable) // 5)
    good, trained = usable[:held], sorted(usable[held : held + MOST_LEARNED])
    labelled: list[ImageSource] = [
        sample.path for sample in dataset.test if sample.defective and _readable(sample.path, config.image_format)
    ]
    if labelled:
        return trained, good, labelled, "labelled"
    pictures = [read_image(path, config.image_format) for path in good]
    roi, turn = Roi.from_config(config), (len(pictures) + 1) % len(KINDS)
    planted = [
        _source(defective.image, config.image_format)
        for kinds in (KINDS, KINDS[turn:] + KINDS[:turn])  # each image twice, with different defects
        for defective in plant_each(pictures, rng, kinds=kinds, roi=roi)
    ]
    if not planted:
        raise DatasetError(f"{dataset.root}: no defect can be planted on its images; give labelled defects (test/KIND)")
    return trained, good, planted, "planted"


def _readable(path: Path, format: ImageFormat) -> bool:
    try:
        read_image(path, format)
    except ImageError:
        return False
    return True


def _source(image: ByteArray, format: ImageFormat) -> ImageSource:
    """(H, W, 3 G) on the 0..255 scale -> an array that `predict` reads as that image."""
    own = image[:, :, : format.channels or 3]
    own = reordered(own, format.channel_order)
    return own if format.white is None else own.astype(np.float32) * np.float32(format.white / 255)


def _fit_patchcore(paths: Sequence[Path], config: Config, runtime: Runtime) -> Inspector:
    from patchbank.model import PatchCore

    with quiet():
        return PatchCore.fit(list(paths), config, runtime=runtime)
