"""Is a coreset that was made of chunks as good as one made in one go?

    python benchmarks/chunks.py [--quick] [--out DIR]

Fits each data set in one chunk and under a memory budget that makes several, and compares the covering radius, measured
over all training patches, and the image AUROC; and the image AUROC of both again with other seeds, which move it more
than chunks do. `--quick` takes few images of one set, and one other seed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from _common import DATA, arguments, save
from memory import quality
from patchbank import Config, PatchCore, Runtime
from patchbank.evaluation.datasets import read_dataset
from patchbank.evaluation.metrics import auroc

SIZE, BUDGET, MOST_IMAGES, SEEDS = 320, "250MB", 300, (1, 2, 3, 4)


def with_seed(name: str, seed: int, memory: str, size: int, most: int) -> dict[str, Any]:
    """The image AUROC within a budget, with another seed than the default's 0."""
    data = read_dataset(DATA / name)
    config = Config(image_size=size, calibration="none", thumbnail_size=0, seed=seed)
    model = PatchCore.fit(data.train_paths[:most], config, runtime=Runtime(memory=memory))
    scores = np.array([result.score for result in model.predict(data.test_paths)])
    labels = np.array([sample.defective for sample in data.test])
    row = {"set": name, "memory": memory, "seed": seed, "image_auroc": auroc(scores, labels)}
    print(row, flush=True)
    return row


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5))
    names = list(dict.fromkeys(row["set"] for row in rows))
    for shift, one_shot in ((-0.2, True), (0.2, False)):
        some = [row for row in rows if (row["memory"] == "auto") == one_shot]
        label = "in one chunk" if one_shot else f"--memory {BUDGET}"
        axes.bar([i + shift for i in range(len(some))], [row["covering_radius"] for row in some], 0.4, label=label)
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="covering radius")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    options = arguments(__doc__ or "")
    sets = [name for name in ("bottle", "screw", "mtd") if (DATA / name).is_dir()]
    if not sets:
        print(f"no data sets in {DATA}", file=sys.stderr)
        return 0
    few = (["bottle"], 256, 40) if options.quick else (sets, SIZE, MOST_IMAGES)
    others = SEEDS[:1] if options.quick else SEEDS
    rows: list[dict[str, Any]] = []
    seeds: list[dict[str, Any]] = []
    for name in few[0]:
        rows += quality(name, [BUDGET], *few[1:])
        seeds += [with_seed(name, seed, memory, *few[1:]) for seed in others for memory in ("auto", BUDGET)]
        save(options.out, "chunks", {"training_images_at_most": few[2], "quality": rows, "seeds": seeds})
    plot(rows, options.out / "chunks.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
