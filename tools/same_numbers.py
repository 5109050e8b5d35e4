"""Prints digests of all that predictions give, stage by stage, to compare processors with.

    python tools/same_numbers.py MODEL.patchbank ... IMAGE ... [--one-processor]

One JSON object: for each model and image, the SHA-256 of the bits of each stage. Two machines (or emulated ones) that
print the same gave the same numbers. Where they differ, the first stage that does says where it began.
`tests/test_same_numbers.py` runs this on several sets of instructions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

DIGITS = 16  # of a digest: enough to compare


def digest(*values: Any) -> str:
    """The start of the SHA-256 of arrays' types, shapes and bits, or of numbers and texts."""
    import numpy as np

    made = hashlib.sha256()
    for value in values:
        array = np.ascontiguousarray(value)
        made.update(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return made.hexdigest()[:DIGITS]


def stages(model: Any, path: str) -> dict[str, str]:
    """Each stage of one image's inspection, in the order in which they follow."""
    from patchbank.features.extract import layer_maps, patches_of
    from patchbank.imaging.images import input_size, read_image
    from patchbank.imaging.resize import resize

    config = model.config
    image = read_image(path, config.image_format)
    resized = resize(image, input_size(config.image_size, image.shape, config.tile_size, model.backbone.info.side_step))
    layers = layer_maps(resized, model.backbone, config.tile_size, config.tile_overlap)
    patches = patches_of(image, model.backbone, config, model.roi)
    result = model.predict(path)
    scene = [[each.value, each.low, each.high] for each in result.scene or ()]
    regions = [[*each.box, each.area, *each.peak, each.peak_score] for each in result.regions]
    return {
        "image": digest(image),
        "resized": digest(resized),
        "layers": digest(*layers),
        "features": digest(patches.features),
        "nearest": digest(result.nearest),
        "distances": digest(result.distances),
        "patch_scores": digest(result.patch_scores),
        "score": digest(result.score),
        "p_value": digest(result.p_value or -1),
        "thresholds": digest(result.threshold or -1, result.pixel_threshold or -1),
        "anomaly_map": digest(result.anomaly_map),
        "mask": digest(result.mask),
        "regions": digest(regions),
        "image_check": digest(scene),
        "verdict": f"{result.verdict}: {result.reason}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--one-processor", action="store_true", help="use one processor, and so one thread, only")
    arguments = parser.parse_args()
    if arguments.one_processor:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from patchbank import PatchCore

    models = {path.name: PatchCore.load(path) for path in arguments.paths if path.suffix == ".patchbank"}
    images = [path for path in arguments.paths if path.suffix != ".patchbank"]
    found = {name: {image.name: stages(model, str(image)) for image in images} for name, model in models.items()}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
