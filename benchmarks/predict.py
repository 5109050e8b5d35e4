"""What does a whole prediction cost beside decoding, resizing and the network, which nothing can avoid?

    python benchmarks/predict.py [--quick] [--out DIR]

For each data set and bank size, on the same test files, in turn, in one process:

- one image at a time, file to result (verdict, map and regions), by stage, against reading and resizing the same file
  and running the network on it; and the same with faiss' flat index as the search;
- a stream of images, against a stream of reading, resizing and running the network;
- once: the time from the start of `patchbank predict` to its first line of JSON, byte code being cached.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from _common import DATA, arguments, save
from patchbank import Config, PatchCore
from patchbank.features.extract import layer_maps
from patchbank.imaging.images import input_size, read_image, resize
from patchbank.util.parallel import in_order, workers

TRAIN, TEST = 60, 3  # training images; test images of each kind
QUICK_RATIO = 3.0  # on a busy machine, and with a small image, of which the network takes little
QUICK_COLD_S = 30.0  # a start that hangs


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


def images(name: str, folder: Path) -> tuple[list[Path], list[Path]]:
    """Some training files of a data set, and test files of each kind of defect; noise for 'synthetic'."""
    if name != "synthetic":
        kinds = sorted((DATA / name / "test").iterdir())
        train = sorted((DATA / name / "train/good").iterdir())
        return train[:: max(1, len(train) // TRAIN)][:TRAIN], [p for k in kinds for p in sorted(k.iterdir())[:TEST]]
    import cv2

    rng = np.random.default_rng(0)
    for number in range(60):
        noise = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:02d}.jpg"), cv2.blur(noise, (9, 9)))
    paths = sorted(folder.iterdir())
    return paths[:40], paths[40:]


def unavoidable(model: PatchCore, path: Path) -> None:
    """Reads a file, resizes it, runs the network."""
    config = model.config
    image = read_image(path, config.image_format)
    image = resize(image, input_size(config.image_size, image.shape, config.tile_size, model.backbone.info.side_step))
    layer_maps(image, model.backbone, config.tile_size, config.tile_overlap)


def whole(model: PatchCore, path: Path) -> dict[str, float]:
    """Inspects a file, with its map and regions. Returns the stages' seconds."""
    result = model.predict(path)
    _ = result.anomaly_map
    start = time.perf_counter()
    _ = result.regions
    return {**result.timings, "regions": time.perf_counter() - start}


def clocked(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Milliseconds of wall time and of processor time, and what the call returns."""
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor), result


def measure(name: str, model: PatchCore, paths: list[Path], rounds: int) -> dict[str, Any]:
    faiss = dataclasses.replace(model, searcher=FaissFlat(model.bank.vectors))
    ways: dict[str, Callable[[Path], Any]] = {
        "alone": lambda path: unavoidable(model, path),
        "whole": lambda path: whole(model, path),
        "faiss": lambda path: whole(faiss, path),
    }
    for way in ways.values():
        way(paths[0])
    # each image's best of several rounds: what the machine can do, whatever else runs on it
    walls = {way: np.full(len(paths), np.inf) for way in ways}
    processors = {way: np.full(len(paths), np.inf) for way in ways}
    stages: list[dict[str, float]] = [{} for _ in paths]
    for _ in range(rounds):
        for number, path in enumerate(paths):  # in turn, so that a slow spell of the machine meets all of them
            for way, call in ways.items():
                wall, processor, result = clocked(lambda call=call, path=path: call(path))
                walls[way][number] = min(walls[way][number], wall)
                processors[way][number] = min(processors[way][number], processor)
                if way == "whole":
                    best = stages[number]
                    stages[number] = {stage: min(best.get(stage, np.inf), s) for stage, s in result.items()}
    streams = {"alone": [], "whole": []}
    for _ in range(rounds):
        streams["alone"].append(clocked(lambda: list(in_order(lambda p: unavoidable(model, p), paths)))[0])
        streams["whole"].append(
            clocked(lambda: [(r.anomaly_map.shape, r.regions) for r in model.predict(iter(paths))])[0]
        )
    median = {way: float(np.median(values)) for way, values in walls.items()}
    stream = {way: min(values) / len(paths) for way, values in streams.items()}

    def ratio(of: dict[str, Any], way: str) -> float:
        return round(float(np.median(of[way] / of["alone"])), 3)

    row = {
        "set": name,
        "bank": len(model.bank),
        "patches": int(np.prod(model.predict(paths[0]).patch_scores.shape)),
        "unavoidable_ms": round(median["alone"], 2),
        "whole_ms": round(median["whole"], 2),
        "ratio": ratio(walls, "whole"),
        "processor_ratio": ratio(processors, "whole"),
        "with_faiss_flat_ms": round(median["faiss"], 2),
        "ratio_with_faiss_flat": ratio(walls, "faiss"),
        "stream_unavoidable_ms": round(stream["alone"], 2),
        "stream_ms": round(stream["whole"], 2),
        "stream_ratio": round(stream["whole"] / stream["alone"], 3),
        "stages_ms": {stage: round(1e3 * float(np.median([s[stage] for s in stages])), 3) for stage in stages[0]},
    }
    print(row, flush=True)
    return row


def cold_start(model: PatchCore, path: Path, runs: int) -> float:
    """The least seconds from starting the command to its first line of JSON, with byte code of an earlier run."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.patchbank"
        model.save(file)
        command = [sys.executable, "-m", "patchbank", "predict", str(file), str(path), "--json"]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "byte code")
        for _ in range(runs + 1):
            start = time.perf_counter()
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
                assert process.stdout is not None
                assert process.stdout.readline().startswith("{")
                seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.5 * len(rows) + 2))
    names = [f"{row['set']}, {row['bank']:,}" for row in rows]
    left = np.zeros(len(rows))
    for stage in rows[0]["stages_ms"]:
        widths = np.array([row["stages_ms"][stage] for row in rows])
        axes.barh(names, widths, left=left, label=stage)
        left += widths
    axes.plot([1.3 * row["unavoidable_ms"] for row in rows], names, "k|", markersize=14, label="1.3 x unavoidable")
    axes.set(xlabel="milliseconds an image", ylabel="data set, bank vectors")
    axes.legend(ncols=4, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    options = arguments(__doc__ or "")
    sets = [name for name in ("bottle", "screw", "mtd") if (DATA / name).is_dir()]
    if options.quick or not sets:
        sets = ["synthetic"]
    sizes = [(name, size) for size in ((1000,) if options.quick else (1000, 5000, 30_000)) for name in sets]
    rows, cold = [], 0.0
    for name, size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            train, test = images(name, Path(folder))
            config = Config(coreset_size=size, sampler="random") if options.quick else Config(coreset_size=size)
            model = PatchCore.fit(train, dataclasses.replace(config, calibration="holdout"))
            rows.append(measure(name, model, test[:12] if options.quick else test, 2 if options.quick else 3))
            if not cold:
                cold = cold_start(model, test[0], 2 if options.quick else 9)
                print(f"cold start to the first line: {cold:.2f} s", flush=True)
        results = {"image_size": Config().image_size[0], "rows": rows, "cold_start_s": round(cold, 3)}
        save(options.out, "predict", results)  # after each row: the largest banks take long to make
    plot(rows, options.out / "predict.png")
    if options.quick and (rows[0]["ratio"] > QUICK_RATIO or cold > QUICK_COLD_S):
        print(f"slow: {rows[0]}, cold start {cold:.2f} s", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
