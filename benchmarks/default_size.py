"""Which input size and image score should be the default? Evidence for docs/adr/0005-defaults.md.

    python benchmarks/default_size.py ROOT [--sizes 256 320 384 448] [--out benchmarks/results]

Fits each MVTec-style category under ROOT (bottle, screw, mtd) and ELPV (if `patchbank[demo]` is installed) at each
size with the other options at their defaults, and writes image AUROC for each image score, pixel AUROC, and
milliseconds an image. The settings are compared on all sets, and one is chosen for all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from patchbank import Config, PatchCore
from patchbank.evaluation.datasets import read_dataset
from patchbank.evaluation.metrics import PixelMetrics, auroc
from patchbank.imaging.images import read_image
from patchbank.scoring.scores import top_fraction_mean

SCORES = ("max", "top 0.3 %", "top 1 %", "top 3 %", "smoothed max", "reweighted")


def elpv() -> tuple[list, list, np.ndarray]:
    """Functional cells: 80 % train (seed 0), 20 % test with the cells of defect probability 1."""
    from elpv_dataset.utils import load_dataset

    images, probability, _ = load_dataset()
    good = np.random.default_rng(0).permutation(np.flatnonzero(probability == 0))
    cut = int(0.8 * len(good))
    test = [*good[cut:], *np.flatnonzero(probability == 1)]
    return [images[i] for i in good[:cut]], [images[i] for i in test], probability[test] == 1


def measure(train: list, test: list, labels: np.ndarray, masks: list, size: int) -> dict:
    """Fits and scores one set at one size."""
    start = time.perf_counter()
    model = PatchCore.fit(
        train, Config(image_size=size, calibration="none", thumbnail_size=0, image_score="reweighted")
    )
    fit_s = time.perf_counter() - start
    scores: dict[str, list[float]] = {name: [] for name in SCORES}
    pixels, milliseconds = PixelMetrics(), []
    for image, mask in zip(test, masks, strict=True):
        start = time.perf_counter()
        result = model.predict(image)
        milliseconds.append(1000 * (time.perf_counter() - start))
        patch = result.patch_scores.ravel()
        values = [
            patch.max(),
            *(top_fraction_mean(patch, f) for f in (0.003, 0.01, 0.03)),
            result.anomaly_map.max(),
            result.score,
        ]
        for name, value in zip(SCORES, values, strict=True):
            scores[name].append(float(value))
        if mask is not None:
            pixels.update(result.anomaly_map, mask(result.image_size))
    row: dict = {f"image AUROC, {name}": round(auroc(np.array(s), labels), 5) for name, s in scores.items()}
    if any(mask is not None for mask in masks):
        found = pixels.result()
        row |= {"pixel AUROC": round(found.auroc, 5), "AUPRO": round(found.aupro, 5)}
    return row | {
        "fit s": round(fit_s, 1),
        "ms an image": round(float(np.median(milliseconds)), 1),
        "bank": len(model.bank),
    }


def mvtec_like(folder: Path) -> tuple[list, list, np.ndarray, list]:
    """Images, labels and mask readers of one category."""
    data = read_dataset(folder)

    def reader(path):
        if path is None:
            return lambda shape: np.zeros(shape, bool)
        return lambda _: read_image(path)[:, :, 0] > 127

    labels = np.array([sample.defective for sample in data.test])
    return list(data.train_paths), list(data.test_paths), labels, [reader(sample.mask) for sample in data.test]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 320, 384])
    parser.add_argument("--sets", nargs="+", default=["bottle", "screw", "mtd", "elpv"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / "default_size.json"
    rows = json.loads(target.read_text())["rows"] if target.exists() else []
    for name in arguments.sets:
        if name == "elpv":
            train, test, labels = elpv()
            masks = [None] * len(test)
        else:
            train, test, labels, masks = mvtec_like(arguments.root / name)
        for size in arguments.sizes:
            row = {"set": name, "size": size, **measure(train, test, labels, masks, size)}
            print(row, flush=True)
            rows = [r for r in rows if (r["set"], r["size"]) != (name, size)] + [row]
            target.write_text(json.dumps({"script": "benchmarks/default_size.py", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
