"""The training images once more: to fill what was forgotten, and to measure the calibration of a changed bank."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchbank.arrays import Array
from patchbank.bank.memory_bank import ArchivedVectors
from patchbank.calibration.held_out import score_one
from patchbank.errors import DatasetError, ImageError
from patchbank.features.embedding import CalibrationPatches, Patches
from patchbank.fitted.model import FittedModel
from patchbank.fitted.versions import images_of, rows_of
from patchbank.imaging.images import read_image
from patchbank.imaging.sources import ImageSource
from patchbank.util.parallel import in_order
from patchbank.validation import memory_budget

Describe = Callable[[Array], Patches]

SAME = 0.02  # relative: an image that has not changed is the same, but for another machine's rounding
KEPT_SHARE = 4  # patches are kept in memory up to this part of the budget of a fit, and read again beyond it


class Again(Sequence[CalibrationPatches]):
    """The patches of training images, by their place in `names`: read when they are asked for, and kept while there is
    memory. After them come patches that are there already.

    images: by name. Each is checked to be the image that the model knows. Raises ImageError for one that is not, or
    that is unusable.
    """

    def __init__(
        self,
        model: FittedModel,
        describe: Describe,
        names: Sequence[str],
        images: Mapping[str, ImageSource],
    ) -> None:
        self.names, self.others = names, list[CalibrationPatches]()
        self._model, self._describe, self._images = model, describe, images
        self._numbers = {model.bank.images[n]: n for n in sorted(images_of(model.history.versions)[-1])}
        self._known = ArchivedVectors.joined([rows_of(model.bank), model.history.archived])
        self._kept: dict[int, CalibrationPatches] = {}
        self._keeping = threading.Lock()
        self._room = memory_budget("auto") // KEPT_SHARE

    def __len__(self) -> int:
        return len(self.names) + len(self.others)

    def __iter__(self) -> Iterator[CalibrationPatches]:
        yield from in_order(self.__getitem__, range(len(self.names)))  # two are read at a time
        yield from self.others

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if place >= len(self.names):
            return self.others[place - len(self.names)]
        if place in self._kept:
            return self._kept[place]
        held = self._read(self.names[place])
        with self._keeping:
            self._room -= held.patches.features.nbytes
            if self._room >= 0:
                self._kept[place] = held
        return held

    def image(self, place: int) -> tuple[int, Array]:
        """An image's number, and the image itself, (H, W, 3 G), which was checked."""
        number = self[place].image
        return number, read_image(self._images[self.names[place]], self._model.config.image_format)

    def _read(self, name: str) -> CalibrationPatches:
        model, number = self._model, self._numbers[name]
        patches = self._describe(read_image(self._images[name], model.config.image_format))
        own = self._known.take(np.flatnonzero(self._known.image == number))
        same = _has(patches, own) if len(own) else _scores_as_before(model, name, number, patches)
        if not same or patches.grid != tuple(model.bank.grids[number]):
            raise ImageError(f"{name}: is not the image that the model knows; give the folder of the fit, unchanged")
        return CalibrationPatches(number, patches)


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """The training images that stay. filling: those whose patches may be in the bank; all: whether these are all of
    them. calibration: those that the model is calibrated with."""

    filling: Again
    all: bool
    calibration: Again


def read_again(
    model: FittedModel, describe: Describe, gone: Collection[int], images: Mapping[str, ImageSource]
) -> TrainingImages:
    """The training images but those that are gone, by name.

    These are read, too, where there are files of them: a wrong folder must not take out the image that happens to have
    the name. Raises DatasetError if calibration images are missing, ImageError for an image that is not the one that
    the model knows.
    """
    names = model.bank.images
    stay = [names[image] for image in sorted(images_of(model.history.versions)[-1].difference(gone))]
    calibrated = model.calibration.images if model.calibration else ()
    wanted = [name for name in calibrated if name in set(stay)]
    missing = [name for name in wanted if name not in images]
    if missing:
        few = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DatasetError(f"{len(missing)} of the {len(wanted)} calibration images are missing ({few})")
    if calibrated and not wanted:
        raise DatasetError("no calibration image would be left; keep some, or fit again")
    list(Again(model, describe, [names[image] for image in gone if names[image] in images], images))
    calibration = filling = Again(model, describe, wanted, images)
    if model.calibration is None or model.calibration.method == "holdout":
        known = [name for name in stay if name in images and name not in set(wanted)]
        filling = Again(model, describe, known, images)
    return TrainingImages(filling, set(stay) - set(filling.names) <= set(wanted), calibration)


def _has(patches: Patches, own: ArchivedVectors) -> bool:
    """Says whether these patches include the vectors, in their places."""
    place = own.row * patches.grid[1] + own.column
    at = np.searchsorted(patches.place, place)
    if at.max() >= len(patches.place) or (patches.place[at] != place).any():
        return False
    apart = np.linalg.norm(patches.features[at] - own.vectors, axis=1)
    return bool((apart <= SAME * np.linalg.norm(own.vectors, axis=1)).all())


def _scores_as_before(model: FittedModel, name: str, number: int, patches: Patches) -> bool:
    """Says whether an image without vectors scores as it did, as far as the model can tell."""
    calibration, status = model.calibration, model.history.versions[-1].calibrated
    if calibration is None or calibration.method == "cross_fit" or name not in calibration.images:
        return True
    before = float(calibration.scores[calibration.images.index(name)])
    now = score_one(number, patches, model.bank, model.searcher, model.config).score
    return (now <= before * (1 + SAME) or status == "stale") and (now >= before * (1 - SAME) or status != "exact")
