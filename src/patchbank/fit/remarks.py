"""What a fit has to say about its model, in words: what is missing for a guarantee, and which images look wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from patchbank.calibration.image_check import LEAST_IMAGES, MEASURES
from patchbank.calibration.outliers import SuspectedOutlier
from patchbank.fitted.model import FittedModel
from patchbank.util.wording import counted, plural

FEW = 20  # training images: with fewer, the calibration's quartiles and ranges are guesses
_MOST_NAMED = 20


def copies(measures: npt.NDArray[np.floating], names: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of training images that are the same picture. measures: (n, 6) of n images, in the order of MEASURES;
    names: of these images. The same are those whose brightness, sharpness, shape and size are equal to the last bit:
    camera noise makes that as good as impossible for two shots of one part."""
    whole = [k for k, measure in enumerate(MEASURES) if measure.name not in ("patch_distance", "layout_distance")]
    groups: dict[bytes, list[str]] = {}
    for row, name in zip(np.ascontiguousarray(measures[:, whole]), names, strict=True):
        groups.setdefault(row.tobytes(), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def doubts(model: FittedModel) -> Iterator[str]:
    """Returns what makes the whole fit doubtful: too few training images, or copies among them. One warning a line."""
    calibration, scene, n = model.calibration, model.scene, len(model.bank.images)
    if n < FEW:
        yield (
            f"only {counted(n, 'training image')}: with fewer than {FEW}, all that is said about good parts is a "
            "guess; add images of good parts, 100 or more if you can"
        )
    if scene is None or calibration is None or len(scene.measures) != len(calibration.images):
        return
    groups = copies(scene.measures, calibration.images)
    if not groups:
        return
    if len(groups) == 1 and len(groups[0]) == len(scene.measures):
        yield (
            f"all {n} training images are the same picture, so nothing is known about how good parts differ: every "
            "other picture will be flagged; give pictures of different parts"
        )
        return
    first = groups[0]
    others = f" and {len(first) - 2} more" if len(first) > 2 else ""
    pictures = counted(len(groups), "picture is", "pictures are")
    yield (
        f"{pictures} there more than once, {sum(map(len, groups))} images in all ({first[0]} = {first[1]}{others}, "
        "for one): copies know each other, so the threshold comes out too low and new good parts are flagged; keep "
        "one of each"
    )


def remarks(model: FittedModel) -> Iterator[str]:
    """One warning a line, the most important first."""
    calibration, scene = model.calibration, model.scene
    yield from doubts(model)
    if calibration and not calibration.support.satisfied:
        yield f"{calibration.support}; the threshold is their largest score"
    if calibration and calibration.bounds.suspects:
        yield calibration.bounds.sentence
    if scene and not scene.support.satisfied:
        yield f"scene: {scene.support}; its ranges are widened"
    elif calibration and model.config.scene_false_alarms and not scene:
        yield f"the scene is not checked: that needs {LEAST_IMAGES} images to calibrate with"
    if _in_tiles(model):
        yield (
            f"images go through the network in tiles of {model.config.tile_size} pixels, and a vision transformer sees "
            "each tile alone: the map may show seams; a smaller image_size keeps images in one piece"
        )
    if bare := len(model.unpictured):
        them = plural(bare, "it", "them")
        yield (
            f"thumbnails of {counted(bare, 'training image')} did not fit their share of the memory, so explanations "
            f"name {them} without a picture; raise --memory, or lower --thumbnail-size"
        )
    if not model.self_test_images:
        yield "the model has no self-test: its images are too large to be kept in the model file"
    if model.skipped:
        yield f"{counted(len(model.skipped), 'image')} could not be used:"
        yield from (f"  {each.reason}" for each in model.skipped)
    images = len(model.bank.images) + len(model.dropped)
    if model.dropped:
        look = plural(len(model.dropped), "looks", "look")
        yield f"left out {len(model.dropped)} of {images} training images, which {look} defective:"
        yield from _listed(model.dropped)
    if suspects := model.suspects:
        look = plural(len(suspects), "looks", "look")
        yield f"{len(suspects)} of {images} training images {look} defective and taught that this is normal:"
        yield from _listed(suspects)


def _in_tiles(model: FittedModel) -> bool:
    """Whether a network whose positions see the whole image got it in pieces."""
    info, config = model.backbone.info, model.config
    longest = int(model.bank.grids.max()) * config.patch_stride * info.layers[0].stride
    return info.patch_size == 1 and info.side_multiple > 1 and longest > config.tile_size


def _listed(suspects: tuple[SuspectedOutlier, ...]) -> Iterator[str]:
    for each in suspects[:_MOST_NAMED]:
        about = f"score {each.score:.4g}, robust z-score {each.robust_z:.1f} (limit {each.robust_z_limit:.1f})"
        yield f"  {each.name}: {about}"
    if len(suspects) > _MOST_NAMED:
        yield f"  ... and {len(suspects) - _MOST_NAMED} more"
