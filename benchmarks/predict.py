"""What does a whole prediction cost beside decoding and the network alone, which nothing can avoid?

    python benchmarks/predict.py [--quick] [--out DIR]

For each bank size: the stages' median milliseconds, file to result (verdict, map and regions), against reading the file
and running the network on the prepared input, in turn on the same files in the same process; the same with faiss' flat
index as the search; and the time from the start of `patchbank predict` to its first JSON line.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from _common import DATA, arguments, save
from patchbank import Config, PatchCore
from patchbank.images import normalise, read_image, resize
from patchbank.parallel import workers


class FaissFlat:
    """The baseline: faiss' exact index, with as many threads as we use."""

    def __init__(self, vectors: np.ndarray) -> None:
        import faiss

        faiss.omp_set_num_threads(workers())
        self._index = faiss.IndexFlatL2(vectors.shape[1])
        self._index.add(vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        squared, indices = self._index.search(np.ascontiguousarray(queries), k)
        return np.sqrt(np.maximum(squared, 0)), indices


def images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Training and test files: bottle where it is at hand, noise where it is not."""
    bottle = DATA / "bottle"
    if bottle.is_dir():
        return sorted((bottle / "train/good").iterdir()), sorted((bottle / "test").glob("*/*"))
    import cv2

    rng = np.random.default_rng(0)
    for number in range(60):
        cv2.imwrite(
            str(folder / f"{number:02d}.jpg"), cv2.blur(rng.integers(0, 256, (512, 512, 3), dtype=np.uint8), (9, 9))
        )
    paths = sorted(folder.iterdir())
    return paths[:40], paths[40:]


def unavoidable(model: PatchCore, path: Path) -> float:
    """Milliseconds to read the file and to run the network on an input that is ready."""
    start = time.perf_counter()
    image = read_image(path)
    read = time.perf_counter() - start
    info = model.backbone.info
    batch = normalise(resize(image, model.config.image_size), info.mean, info.std)
    start = time.perf_counter()
    model.backbone.features(batch)
    return 1000 * (read + time.perf_counter() - start)


def whole(model: PatchCore, path: Path) -> tuple[float, dict[str, float]]:
    """Milliseconds from file to result, with its map and regions."""
    start = time.perf_counter()
    result = model.predict(path)
    _ = result.anomaly_map, result.regions
    return 1000 * (time.perf_counter() - start), result.timings


def measure(model: PatchCore, paths: list[Path]) -> dict[str, Any]:
    faiss = dataclasses.replace(model, searcher=FaissFlat(model.bank.vectors))
    alone, ours, theirs, stages = [], [], [], []
    for path in paths:  # in turn, so that a slow spell of the machine meets all of them
        alone.append(unavoidable(model, path))
        milliseconds, timings = whole(model, path)
        ours.append(milliseconds)
        stages.append(timings)
        theirs.append(whole(faiss, path)[0])
    start = time.perf_counter()
    count = sum(bool(result.regions) or True for result in model.predict(iter(paths)))
    stream = (time.perf_counter() - start) / count
    return {
        "bank": len(model.bank),
        "decode_and_backbone_ms": round(float(np.median(alone)), 2),
        "whole_ms": round(float(np.median(ours)), 2),
        "ratio": round(float(np.median(np.array(ours) / np.array(alone))), 3),
        "with_faiss_flat_ms": round(float(np.median(theirs)), 2),
        "ratio_with_faiss_flat": round(float(np.median(np.array(theirs) / np.array(alone))), 3),
        "stream_ms_per_image": round(1000 * stream, 2),
        "stages_ms": {name: round(1000 * float(np.median([s[name] for s in stages])), 3) for name in stages[0]},
    }


def cold_start(model: PatchCore, path: Path, runs: int) -> float:
    """Median seconds from starting the command to its first line of JSON."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.patchbank"
        model.save(file)
        command = [sys.executable, "-m", "patchbank", "predict", str(file), str(path), "--json"]
        for _ in range(runs):
            start = time.perf_counter()
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                assert process.stdout.readline().startswith("{")
                seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    left = np.zeros(len(rows))
    for stage in rows[0]["stages_ms"]:
        widths = np.array([row["stages_ms"][stage] for row in rows])
        axes.barh([f"{row['bank']:,}" for row in rows], widths, left=left, label=stage)
        left += widths
    axes.set(xlabel="median milliseconds an image", ylabel="bank vectors")
    axes.legend(ncols=4, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    options = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        train, test = images(Path(folder))
        sizes = [1000] if options.quick else [1000, 4815, 10_000, 30_000]
        rows, cold = [], 0.0
        for size in sizes:
            config = Config(
                coreset_size=size, calibration="holdout", sampler="random" if options.quick else "approx_greedy_coreset"
            )
            model = PatchCore.fit(train[:40] if options.quick else train, config)
            rows.append(measure(model, test[:12] if options.quick else test[:60]))
            print(rows[-1], flush=True)
            if size == sizes[min(1, len(sizes) - 1)]:
                cold = cold_start(model, test[0], 3 if options.quick else 7)
                print(f"cold start to the first line: {cold:.2f} s", flush=True)
    if options.quick:
        assert rows[0]["ratio"] < 2.5, rows
    save(options.out, "predict", {"image_size": Config().image_size[0], "rows": rows, "cold_start_s": round(cold, 3)})
    plot(rows, options.out / "predict.png")


if __name__ == "__main__":
    main()
