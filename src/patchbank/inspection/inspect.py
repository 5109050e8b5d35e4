"""One image against a fitted model: its patches, their distances to the bank, its score and its verdict."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

from patchbank.arrays import Array
from patchbank.features.extract import Clock, patches_of
from patchbank.fitted.model import FittedModel
from patchbank.imaging.images import fingerprint
from patchbank.imaging.sources import ImageSource, unnamed
from patchbank.results.result import Maker, Result
from patchbank.scoring.scores import judged
from patchbank.util.parallel import beside, one_blas_thread, one_image


@one_image()
@one_blas_thread()
def inspect(model: FittedModel, by: Maker, source: ImageSource, name: str, image: Array, seconds: float) -> Result:
    """image: (H, W, 3 G) RGB, which took so many seconds to read from its source. by: who answers for the result."""
    timings, inspected = {"decode": seconds}, fingerprint(image)
    patches = patches_of(image, model.backbone, model.config, model.roi, timings)  # (n, D)
    layout = beside(partial(model.scene.layout, patches)) if model.scene else None
    found = judged(patches, model.bank.vectors, model.bank.expected, model.searcher, model.config, timings)
    with Clock(timings, "scene"):
        scene = model.scene.check(patches, found.scores, layout()) if model.scene and layout else None
    calibration = model.calibration
    return Result(
        path=name,
        score=found.score,
        threshold=model.threshold,
        pixel_threshold=model.pixel_threshold,
        p_value=calibration.p_value(found.score) if calibration else None,
        review_rate=model.config.review_rate,
        patch_scores=patches.on_grid(found.scores),
        distances=patches.on_grid(found.distances),
        nearest=patches.on_grid(found.nearest[:, 0]),
        counted=patches.counted,
        image_size=(image.shape[0], image.shape[1]),
        input_size=patches.input_size,
        smoothing_sigma=model.config.smoothing_sigma,
        timings=timings,
        source=unnamed(source),
        image_format=model.config.image_format,
        roi=model.roi,
        scene=scene,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        fingerprint=inspected,
        model=by,
    )
