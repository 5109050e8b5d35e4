"""Changes of a fitted model's bank: good images that it learns, training images that it forgets, and the way back.

Learning continues greedy k-center from the bank, until every patch of the new images is as close to it as a typical
good image's oddest patches are. Forgetting takes an image's vectors out, and continues greedy k-center, among the spare
vectors and the patches of the training images where these are at hand, until the bank has its size again. Then the
threshold is certified again (docs/operate/updates.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from patchbank.arrays import Array, BoolArray, FloatArray, IndexArray
from patchbank.bank.memory_bank import ArchivedVectors, MemoryBank
from patchbank.calibration.held_out import score_held_out, score_one, summarised
from patchbank.calibration.image_check import ImageCheck
from patchbank.calibration.thresholds import Calibration
from patchbank.errors import ConfigError, DatasetError, ImageError
from patchbank.features.embedding import CalibrationPatches, Patches
from patchbank.features.extract import described, resized
from patchbank.fit.self_test import ImageSample, renewed
from patchbank.fitted.model import FittedModel
from patchbank.fitted.versions import (
    Added,
    Removed,
    State,
    Version,
    VersionHistory,
    guarantee_fields,
    images_of,
)
from patchbank.imaging.images import Skipped
from patchbank.imaging.sources import ImageSource, name_of
from patchbank.scoring.normal_distances import NormalDistances
from patchbank.search.exact import ExactSearcher
from patchbank.search.searcher import Searcher, build_searcher
from patchbank.update.image_names import new_names, numbers_of
from patchbank.update.learning import Learned, NewImage, farthest, fill, learn, learning_radius, staying
from patchbank.update.recalibrate import TrainingImages, read_again
from patchbank.update.self_test import more_images, sample_of_added
from patchbank.update.versions import M, Reason, changed
from patchbank.util.progress import Progress

Describe = Callable[[Array], Patches]

POOL_BYTES = 128 << 20  # of patches that could fill a hole; twice as many for a moment
UNKNOWN = -1  # the number of an image that has no vectors in the bank


@dataclass(frozen=True, eq=False)
class _Vectors:
    """Holds what the next bank is made of. kept: (m,) which of the bank's vectors stay. refill: (r,) which of the
    reserve's take the place of those that leave. fresh: vectors that are new, of training images first, then those that
    were learned. reach: no training patch is farther from the bank, where that is known."""

    kept: IndexArray
    refill: IndexArray
    fresh: ArchivedVectors
    learned: Learned
    reach: float


@dataclass(frozen=True, eq=False)
class _Next:
    """The next bank. left: (l,) which of the present one's vectors are not in it. hole: (l,) how far each of these is
    from it."""

    bank: MemoryBank
    searcher: Searcher
    archived: ArchivedVectors
    past: tuple[State, ...]
    left: IndexArray
    hole: FloatArray


@dataclass(frozen=True, eq=False)
class _Certified:
    """Holds what the next bank knows of normal images, and how far the threshold's guarantee holds
    (docs/operate/updates.md)."""

    calibration: Calibration | None
    normal: NormalDistances | None
    scene: ImageCheck | None
    status: str


def updated(
    model: M,
    describe: Describe,
    add: Sequence[ImageSource],
    remove: Iterable[str],
    *,
    images: Mapping[str, ImageSource] | None,
    random_sample: bool,
    recalibrate: bool,
    skip_unreadable: bool,
    reason: Reason,
    progress: Progress,
) -> M:
    """The model after an update; `PatchCore.update` says what the arguments mean."""
    current = images_of(model.versions)[-1]
    gone = numbers_of(remove, model.bank.images, current)
    _check(model, add, gone, images, random_sample, recalibrate)
    sample = sample_of_added(model, gone)
    new, skipped = _read(model, describe, add, current.difference(gone), sample, skip_unreadable, progress)
    kept = staying(model.bank, gone)
    again = read_again(model, describe, gone, images) if images is not None else None
    vectors = _chosen(model, kept, gone, current, new, again, progress)
    step = _next(model, vectors, new)
    joining = [CalibrationPatches(each.number, each.patches) for each in new] if random_sample else []
    certified = _certified(model, step, vectors.learned, gone, joining, again, progress)
    version = _version(model, step, vectors, certified, new, gone, len(current), reason)
    pictures = {each.number: each.picture for each in new if each.picture and each.number in step.bank.image}
    after = dataclasses.replace(
        model,
        bank=step.bank,
        searcher=step.searcher,
        calibration=certified.calibration,
        history=VersionHistory((*model.versions, version), step.past, step.archived),
        thumbnails={**model.thumbnails, **pictures},
        skipped=tuple(skipped),
        normal=certified.normal,
        scene=certified.scene,
    )
    return dataclasses.replace(after, self_test_images=renewed(after, more_images(after, sample, again)))


def _check(
    model: FittedModel,
    add: Sequence[ImageSource],
    gone: Collection[int],
    images: Mapping[str, ImageSource] | None,
    random_sample: bool,
    recalibrate: bool,
) -> None:
    """Raises ConfigError for an update that says nothing, cannot be meant, or would silently lose the guarantee."""
    if not len(add) and not gone and images is None:
        raise ConfigError("update: expected images to add or to remove, or the training images to recalibrate with")
    if model.calibration is None and (random_sample or (images is not None and not gone)):
        raise ConfigError(
            "this model was fitted without calibration: it has no threshold to recalibrate; leave that out"
        )
    if random_sample and not len(add):
        raise ConfigError("random_sample: expected images to add")
    if random_sample and images is None and model.calibration and model.calibration.method == "cross_fit":
        raise ConfigError("random_sample: cross-fitting takes all training images again; give their folder (--images)")
    if recalibrate and model.calibration and images is None and np.isin(model.bank.image, list(gone)).any():
        raise ConfigError(
            "removing an image raises the scores of others, so the threshold must be computed again from the training "
            "images: give their folder (--images), or give up the guarantee (--no-recalibrate)"
        )


def _read(
    model: FittedModel,
    describe: Describe,
    add: Sequence[ImageSource],
    current: Collection[int],
    sample: ImageSample,
    skip_unreadable: bool,
    progress: Progress,
) -> tuple[list[NewImage], list[Skipped]]:
    """The new images that can be used, some of which the sample keeps, and those that cannot; the first of these raises
    its ImageError, unless `skip_unreadable`."""
    first = len(model.bank.images)
    names = new_names(add, {model.bank.images[image] for image in current}, first)
    new: list[NewImage] = []
    skipped: list[Skipped] = []
    keep = sample.keeping(partial(resized, backbone=model.backbone, config=model.config, roi=model.roi))
    for place, (name, (source, patches, picture, kept)) in enumerate(
        zip(names, described(add, describe, model.config, keep), strict=True)
    ):
        progress("embed", place, len(add))
        if not isinstance(patches, ImageError):
            sample.offer(first + len(new), kept)
            new.append(NewImage(first + len(new), name, patches, picture))
        elif skip_unreadable:
            skipped.append(Skipped(name_of(source, place), str(patches)))
        else:
            raise patches
    progress("embed", len(add), len(add))
    if add and not new:
        raise DatasetError(f"none of the images to add is usable; the first of {len(add)}: {skipped[0].reason}")
    return new, skipped


def _chosen(
    model: FittedModel,
    kept: IndexArray,
    gone: Collection[int],
    current: Collection[int],
    new: Sequence[NewImage],
    again: TrainingImages | None,
    progress: Progress,
) -> _Vectors:
    """Forgets, then learns: the vectors that stay, those that take the place of the others, and those of new images."""
    bank, archived = model.bank, model.history.archived
    refill, found, reach = _forget(model, kept, gone, current, again, progress)
    centres = np.concatenate([bank.vectors[kept], archived.vectors[refill], found.vectors])
    learned = learn(new, centres, learning_radius(bank, model.calibration), bank.expected, progress)
    fresh = ArchivedVectors.joined([found, learned.rows])
    count = len(kept) + len(refill) + len(fresh)
    if count < model.config.num_neighbours:
        raise DatasetError(f"the bank would have {count} vectors, fewer than num_neighbours; fit again")
    return _Vectors(kept, refill, fresh, learned, reach)


def _forget(
    model: FittedModel,
    kept: IndexArray,
    gone: Collection[int],
    current: Collection[int],
    again: TrainingImages | None,
    progress: Progress,
) -> tuple[IndexArray, ArchivedVectors, float]:
    """Returns what takes the place of the vectors that are not kept: which of the reserve's, and patches of the images.
    No training patch is farther from the bank then than the last value, which may be infinite."""
    bank, archived = model.bank, model.history.archived
    spare = np.flatnonzero(np.isin(archived.image, list(set(current).difference(gone))))
    candidates, count, left_out = archived.take(spare), len(bank) - len(kept), math.inf
    if again and count:
        most = max(4 * count, POOL_BYTES // (4 * bank.vectors.shape[1]))
        pool, left_out = farthest(again.filling, bank.vectors[kept], most, progress)
        candidates = ArchivedVectors.joined([candidates, pool])
    left_out = left_out if again and again.all else math.inf
    filled = fill(candidates, bank.vectors[kept], count, model.config, left_out)
    picks = filled.picks
    return spare[picks[picks < len(spare)]], candidates.take(picks[picks >= len(spare)]), filled.reach


def _next(model: FittedModel, vectors: _Vectors, new: Sequence[NewImage]) -> _Next:
    """The bank of these vectors, and how far those that have left are from it."""
    bank = model.bank
    known = len(bank) + len(model.history.archived)
    members = np.concatenate([vectors.kept, len(bank) + vectors.refill, known + np.arange(len(vectors.fresh))])
    rows, archived, past = changed(model, vectors.fresh, members)
    left = np.setdiff1d(np.arange(len(bank)), vectors.kept)
    hole = ExactSearcher(rows.vectors).search(bank.vectors[left], 1)[0][:, 0]
    radius = min(bank.covering_radius + float(hole.max(initial=0)), vectors.reach)
    after = MemoryBank(
        **vars(rows),
        images=(*bank.images, *(each.name for each in new)),
        covering_radius=max(radius, vectors.learned.reach),
        grids=np.concatenate([bank.grids, *(np.array([each.patches.grid], np.int32) for each in new)]),
        expected=bank.expected,
    )
    return _Next(after, build_searcher(rows.vectors, model.config), archived, past, left, hole)


def _certified(
    model: FittedModel,
    step: _Next,
    learned: Learned,
    gone: Collection[int],
    joining: Sequence[CalibrationPatches],
    again: TrainingImages | None,
    progress: Progress,
) -> _Certified:
    """Measures the calibration again where the training images are at hand; else keeps what can be kept, and says how
    far it holds."""
    scene, status = model.scene, model.versions[-1].calibrated
    if again and model.calibration:
        again.calibration.others += joining
        calibration, normal, seen = summarised(again.calibration, step.bank, step.searcher, model.config, progress)
        if set(calibration.images) != set(model.calibration.images) or scene is None:  # else it is as it was
            scene = seen
        return _Certified(calibration, normal, scene, "exact")
    kept = _kept(model, gone, joining, step.bank, step.searcher)
    if len(step.left) and kept:
        status = "stale"
    elif len(learned.rows) and status == "exact":
        status = "bound"
    return _Certified(kept, model.normal, scene, status)


def _version(
    model: FittedModel,
    step: _Next,
    vectors: _Vectors,
    certified: _Certified,
    new: Sequence[NewImage],
    gone: Collection[int],
    before: int,
    reason: Reason,
) -> Version:
    """Returns what the update has changed. before: how many training images there were."""
    owner = model.bank.image[step.left]
    return Version(
        number=len(model.versions) + 1,
        action="update",
        calibrated=certified.status,
        images=before - len(gone) + len(new),
        size=len(step.bank),
        covering_radius=step.bank.covering_radius,
        **guarantee_fields(certified.calibration),
        **dataclasses.asdict(reason),
        added=_added(model, new, vectors.learned, step.bank, step.searcher),
        removed=tuple(_removed(image, model.bank, owner == image, step.hole) for image in gone),
        refilled=len(vectors.refill) + len(vectors.fresh) - len(vectors.learned.rows),
    )


def _added(
    model: FittedModel, new: Sequence[NewImage], learned: Learned, bank: MemoryBank, searcher: Searcher
) -> tuple[Added, ...]:
    return tuple(
        Added(
            image=each.number,
            name=each.name,
            patches=len(each.patches.place),
            covered=covered,
            vectors=int(np.count_nonzero(bank.image == each.number)),
            score_before=score_one(UNKNOWN, each.patches, model.bank, model.searcher, model.config).score,
            score_after=score_one(UNKNOWN, each.patches, bank, searcher, model.config).score,
        )
        for each, covered in zip(new, learned.covered, strict=True)
    )


def _removed(image: int, bank: MemoryBank, own: BoolArray, hole: FloatArray) -> Removed:
    """own: which of the vectors that have left are the image's. hole: how far each is from the new bank."""
    return Removed(image, bank.images[image], int(own.sum()), int((hole[own] > bank.covering_radius).sum()))


def _kept(
    model: FittedModel,
    gone: Collection[int],
    joining: Sequence[CalibrationPatches],
    bank: MemoryBank,
    searcher: Searcher,
) -> Calibration | None:
    """The calibration as it was, without the images that are gone, and with new ones by the new bank without their own
    vectors."""
    calibration = model.calibration
    if calibration is None:
        return None
    names = {bank.images[image] for image in gone}
    stay = [place for place, name in enumerate(calibration.images) if name not in names]
    if not stay:
        raise DatasetError("no calibration image would be left; keep some, or fit again")
    held = list(score_held_out(joining, bank, searcher, model.config))
    return dataclasses.replace(
        calibration,
        scores=np.append(calibration.scores[stay], np.array([each.score for each in held], np.float32)),
        peaks=np.append(calibration.peaks[stay], np.array([each.peak for each in held], np.float32)),
        images=(*(calibration.images[place] for place in stay), *(bank.images[each.image] for each in held)),
    )
