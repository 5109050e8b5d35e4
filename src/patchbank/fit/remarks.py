"""What a fit has to say about its model, in words: what is missing for a guarantee, and which images look wrong."""

from __future__ import annotations

from collections.abc import Iterator

from patchbank.calibration.image_check import LEAST_IMAGES
from patchbank.calibration.outliers import SuspectedOutlier
from patchbank.fitted.model import FittedModel
from patchbank.util.wording import counted, plural

_MOST_NAMED = 20


def remarks(model: FittedModel) -> Iterator[str]:
    """One warning a line, the most important first."""
    calibration, scene = model.calibration, model.scene
    if calibration and not calibration.support.satisfied:
        yield f"{calibration.support}; the threshold is their largest score"
    if calibration and calibration.bounds.suspects:
        yield calibration.bounds.sentence
    if scene and not scene.support.satisfied:
        yield f"scene: {scene.support}; its ranges are widened"
    elif calibration and model.config.scene_false_alarms and not scene:
        yield f"the scene is not checked: that needs {LEAST_IMAGES} images to calibrate with"
    if bare := len(model.unpictured):
        them = plural(bare, "it", "them")
        yield (
            f"thumbnails of {counted(bare, 'training image')} did not fit their share of the memory, so explanations "
            f"name {them} without a picture; raise --memory, or lower --thumbnail-size"
        )
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


def _listed(suspects: tuple[SuspectedOutlier, ...]) -> Iterator[str]:
    for each in suspects[:_MOST_NAMED]:
        about = f"score {each.score:.4g}, robust z-score {each.robust_z:.1f} (limit {each.robust_z_limit:.1f})"
        yield f"  {each.name}: {about}"
    if len(suspects) > _MOST_NAMED:
        yield f"  ... and {len(suspects) - _MOST_NAMED} more"
