"""An audit of the training images: which of them look defective, are blurred, wrongly exposed, of another size or
framing, or nearly the same as another, the oddest first.

All is judged among the images themselves by the rule in `calibration/outliers.py`, on the measures in
`calibration/image_check.py`; nearly the same
are two images whose small pictures are much closer to each other than pictures here usually are to their nearest one.
From images, a model is fitted and every image is read once more; from a model, what its file holds is enough, as far as
it goes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchbank.arrays import DoubleArray, FloatArray, IndexArray
from patchbank.backbones import Backbone
from patchbank.calibration.held_out import score_one
from patchbank.calibration.image_check import (
    MEASURES,
    Measure,
    common_cells,
    described,
    left_out_layouts,
    random_projection,
)
from patchbank.calibration.outliers import IN_SIGMAS, limit_for, oddness, oddness_of_scores
from patchbank.config import Config, Runtime
from patchbank.errors import ConfigError, ImageError, ModelFileError
from patchbank.features.extract import described as patches_of
from patchbank.features.extract import usable
from patchbank.fitted.model import FittedModel
from patchbank.imaging.boxes import Box, in_shares, neighbourhood
from patchbank.imaging.images import read_image, thumbnail
from patchbank.imaging.sources import ImageSource, held
from patchbank.model import PatchCore
from patchbank.reports.audit import write_page
from patchbank.results.audit import ODDEST, AuditedImage, AuditFacts, Outlier
from patchbank.search.searcher import search_excluding
from patchbank.util.log import quiet
from patchbank.util.progress import Progress, silent
from patchbank.util.wording import counted

DUPLICATE = 0.2  # of the median distance to the nearest image: closer ones are nearly the same
_GREY = 64  # pixels a side, in which pictures are compared
_SMALL = 128  # of the thumbnails that this is made from, where images are read
MOST_PICTURES = 200  # images, in the ranking's order, whose pictures are kept if they are odd
PICTURE_SIDE = 900  # pixels, of a picture that was read again
_WHOLE = [measure for measure in MEASURES if measure.name != "patch_distance"]  # a defect's score says more


class Audit(AuditFacts):
    """An audit of training images, the oddest first. Its fields are those of `AuditFacts`."""

    def save(self, path: str | Path, title: str = "", commands: Sequence[tuple[str, str]] = ()) -> None:
        write_page(path, self, title, commands)


@dataclass(frozen=True, eq=False)
class Portraits:
    """Known facts of n images. scores: (n,), NaN if unknown. measures: (n, 6) in the order of scene.MEASURES; None if
    unknown. thumbnails: JPEG bytes, empty if there is none. mark, picture: of the image with a number, when asked
    for."""

    names: tuple[str, ...]
    scores: DoubleArray
    measures: npt.NDArray[np.floating] | None
    thumbnails: Sequence[bytes]
    mark: Callable[[int], Box | None]
    picture: Callable[[int], bytes]


def audit_images(
    images: Iterable[ImageSource],
    config: Config | None = None,
    *,
    runtime: Runtime | None = None,
    backbone: Backbone | None = None,
    progress: Progress = silent,
) -> Audit:
    """Audits images of good parts by a model that is fitted to all of them. Unreadable ones are listed.

    Raises ConfigError (for one, if they can be read only once), BackboneError or DatasetError.
    """
    if not isinstance(images, (list, tuple)):
        raise ConfigError("an audit reads the images twice: expected a list of them; got an iterator")
    images = list(map(held, images))
    options = dataclasses.replace(config or Config(), drop_outliers=False, calibration="none", thumbnail_size=0)
    with quiet():  # the audit lists what is odd and what is unreadable
        model = PatchCore.fit(
            images, options, runtime=runtime, backbone=backbone, skip_unreadable=True, progress=progress
        )
    unreadable = {skipped.name: skipped.reason for skipped in model.skipped}
    return judged(_portraits(model, usable(images, model.skipped), progress), tuple(unreadable.items()))


def audit_model(model: FittedModel) -> Audit:
    """Audits a model's training images by what the model holds: no image is read."""
    calibration, scene = model.calibration, model.scene
    if calibration is None:
        raise ConfigError("the model was fitted with calibration = 'none': it holds no scores; audit its images")
    notes = []
    if scene is None or len(scene.measures) != len(calibration.images):
        scene = None
        notes.append("sharpness, exposure, size and framing are unknown: the model does not hold them")
    if missing := len(model.training_images) - len(calibration.images):
        are = counted(missing, "training image is", "training images are")
        notes.append(f"{are} unknown to the calibration, so not judged")
    number = {name: n for n, name in enumerate(model.bank.images)}
    numbers = [number[name] for name in calibration.images]
    pictures = [model.thumbnails.get(n, b"") for n in numbers]
    if bare := pictures.count(b""):
        have = counted(bare, "image has", "images have")
        notes.append(f"{have} no thumbnail in the model, without which duplicates are not found")
    portraits = Portraits(
        calibration.images,
        calibration.scores.astype(np.float64),
        scene.measures if scene else None,
        pictures,
        lambda n: _odd_vector(model, numbers[n]),
        lambda n: _sound(pictures[n]),
    )
    return judged(portraits, (), tuple(notes))


def judged(portraits: Portraits, unreadable: tuple[tuple[str, str], ...] = (), notes: tuple[str, ...] = ()) -> Audit:
    """The audit of what is known of the images."""
    n = len(portraits.names)
    limit = limit_for(n)
    found: list[list[tuple[float, Outlier]]] = [[] for _ in range(n)]
    ranking = _Ranking(np.zeros(n), [""] * n)
    if not np.isfinite(limit):
        notes = (*notes, f"{counted(n, 'image is', 'images are')} too few to say what is usual among them")
    else:
        odd = oddness_of_scores(portraits.scores)
        ranking.at_least(odd / limit, "score")
        for i in np.flatnonzero(odd > limit).tolist():
            about = f"score {portraits.scores[i]:.4g}, robust z-score {IN_SIGMAS * odd[i]:.1f}"
            text = f"unlike the other images at the marked place ({about}): a defect?"
            found[i].append((odd[i] / limit, Outlier("defect", float(portraits.scores[i]), float(odd[i]), limit, text)))
        if portraits.measures is not None:
            columns = {measure.name: portraits.measures[:, k] for k, measure in enumerate(MEASURES)}
            for measure in _WHOLE:
                _compare(measure, columns[measure.name], limit, found, ranking)
        _duplicates(portraits.thumbnails, portraits.names, found, ranking)
    # Among images of one severity (all, if they are too few) the higher score comes first.
    order = np.lexsort([-np.nan_to_num(portraits.scores), -ranking.severity]).tolist()
    images = [_audited(portraits, i, found[i], ranking, place) for place, i in enumerate(order)]
    return Audit(tuple(images), unreadable, notes)


@dataclass(frozen=True, eq=False)
class _Ranking:
    """Says how odd each image is: (n,) the largest oddness over its limit so far, and of which kind it is."""

    severity: npt.NDArray[np.float64]
    leading: list[str]

    def at_least(self, values: npt.NDArray[np.floating], kind: str) -> None:
        """Takes the values, (n,), where they are larger."""
        for i in np.flatnonzero(values > self.severity).tolist():
            self.severity[i], self.leading[i] = float(values[i]), kind


def _audited(
    portraits: Portraits, number: int, found: list[tuple[float, Outlier]], ranking: _Ranking, place: int
) -> AuditedImage:
    oddities = tuple(oddity for _, oddity in sorted(found, key=lambda pair: -pair[0]))
    among_oddest = place < ODDEST
    marked = among_oddest or any(each.kind == "defect" for each in oddities)
    shown = among_oddest or (place < MOST_PICTURES and bool(oddities))
    return AuditedImage(
        portraits.names[number],
        float(portraits.scores[number]),
        float(ranking.severity[number]),
        oddities,
        portraits.mark(number) if marked else None,
        portraits.picture(number) if shown else b"",
        ranking.leading[number],
    )


def _compare(
    measure: Measure,
    values: npt.NDArray[np.floating],
    limit: float,
    found: list[list[tuple[float, Outlier]]],
    ranking: _Ranking,
) -> None:
    """Adds what one measure finds."""
    odd = oddness(measure.scaled(values.astype(np.float64)), measure.finest)
    if measure.low is None:
        odd = np.maximum(odd, 0)
    ranking.at_least(np.abs(odd) / limit, measure.name)
    middle = float(np.median(values))
    for i in np.flatnonzero(np.abs(odd) > limit).tolist():
        word, look_at = measure.high if odd[i] > 0 or measure.low is None else measure.low
        text = f"{word} ({measure.name} {values[i]:.4g}, median {middle:.4g}): {look_at}"
        found[i].append((abs(odd[i]) / limit, Outlier(measure.name, float(values[i]), float(odd[i]), limit, text)))


def _duplicates(
    thumbnails: Sequence[bytes],
    names: Sequence[str],
    found: list[list[tuple[float, Outlier]]],
    ranking: _Ranking,
) -> None:
    """Adds images that are nearly the same as another one: both of a pair, each with the other's name."""
    known = [i for i, data in enumerate(thumbnails) if data]
    if len(known) < 2:
        return
    nearest, distances = _nearest_pictures(np.stack([_grey(thumbnails[i]) for i in known]))
    limit = DUPLICATE * float(np.median(distances))
    shares = np.zeros(len(names))
    for place in np.flatnonzero(distances <= limit).tolist():
        i, distance = known[place], float(distances[place])
        share = 2 - distance / limit if limit else 2.0  # 1 at the limit, 2 for the same image
        other = names[known[nearest[place]]]
        text = f"nearly the same as {other}: a copy, or two pictures of one part?"
        found[i].append((share, Outlier("duplicate", distance, 0.0, limit, text, other)))
        shares[i] = share
    ranking.at_least(shares, "duplicate")


def _grey(jpeg: bytes) -> FloatArray:
    """A thumbnail as (_GREY * _GREY,) grey levels about their mean."""
    import cv2

    image = _decoded(jpeg)
    small = cv2.resize(image, (_GREY, _GREY), interpolation=cv2.INTER_AREA).astype(np.float32)
    return (small - small.mean()).ravel()


def _decoded(jpeg: bytes) -> Any:
    """A thumbnail's grey levels. Its size was checked when the model was loaded; that it is a picture shows here."""
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:
        image = None
    if image is None:
        raise ModelFileError("the model holds a thumbnail that is no picture; expected JPEG files: fit it again")
    return image


def _sound(jpeg: bytes) -> bytes:
    if jpeg:
        _decoded(jpeg)
    return jpeg


def _nearest_pictures(pictures: FloatArray) -> tuple[IndexArray, DoubleArray]:
    """(n, P) grey levels -> each picture's nearest one, and how far it is: the root of the mean squared difference."""
    nearest, distances = np.zeros(len(pictures), np.int64), np.zeros(len(pictures))
    for i, own in enumerate(pictures):
        difference = pictures - own
        apart = np.sqrt(np.einsum("np,np->n", difference, difference) / pictures.shape[1])
        apart[i] = np.inf
        nearest[i], distances[i] = apart.argmin(), apart.min()
    return nearest, distances


def _portraits(model: PatchCore, images: Sequence[ImageSource], progress: Progress) -> Portraits:
    """Reads all training images once more, each left out in turn."""
    n, dims = len(images), model.bank.vectors.shape[1]
    rng = np.random.default_rng([model.config.seed, 3])
    projection = random_projection(dims, rng)
    scores, marks, values, cells, pictures = np.empty(n), [], [], [], []
    small = dataclasses.replace(model.config, thumbnail_size=_SMALL)
    for number, (_, patches, picture, _) in enumerate(patches_of(images, model._describe, small)):
        progress("audit", number, n)
        if isinstance(patches, ImageError):
            raise patches
        held = score_one(number, patches, model.bank, model.searcher, model.config)
        scores[number] = held.score
        place = divmod(int(patches.place[held.distances.argmax()]), patches.grid[1])
        marks.append(_mark(place, patches.grid, model.config))
        own, own_cells = described(patches, held.distances, projection)
        values.append(own)
        cells.append(own_cells)
        pictures.append(picture)
    progress("audit", n, n)
    layout = left_out_layouts(common_cells(cells)[0]) if n > 1 else [0.0]
    return Portraits(
        model.bank.images,
        scores,
        np.column_stack([values, layout]),
        pictures,
        lambda i: marks[i],
        lambda i: thumbnail(read_image(images[i], model.config.image_format), PICTURE_SIDE),
    )


def _mark(place: tuple[int, int], grid: tuple[int, int], config: Config) -> Box:
    """The neighbourhood of the patch at a place (row, column) of the grid."""
    return in_shares(neighbourhood(place, grid, config.patch_size / config.patch_stride), grid)


def _odd_vector(model: FittedModel, image: int) -> Box | None:
    """Returns the place of the image's bank vector that is farthest from all others' vectors; None without one."""
    bank = model.bank
    own = np.flatnonzero(bank.image == image)
    if len(own) == 0 or len(own) == len(bank):
        return None
    distances, _ = search_excluding(
        model.searcher, bank.vectors, bank.image.astype(np.int64), bank.vectors[own], image, 1
    )
    farthest = own[int(distances[:, 0].argmax())]
    grid = (int(bank.grids[image, 0]), int(bank.grids[image, 1]))
    place = (int(bank.row[farthest]), int(bank.column[farthest]))
    return _mark(place, grid, model.config)
