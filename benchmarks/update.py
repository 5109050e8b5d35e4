"""What an update is worth: false alarms that are learned, and defective training images that are forgotten.

python benchmarks/update.py [--quick] [--out DIR]

learn: the model is fitted on the good training images; every second good test image that it flags is confirmed as good
and learned. Measured on the others. forget: defective test images are planted among the training images (5 %), and then
taken out again by an update; the model that never saw them is beside it. Both with the threshold at 5 % on average, so
that there are false alarms to learn.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent))
from _common import DATA, arguments, save
from patchbank import Config, PatchCore, read_dataset
from patchbank.evaluation.metrics import auroc

CONFIG = Config(max_false_alarms=0.05, confidence=0.0, thumbnail_size=0)
PLANTED = 0.05

Scores = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def main() -> None:
    options = arguments(__doc__ or "")
    names = ("bottle",) if options.quick else ("bottle", "screw", "mtd")
    config = replace(CONFIG, image_size=128) if options.quick else CONFIG
    rows: dict[str, list[dict[str, Any]]] = {"learn": [], "forget": []}
    for name in names:
        data = read_dataset(DATA / name)
        train = [str(path) for path in data.train_paths]
        test = [str(path) for path in data.test_paths]
        bad = np.array([sample.defective for sample in data.test])
        fitted = PatchCore.fit(train, config)
        rows["learn"] += learn(name, fitted, dict(zip(fitted.bank.images, train, strict=True)), test, bad)
        rows["forget"] += forget(name, fitted, train, test, bad)
        for part in rows.values():
            print(*part[-4:], sep="\n")
    save(options.out, "update", {"config": config.to_dict(), "planted": PLANTED, **rows})


def learn(name: str, model: PatchCore, by_name: dict[str, str], test: list[str], bad: Flags) -> list[dict[str, Any]]:
    """Before, after learning, and with the threshold certified again."""
    scores = scores_of(model, test)
    flagged = np.flatnonzero(~bad & (scores > threshold_of(model)))
    learned = flagged[::2]
    rest = np.ones(len(test), bool)
    rest[learned] = False
    rows = [{"set": name, "step": "before", **measured(model, scores, bad, rest)}]
    if len(learned) == 0:
        return rows
    start = time.perf_counter()
    new = model.update([test[n] for n in learned])
    seconds = time.perf_counter() - start
    after = scores_of(new, test)
    about = {
        "learned images": len(learned),
        "of them flagged before": len(learned),
        "of them flagged after": int((after[learned] > threshold_of(new)).sum()),
        "seconds": round(seconds, 1),
    }
    rows.append({"set": name, "step": "learned", **measured(new, after, bad, rest), **about})
    start = time.perf_counter()
    exact = new.update(images=by_name)
    seconds = round(time.perf_counter() - start, 1)
    sides = len(exact.diff().changed_sides)
    row = {"set": name, "step": "certified again", **measured(exact, after, bad, rest), "seconds": seconds}
    return [*rows, row | {"calibration images that changed sides": sides}]


def forget(name: str, never: PatchCore, train: list[str], test: list[str], bad: Flags) -> list[dict[str, Any]]:
    """With planted defective images, after they are forgotten, and as if they had never been there."""
    defective = np.flatnonzero(bad)
    count = round(PLANTED * len(train))
    planted = np.random.default_rng(0).choice(defective, min(count, len(defective) // 2), replace=False)
    images = [*train, *(test[n] for n in planted)]
    rest = np.ones(len(test), bool)
    rest[planted] = False
    model = PatchCore.fit(images, never.config)
    by_name = dict(zip(model.bank.images, images, strict=True))
    gone = [model.bank.images[len(train) + n] for n in range(len(planted))]
    start = time.perf_counter()
    new = model.update(remove=gone, images=by_name)
    seconds = round(time.perf_counter() - start, 1)
    version = new.versions[-1]
    about = {
        "forgotten images": len(gone),
        "vectors that left": sum(each.vectors for each in version.removed),
        "of them unlike all others": sum(each.uncovered for each in version.removed),
        "refilled": version.refilled,
        "seconds": seconds,
    }
    return [
        {"set": name, "step": "planted", **measured(model, scores_of(model, test), bad, rest)},
        {"set": name, "step": "forgotten", **measured(new, scores_of(new, test), bad, rest), **about},
        {"set": name, "step": "never there", **measured(never, scores_of(never, test), bad, rest)},
    ]


def threshold_of(model: PatchCore) -> float:
    assert model.calibration is not None
    return model.calibration.threshold


def scores_of(model: PatchCore, paths: list[str]) -> Scores:
    return np.array([result.score for result in model.predict(list(paths))])


def measured(model: PatchCore, scores: Scores, bad: Flags, rest: Flags) -> dict[str, Any]:
    """Figures over the images of `rest`."""
    over = scores > threshold_of(model)
    return {
        "vectors": len(model.bank),
        "threshold": round(threshold_of(model), 4),
        "covering radius": round(model.bank.covering_radius, 4),
        "image AUROC": round(float(auroc(scores[rest], bad[rest]) or 0), 4),
        "false alarms": int((over & ~bad & rest).sum()),
        "good": int((~bad & rest).sum()),
        "misses": int((~over & bad & rest).sum()),
        "defective": int((bad & rest).sum()),
    }


if __name__ == "__main__":
    main()
