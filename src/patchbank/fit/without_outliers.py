"""`drop_outliers`: a fit that leaves out training images that look defective, and says which.

The model is fitted, the left-out scores of all its training images are screened, and it is fitted again without those
that stand out. Once more, if others stand out then: of images with the same defect, one can hide behind another. The
images are embedded once, if the memory budget holds their patches twice; otherwise for each fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from patchbank.arrays import Array
from patchbank.calibration.held_out import score_one
from patchbank.calibration.outliers import SuspectedOutlier, screen
from patchbank.errors import ImageError
from patchbank.features.embedding import Patches
from patchbank.features.extract import Described, described, usable
from patchbank.fitted.model import FittedModel
from patchbank.imaging.sources import ImageSource
from patchbank.util.progress import Progress

ROUNDS = 2  # of dropping: what is odd only among what is left after them stays
Known = Sequence[Described] | None  # what an earlier fit knows of all images
Fit = Callable[[list[ImageSource], Known], tuple[FittedModel, Known]]


def without_outliers(
    model: FittedModel,
    images: list[ImageSource],
    known: Known,
    fit: Fit,
    embed: Callable[[Array], Patches],
    progress: Progress,
) -> FittedModel:
    """The model that was fitted with all images, fitted again by `fit` until none stands out, at most ROUNDS times.
    known: what is known of the images, of which `fit` takes a part, and returns what the next one may know."""
    names, skipped = list(model.bank.images), model.skipped
    kept = usable(images, model.skipped)
    dropped: list[SuspectedOutlier] = []
    for _ in range(ROUNDS):
        scores = _scores(model, kept, known, embed, progress)
        found = {each.name: each for each in screen(scores, [str(n) for n in range(len(kept))])}
        if not found:
            break
        dropped += [dataclasses.replace(s, name=names[int(number)]) for number, s in found.items()]
        left = [n for n in range(len(kept)) if str(n) not in found]
        kept, names = [kept[n] for n in left], [names[n] for n in left]
        model, known = fit(kept, [known[n] for n in left] if known else None)
        model = _renamed(model, names)
    return dataclasses.replace(model, skipped=skipped, dropped=tuple(dropped))


def _scores(
    model: FittedModel,
    images: Sequence[ImageSource],
    known: Known,
    embed: Callable[[Array], Patches],
    progress: Progress,
) -> np.ndarray:
    """(n,) left-out scores of all training images: those of the calibration, and, for images that it does not know,
    measured now."""
    scores = np.full(len(images), np.nan)
    numbers = {name: number for number, name in enumerate(model.bank.images)}
    if model.calibration:
        for name, score in zip(model.calibration.images, model.calibration.scores.tolist(), strict=True):
            scores[numbers[name]] = score
    missing = np.flatnonzero(np.isnan(scores)).tolist()
    found: Iterable[Described] = (
        [known[n] for n in missing]
        if known
        else described([images[n] for n in missing], embed, dataclasses.replace(model.config, thumbnail_size=0))
    )
    for done, (number, (_, patches, *_)) in enumerate(zip(missing, found, strict=True)):
        progress("screen", done, len(missing))
        if isinstance(patches, ImageError):
            raise patches
        scores[number] = score_one(number, patches, model.bank, model.searcher, model.config).score
    return scores


def _renamed(model: FittedModel, names: list[str]) -> FittedModel:
    """The model with the names that its training images had in the first fit, whatever folder is left to share."""
    new = dict(zip(model.bank.images, names, strict=True))
    calibration = model.calibration
    if calibration:
        calibration = dataclasses.replace(calibration, images=tuple(new[name] for name in calibration.images))
    return dataclasses.replace(
        model, bank=dataclasses.replace(model.bank, images=tuple(names)), calibration=calibration
    )
