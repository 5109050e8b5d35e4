"""How large would a table be that certifies scores after an image has been removed, without the images?

python benchmarks/rivals.py [--quick] [--out DIR]

A calibration image's score after the removal of any k images is known from its patches' distances to their k + 1
nearest other images, for the patches that could be among its highest then: those whose k + 1st distance exceeds the
image's present cut. Counted are these patches, and those that could shape the peak of its map. Evidence for ADR 0010.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _common import DATA, arguments, save
from patchbank import Config, PatchCore, read_dataset
from patchbank.scoring import scores as maps
from patchbank.search.exact import ExactSearcher

NEIGHBOURS = 64  # vectors; patches with fewer other images among them count as needed


def main() -> None:
    options = arguments(__doc__ or "")
    paths = list(read_dataset(DATA / "bottle").train_paths)
    config = Config(thumbnail_size=0, calibration="none", image_size=128 if options.quick else 384)
    model = PatchCore.fit(paths, config)
    searcher, rows = ExactSearcher(model.bank.vectors), []
    for removed in (1, 2):
        scores, peaks, total = [], [], 0
        for number in range(0, len(paths), 10):
            patches = model._describe(_image(paths[number]))
            total = len(patches.place)
            own = model.bank.image == number
            distances, nearest = searcher.search(patches.features, NEIGHBOURS, exclude=own)
            after = _distance_to_image(distances, model.bank.image[nearest], removed + 1)
            first = distances[:, 0]
            cut = np.sort(first)[-max(1, round(config.top_fraction * total))]
            needed = patches.on_grid(after > cut)
            size, sigma = patches.input_size, config.smoothing_sigma
            heat, worst = (maps.anomaly_map(patches.on_grid(d), size, size, sigma) for d in (first, after))
            reach = int(4 * sigma) + size[0] // patches.grid[0]
            near = cv2.dilate((worst >= heat.max()).astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
            near = cv2.resize(near, needed.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
            scores.append(int(needed.sum()))
            peaks.append(int((needed | near).sum()))
        means = {"for the score": round(float(np.mean(scores))), "and the peak": round(float(np.mean(peaks)))}
        rows.append({"removed images": removed, "patches": total, **means})
        print(rows[-1])
    save(options.out, "rivals", {"set": "bottle", "rows": rows})


def _image(path: Path) -> np.ndarray:
    from patchbank.imaging.images import read_image

    return read_image(path)


def _distance_to_image(distances: np.ndarray, images: np.ndarray, wanted: int) -> np.ndarray:
    """(n, k) ascending distances to vectors of (n, k) images -> (n,) distance to the `wanted`-th nearest image."""
    result = np.full(len(distances), np.inf, np.float32)
    for row, (values, owners) in enumerate(zip(distances, images, strict=True)):
        _, first = np.unique(owners, return_index=True)
        if len(first) >= wanted:
            result[row] = values[np.sort(first)[wanted - 1]]
    return np.where(np.isfinite(result), result, distances[:, -1])


if __name__ == "__main__":
    main()
