"""Fit end to end: seconds by stage, against the same fit with the textbook coreset loop.

    python benchmarks/fit.py [--quick] [--out DIR]

The textbook loop passes over all patches at every pick, so its time is measured on the first picks and scaled to all of
them.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from _common import DATA, arguments, clustered, save
from patchbank import Config, PatchCore
from patchbank.coreset import project


def textbook_seconds(points: np.ndarray, m: int, picks: int) -> float:
    """Seconds for m picks, from the first few: one product of all points with the new centre at each pick."""
    squares = np.einsum("ij,ij->i", points, points)
    distances, choice = np.full(len(points), np.inf, np.float32), 0
    start = time.perf_counter()
    for _ in range(picks):
        np.minimum(distances, squares - 2 * (points @ points[choice]) + squares[choice], out=distances)
        choice = int(distances.argmax())
    return (time.perf_counter() - start) * m / picks


def fit(paths: list[Any], config: Config) -> dict[str, Any]:
    """Fits, timing each stage by its progress reports."""
    times: dict[str, list[float]] = {}

    def progress(stage: str, done: int, total: int) -> None:  # noqa: ARG001  (the protocol)
        now = time.perf_counter()
        times.setdefault(stage, [now, now])[1] = now

    start = time.perf_counter()
    model = PatchCore.fit(paths, config, progress=progress)
    whole = time.perf_counter() - start
    stages = {f"{stage}_s": round(last - first, 2) for stage, (first, last) in times.items()}
    return {"images": len(paths), "bank": len(model.bank), "fit_s": round(whole, 2), **stages}


def main() -> None:
    options = arguments(__doc__ or "")
    rows = []
    sets = ["bottle", "screw", "mtd"] if DATA.is_dir() else []
    if options.quick or not sets:
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(40)]
        rows.append({"set": "noise", **fit(images, Config(image_size=128))})
    else:
        for name in sets:
            rows.append({"set": name, **fit(sorted((DATA / name / "train/good").iterdir()), Config())})
            print(rows[-1], flush=True)
    side = Config().image_size[0] // 8
    for row in rows:
        n = row["images"] * (side * side if row["set"] != "noise" else 256)
        points = project(clustered(min(n, 300_000), 152), Config().projection_dim, np.random.default_rng(0))
        per_point = textbook_seconds(points, row["bank"], 20) / len(points)  # one pass costs the same for each point
        row["textbook_coreset_s"] = round(per_point * n, 1)
        row["with_textbook_coreset_s"] = round(row["fit_s"] - row.get("coreset_s", 0) + row["textbook_coreset_s"], 1)
    save(options.out, "fit", {"image_size": Config().image_size[0], "rows": rows})


if __name__ == "__main__":
    main()
