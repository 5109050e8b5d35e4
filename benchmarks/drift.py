"""Is a stream of good images silent, and how soon, and where, is a change from its middle on found?

    python benchmarks/drift.py [--quick] [--out DIR]

For each data set: a model of half of the training images (at most 200) inspects the other half (at most 200), in ten
random orders: as they are, with a tenth of them replaced by defective test images, and with a distortion from the
middle on.
Reported: the share of orders with an alarm (of the level or the scene), the median number of images from the change to
the alarm, and how far the reported beginning is from the change.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from _common import DATA, arguments, save
from patchbank import Config, PatchCore, find_drift
from patchbank.imaging.images import read_image, to_8bit
from scene import DISTORTIONS, SETS, load

ORDERS = 10
CHANGES = (
    "exposure x0.9",
    "exposure x0.75",
    "exposure x1.1",
    "blur, sigma 0.5 px",
    "blur, sigma 1 px",
    "noise, sigma 5",
)
METHODS = ("leave_one_out", "cross_fit")


class Inspected:
    """What a model says of the images, in the order in which they are asked for."""

    def __init__(self, model: PatchCore, images: list[Any]) -> None:
        results = list(model.predict(images))
        self.scores = np.array([result.score for result in results])
        self.in_scene = np.array([result.in_scene for result in results])


def tested(
    model: PatchCore, usual: Inspected, other: Inspected | None, changed: npt.NDArray[np.bool_], orders: list[Any]
) -> dict[str, Any]:
    """Over the orders; where `changed` is true at a place of the stream, `other` says what is seen there."""
    found, delays, errors = 0, [], []
    first = int(np.argmax(changed)) if changed.any() else 0
    for order in orders:
        scores, known = usual.scores[order], usual.in_scene[order]
        if other:
            scores = np.where(changed, np.resize(other.scores, len(usual.scores))[order], scores)
            known = np.where(changed, np.resize(other.in_scene, len(usual.scores))[order], known)
        drift = find_drift(scores, model.calibration, in_scene=known.tolist(), scene=model.scene)
        found += drift.found
        alarms = [shift for shift in drift.tests if shift.found and shift.test != "flagged"]
        if alarms:
            soonest = min(alarms, key=lambda shift: shift.detected)
            delays.append(soonest.detected - first + 1)
            errors.append(abs(soonest.start - first))
    row: dict[str, Any] = {"alarms": found / len(orders)}
    if alarms_with_place := [*delays]:
        row |= {"delay": float(np.median(alarms_with_place)), "place_error": float(np.median(errors))}
    return row


def measure(name: str, method: str, quick: bool) -> dict[str, Any]:
    train, test = load(name)
    rng = np.random.default_rng(0)
    train = [train[i] for i in rng.permutation(len(train))]
    half = min(len(train) // 2, 40 if quick else 200)
    config = Config(thumbnail_size=0, calibration=method, coreset_size=300 if quick else None)
    model = PatchCore.fit(train[:half], config)
    stream = train[half : 2 * half]
    defective = [image for kind, image in test if kind != "good"]
    orders = [rng.permutation(half) for _ in range(ORDERS)]
    usual = Inspected(model, stream)
    bad = Inspected(model, [defective[i] for i in rng.permutation(len(defective))[:half]])
    sparse = np.zeros(half, np.bool_)
    sparse[rng.permutation(half)[: half // 10]] = True
    later = np.arange(half) >= half // 2
    rows = {
        "as they are": tested(model, usual, None, np.zeros(half, np.bool_), orders),
        "a tenth defective": tested(model, usual, bad, sparse, orders),
    }
    over = float((usual.scores > np.median(model.calibration.scores)).mean())
    for change in CHANGES:
        pictures = (DISTORTIONS[change](to_8bit(read_image(image)), rng) for image in stream)
        rows[change] = tested(model, usual, Inspected(model, list(pictures)), later, orders)
        print(name, method, change, rows[change], flush=True)
    print(name, method, over, rows["as they are"], rows["a tenth defective"], flush=True)
    return {
        "set": name,
        "calibration": method,
        "images": half,
        "over_calibration_median": round(over, 3),
        "streams": rows,
    }


def main() -> None:
    options = arguments(__doc__ or "", SETS)
    names = [name for name in options.sets if name == "elpv" or (DATA / name).is_dir()]
    rows = [
        measure(name, method, options.quick)
        for name in names[: 1 if options.quick else None]
        for method in METHODS[: 1 if options.quick else None]
    ]
    if options.quick:
        assert rows[0]["streams"]["as they are"]["alarms"] == 0, rows
    save(options.out, "drift", {"rows": rows})


if __name__ == "__main__":
    main()
