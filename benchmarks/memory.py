"""Does memory stay where `--memory` puts it, whatever the number of images? And what does that cost in quality?

    python benchmarks/memory.py [--quick] [--out DIR]

Part 1 fits on a generator of augmented real images (shifted, scaled in brightness, noisy; synthetic ones without the
data) of growing number, each fit in a process of its own, with a budget and without, and records the peak resident
memory. Part 2 fits the real data sets in one chunk and under budgets that make several, and compares the covering
radius (measured over all training patches) and the image AUROC.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from _common import DATA, arguments, save, training_images
from patchbank import Config, PatchCore, Runtime
from patchbank.evaluation.datasets import read_dataset
from patchbank.evaluation.metrics import auroc
from patchbank.imaging.images import read_image
from patchbank.imaging.resize import resize
from patchbank.search.exact import ExactSearcher

SIZE = 96  # pixels: small, so that 50 000 images take minutes
CORESET = 3000
MEMORY = "400MB"


def augmented(n: int) -> Iterator[np.ndarray]:
    """n images, (96, 96, 3) uint8: real ones, shifted, brighter or darker, with noise."""
    rng = np.random.default_rng(0)
    paths = training_images()[:100]
    sources = [resize(read_image(path), (SIZE + 16, SIZE + 16)) for path in paths] or [
        rng.integers(0, 256, (SIZE + 16, SIZE + 16, 3), dtype=np.uint8) for _ in range(20)
    ]
    for _ in range(n):
        y, x = rng.integers(0, 17, 2)
        image = sources[rng.integers(len(sources))][y : y + SIZE, x : x + SIZE].astype(np.float32)
        image = image * rng.uniform(0.8, 1.2) + rng.normal(0, 3, image.shape)
        yield np.clip(image, 0, 255).astype(np.uint8)


def worker(n: int, memory: str) -> None:
    """One fit; prints its peak memory. `none` only imports, loads the network and runs it: the constant."""
    config = Config(image_size=SIZE, coreset_size=CORESET, thumbnail_size=0)
    start = time.perf_counter()
    if memory == "none":
        PatchCore.fit(list(augmented(2)), Config(image_size=SIZE, coreset_size=10))
    else:
        PatchCore.fit(augmented(n), config, runtime=Runtime(memory=memory))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "images": n,
                "memory": memory,
                "peak_rss_mb": round(peak / 1e6),
                "seconds": round(time.perf_counter() - start, 1),
            }
        )
    )


def run(n: int, memory: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", str(n), memory]
    row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(row, flush=True)
    return row


def quality(name: str, budgets: list[str], size: int, most: int | None = None) -> list[dict[str, Any]]:
    """Radius and image AUROC of one data set, in one chunk and under each budget; of `most` training images at most."""
    data = read_dataset(DATA / name)
    train = data.train_paths[:most]
    labels = np.array([sample.defective for sample in data.test])
    whole = PatchCore.fit(train, Config(image_size=size, sampler="identity", calibration="none", thumbnail_size=0))
    rows = []
    for memory in ["auto", *budgets]:
        config = Config(image_size=size, calibration="none", thumbnail_size=0)
        start = time.perf_counter()
        model = PatchCore.fit(train, config, runtime=Runtime(memory=memory))
        fit_s = time.perf_counter() - start
        searcher, vectors = ExactSearcher(model.bank.vectors), whole.bank.vectors
        radius = max(float(searcher.search(vectors[a : a + 4096], 1)[0].max()) for a in range(0, len(vectors), 4096))
        scores = np.array([model.predict(path).score for path in data.test_paths])
        rows.append(
            {
                "set": name,
                "size": size,
                "memory": memory,
                "patches": len(vectors),
                "bank": len(model.bank),
                "covering_radius": radius,
                "stated_bound": model.bank.covering_radius,
                "radius_over_one_shot": radius / rows[0]["covering_radius"] if rows else 1.0,
                "image_auroc": auroc(scores, labels),
                "fit_s": round(fit_s, 1),
            }
        )
        print(rows[-1], flush=True)
    return rows


def plot(rows: list[dict[str, Any]], path: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for memory in sorted({row["memory"] for row in rows} - {"none"}):
        part = [row for row in rows if row["memory"] == memory]
        label = "everything in memory" if memory == "64GB" else f"--memory {memory}"
        axes.plot([row["images"] for row in part], [row["peak_rss_mb"] for row in part], "o-", label=label)
    axes.set(xscale="log", xlabel="training images", ylabel="peak resident memory, MB", ylim=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker(int(sys.argv[2]), sys.argv[3])
        return
    options = arguments(__doc__ or "")
    counts = [300, 3000] if options.quick else [500, 5000, 50_000]
    rows = [run(0, "none"), *(run(n, MEMORY) for n in counts)]
    if not options.quick:
        rows += [run(n, "64GB") for n in counts[:-1]]
    constant = rows[0]["peak_rss_mb"]
    budgeted = [row["peak_rss_mb"] for row in rows if row["memory"] == MEMORY]
    results: dict[str, Any] = {
        "image_size": SIZE,
        "coreset_size": CORESET,
        "constant_mb": constant,
        "budget": MEMORY,
        "memory": rows,
    }
    if options.quick:
        assert max(budgeted) < constant + 400 + 150, budgeted
    elif DATA.is_dir():
        results["quality"] = quality("bottle", ["450MB", "250MB", "150MB"], 320)
    save(options.out, "memory", results)
    plot(rows, options.out / "memory.png")


if __name__ == "__main__":
    main()
