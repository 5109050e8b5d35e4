"""Fit end to end: seconds by stage, against the same fit with the textbook coreset loop.

    python benchmarks/fit.py [--quick] [--out DIR]

The textbook loop passes over all patches at every pick (a product of matrices with NumPy's BLAS on all processors), so
its time is measured on the first picks, over as many points as the fit had patches, and scaled to all picks.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from _common import DATA, arguments, clustered, save
from patchbank import Config, PatchCore
from patchbank.bank.coreset import project

QUICK_SPEEDUP = 0.5  # 41 000 points fit the cache, where the textbook loop is as fast: the smoke only finds a breakdown
MOST_IMAGES = 300
STAGES = ("embed", "coreset", "calibrate")


def textbook_seconds(points: np.ndarray, m: int, picks: int) -> float:
    """Seconds for m picks, from the first few: one product of all points with the new centre at each pick."""
    squares = np.einsum("ij,ij->i", points, points)
    distances, choice = np.full(len(points), np.inf, np.float32), 0
    passes = []
    for _ in range(picks):
        start = time.perf_counter()
        np.minimum(distances, squares - 2 * (points @ points[choice]) + squares[choice], out=distances)
        choice = int(distances.argmax())
        passes.append(time.perf_counter() - start)
    return float(np.median(passes)) * m


def fit(name: str, images: list[Any], config: Config) -> dict[str, Any]:
    """Fits, timing each stage by its progress reports."""
    times: dict[str, list[float]] = {}

    def progress(stage: str, done: int, total: int) -> None:  # noqa: ARG001  (the protocol)
        now = time.perf_counter()
        times.setdefault(stage, [now, now])[1] = now

    start = time.perf_counter()
    model = PatchCore.fit(images, config, progress=progress)
    whole = time.perf_counter() - start
    stages = {f"{stage}_s": round(last - first, 2) for stage, (first, last) in times.items()}
    patches = len(images) * model.predict(images[0]).patch_scores.size
    points = project(clustered(patches, 152), config.projection_dim, np.random.default_rng(0))
    textbook = textbook_seconds(points, len(model.bank), 20)
    row = {
        "set": name,
        "images": len(images),
        "patches": patches,
        "bank": len(model.bank),
        "fit_s": round(whole, 2),
        **stages,
        "other_s": round(whole - sum(stages.values()), 2),
        "textbook_coreset_s": round(textbook, 2),
        "with_textbook_coreset_s": round(whole - stages["coreset_s"] + textbook, 2),
        "images_a_second": round(len(images) / whole, 1),
    }
    print(row, flush=True)
    return row


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 0.9 * len(rows) + 1.5))
    names = [f"{row['set']}, {way}" for row in rows for way in ("patchbank", "textbook coreset")]
    left = np.zeros(len(names))
    for stage in (*STAGES, "other"):
        widths = np.array([[row.get(f"{stage}_s", 0.0)] * 2 for row in rows])
        if stage == "coreset":
            widths[:, 1] = [row["textbook_coreset_s"] for row in rows]
        axes.barh(names, widths.ravel(), left=left, label=stage)
        left += widths.ravel()
    axes.invert_yaxis()
    axes.set(xlabel="seconds")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    options = arguments(__doc__ or "")
    sets = [name for name in ("bottle", "screw", "mtd") if (DATA / name).is_dir()]
    if options.quick or not sets:
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(40)]
        rows = [fit("noise", images, Config(image_size=256))]
    else:
        rows = [fit(name, sorted((DATA / name / "train/good").iterdir())[:MOST_IMAGES], Config()) for name in sets]
    save(options.out, "fit", {"image_size": Config().image_size[0], "rows": rows})
    plot(rows, options.out / "fit.png")
    if options.quick and rows[0]["with_textbook_coreset_s"] < QUICK_SPEEDUP * rows[0]["fit_s"]:
        print(f"slower than with the textbook loop: {rows[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
