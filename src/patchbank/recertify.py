"""The calibration of a changed bank, measured again from the images themselves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from patchbank.bank import MemoryBank, Reserve
from patchbank.calibration import Calibration
from patchbank.errors import DatasetError, ImageError
from patchbank.exact import ExactSearcher
from patchbank.heldout import HeldOut, score_cross_fitted, score_held_out, score_one, summarised
from patchbank.images import Array, ImageSource, read_ahead
from patchbank.life import images_of, rows_of
from patchbank.normal import NormalDistances
from patchbank.patches import Patches
from patchbank.progress import Progress
from patchbank.search import Searcher
from patchbank.streaming import CalibrationPatches

if TYPE_CHECKING:
    from patchbank.model import PatchCore

Describe = Callable[[Array], Patches]

SAME = 0.02  # relative: an image that has not changed is the same, but for another machine's rounding


def recertified(
    model: PatchCore,
    describe: Describe,
    bank: MemoryBank,
    searcher: Searcher,
    gone: Collection[int],
    new: Sequence[CalibrationPatches],
    images: Mapping[str, ImageSource],
    progress: Progress,
) -> tuple[Calibration, NormalDistances, float]:
    """The calibration of a changed bank, from the images of the old one but those that are gone, and from new ones.

    images: by name. Returns the calibration, the normal distances, and the largest distance of any of these images'
    patches to the bank (an upper bound where patch scores are means over several neighbours). Raises DatasetError where
    some are missing, ImageError for one that is unusable or not the image that the model knows.
    """
    calibration = model.calibration
    assert calibration is not None
    wanted = calibration_images(model, gone, images)
    again = read_again(model, describe, wanted, gone, images, progress)
    farthest = 0.0

    def scored() -> Iterator[HeldOut]:
        nonlocal farthest
        if calibration.method == "cross_fit":
            yield from score_cross_fitted([*again, *new], model.config, progress)
            return
        for held in again:
            one = score_one(held.image, held.patches, bank, searcher, model.config)
            farthest = max(farthest, _farthest(one, bank))
            yield one
        yield from score_held_out(new, bank, searcher, model.config)

    result = summarised(scored(), bank.images, model.config)
    return *result, farthest if calibration.method != "cross_fit" else float("inf")


def calibration_images(model: PatchCore, gone: Collection[int], images: Mapping[str, ImageSource]) -> list[str]:
    """The names of the calibration images that stay. Raises DatasetError if there are none, or if some have no
    image."""
    names = {model.bank.images[image] for image in gone}
    wanted = [name for name in (model.calibration.images if model.calibration else ()) if name not in names]
    missing = [name for name in wanted if name not in images]
    if missing:
        few = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DatasetError(f"{len(missing)} of the {len(wanted)} calibration images are missing ({few})")
    if model.calibration and not wanted:
        raise DatasetError("no calibration image would be left; keep some, or fit again")
    return wanted


def bank_images(model: PatchCore, gone: Collection[int], images: Mapping[str, ImageSource]) -> list[str]:
    """The names of images that stay and whose patches may be in the bank: of the training images, those that the model
    is calibrated with (all of them, or a sample), unless these were set aside for that."""
    wanted = calibration_images(model, gone, images)
    if model.calibration and model.calibration.method != "holdout":
        return wanted
    stay = sorted(images_of(model.life.versions)[-1].difference(gone))
    return [name for name in (model.bank.images[n] for n in stay) if name in images and name not in wanted]


def read_again(
    model: PatchCore,
    describe: Describe,
    wanted: Sequence[str],
    gone: Collection[int],
    images: Mapping[str, ImageSource],
    progress: Progress,
) -> Iterator[CalibrationPatches]:
    """The patches of the wanted images. Each is checked to be the one that the model knows; so are those that are gone,
    where there are files of them: a wrong folder must not take out the image that happens to have the name."""
    numbers = {model.bank.images[n]: n for n in sorted(images_of(model.life.versions)[-1])}
    known = Reserve.joined([rows_of(model.bank), model.life.reserve])
    names = [*(name for name, number in numbers.items() if number in gone and name in images), *wanted]
    found = read_ahead([images[name] for name in names], model.config.image_format)
    for place, (name, (_, image, _)) in enumerate(zip(names, found, strict=True)):
        progress("read again", place, len(names))
        if isinstance(image, ImageError):
            raise image
        patches, number = describe(image), numbers[name]
        own = known.take(np.flatnonzero(known.image == number))
        same = _has(patches, own) if len(own) else _scores_as_before(model, name, number, patches)
        if not same or patches.grid != tuple(model.bank.grids[number]):
            raise ImageError(f"{name}: is not the image that the model knows; give the folder of the fit, unchanged")
        if number not in gone:
            yield CalibrationPatches(number, patches)
    progress("read again", len(names), len(names))


def _has(patches: Patches, own: Reserve) -> bool:
    """Whether these patches include the vectors, in their places."""
    place = own.row * patches.grid[1] + own.column
    at = np.searchsorted(patches.place, place)
    if at.max() >= len(patches.place) or (patches.place[at] != place).any():
        return False
    apart = np.linalg.norm(patches.features[at] - own.vectors, axis=1)
    return bool((apart <= SAME * np.linalg.norm(own.vectors, axis=1)).all())


def _scores_as_before(model: PatchCore, name: str, number: int, patches: Patches) -> bool:
    """Whether an image without vectors scores as it did, as far as the model can tell."""
    calibration, status = model.calibration, model.life.versions[-1].calibrated
    if calibration is None or calibration.method == "cross_fit" or name not in calibration.images:
        return True
    before = float(calibration.scores[calibration.images.index(name)])
    now = score_one(number, patches, model.bank, model.searcher, model.config).score
    return (now <= before * (1 + SAME) or status == "stale") and (now >= before * (1 - SAME) or status != "exact")


def _farthest(held: HeldOut, bank: MemoryBank) -> float:
    """The largest distance of any of an image's patches to the bank, its own vectors included; an upper bound where
    the patch scores are means over several neighbours."""
    own = bank.vectors[bank.image == held.image]
    nearest = held.distances
    if len(own):
        nearest = np.minimum(nearest, ExactSearcher(own).search(held.patches.features, 1)[0][:, 0])
    return float(nearest.max())
