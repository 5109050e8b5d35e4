"""Exported graphs: do they say what the library says, how long do they take, and what does a smaller bank cost?

    python benchmarks/export.py [--quick] [--out DIR] [--sets bottle screw]

Each set's model is fitted with the defaults, exported, and run on test images beside the library, in the same
process. Then the bank is thinned, and calibrated again or not. Times are processor times of one image, the least of
some rounds in turn, with one thread each, so that other work on the machine matters little. --quick fails where a
verdict differs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from _common import DATA, arguments, save
from patchbank import Config, PatchCore, Runtime, auroc
from patchbank.export.onnx_graph import inspection_graph, plan_for
from patchbank.export.reference import GraphRunner, Inspected, said
from patchbank.export.thinning import recalibrated, thinned
from patchbank.imaging.images import read_image
from patchbank.util.progress import silent

TRAIN, EACH = 120, 2  # training images, and every second test image: enough for what is asked here
SIZES = (4000, 2000, 1000)
ROUNDS = 5
NG = 2


def milliseconds(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The least processor time of each call, in turn."""
    least = dict.fromkeys(calls, np.inf)
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.process_time()
            call()
            least[name] = min(least[name], 1000 * (time.process_time() - start))
    return {name: round(value, 1) for name, value in least.items()}


def differences(pairs: list[tuple[Inspected, Inspected]]) -> dict[str, Any]:
    """How far what a graph says is from what the library says."""
    return {
        "images": len(pairs),
        "same_verdicts": sum(a.verdict == b.verdict for a, b in pairs),
        "score": max(abs(a.score - b.score) / b.score for a, b in pairs),
        "map": max(float(np.abs(a.anomaly_map - b.anomaly_map).max() / b.anomaly_map.max()) for a, b in pairs),
    }


def row_for(
    name: str,
    model: PatchCore,
    whole: list[Inspected] | None,
    images: list[Any],
    labels: list[bool],
    recalibrated_: bool = False,
) -> Any:
    """One export against the library; whole: what the graph with the whole bank said. Returns what this one said, and
    the row."""
    plan = plan_for(model, images[0].shape[:2])
    onnx = inspection_graph(model, plan, {})
    run = GraphRunner(onnx, model)
    found = [run(image) for image in images]
    before = whole or found
    good = [number for number, label in enumerate(labels) if not label]
    rises = [found[n].score / before[n].score - 1 for n in good]
    times = milliseconds({"graph": lambda: run(images[0]), "library": lambda: model.predict(images[0]).anomaly_map})
    return found, {
        "set": name,
        "bank": len(model.bank),
        "size": list(plan.size),
        "mb": round(len(onnx) / 1e6, 1),
        **differences(list(zip(found, [said(model.predict(image)) for image in images], strict=True))),
        "ms": times,
        "auroc": auroc(np.array([each.score for each in found]), np.array(labels)),
        "recalibrated": recalibrated_,
        "good_rise": float(np.median(rises)),
        "good_ng": sum(found[n].verdict == NG for n in good) / len(good),
        "bad_ng": sum(found[n].verdict == NG for n, label in enumerate(labels) if label) / sum(labels),
    }


def main() -> int:
    options = arguments(__doc__.splitlines()[0], sets=("bottle", "screw"))
    rows = []
    for name in options.sets:
        root = DATA / name
        if not root.is_dir():
            print(f"{name}: no images at hand")
            continue
        train = sorted((root / "train" / "good").iterdir())[: 40 if options.quick else TRAIN]
        tests = sorted(path for kind in (root / "test").iterdir() for path in kind.iterdir())
        tests = tests[:: 10 if options.quick else EACH]
        config = Config(image_size=(224,), coreset_size=2000) if options.quick else Config()
        model = PatchCore.fit(train, config, runtime=Runtime(threads=1))
        images, labels = [read_image(path) for path in tests], [Path(path).parent.name != "good" for path in tests]
        whole, row = row_for(name, model, None, images, labels)
        rows.append(row)
        sizes = SIZES[-1:] if options.quick else SIZES
        for size in sizes:
            smaller = thinned(model, size)
            again = recalibrated(model, smaller, dict(zip(model.bank.images, train, strict=True)), silent)
            rows.append(row_for(name, smaller, whole, images, labels)[1])
            rows.append(row_for(name, again, whole, images, labels, recalibrated_=True)[1])
        for each in rows:
            print({key: value for key, value in each.items() if key != "size"}, flush=True)
    save(options.out, "export", {"rows": rows})
    return 0 if all(row["same_verdicts"] == row["images"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
