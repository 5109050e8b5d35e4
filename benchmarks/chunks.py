"""Is a coreset that was made of chunks as good as one made in one go?

    python benchmarks/chunks.py [--quick] [--out DIR]

Fits each data set in one chunk and under a memory budget that makes several, and compares the covering radius, measured
over all training patches, and the image AUROC. `--quick` takes few images of one set.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from _common import DATA, arguments, save
from memory import quality

SIZE, BUDGET, MOST_IMAGES = 320, "250MB", 300


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
    rows: list[dict[str, Any]] = []
    for name in few[0]:
        rows += quality(name, [BUDGET], *few[1:])
        save(options.out, "chunks", {"training_images_at_most": few[2], "quality": rows})
    plot(rows, options.out / "chunks.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
