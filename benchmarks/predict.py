"""What does a whole prediction cost beside decoding, resizing and the float network?

    python benchmarks/predict.py [--quick] [--sets SET ...] [--out DIR]

For each data set and bank size, on the same test files, in turn, in one process: one image at a time, file to result
(verdict, map and regions), by stage, and a stream of images. The files come in three kinds: as the data set has them
(the sets at hand are reduced JPEGs), and at the size of originals (900 pixels a side, with a camera's noise) as PNG and
as JPEG. The baseline is the same for all: reading and resizing the same file, and running the network in float32. What
is measured against it:

- a model whose network is in float32, and one whose network is in int8;
- the float32 model with faiss' flat index as the search;
- once: the time from the start of `patchbank predict` to its first line of JSON, byte code being cached.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from _common import DATA, arguments, original, save
from patchbank import Config, PatchCore
from patchbank.features.extract import layer_maps
from patchbank.imaging.images import input_size, read_image
from patchbank.imaging.resize import resize
from patchbank.util.parallel import in_order, workers

TRAIN, TEST = 60, 3  # training images; test images of each kind
SIDE = 900  # of originals
ORIGINALS = {".png": "PNG", ".jpg": "JPEG"}
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


Files = tuple[list[Path], list[Path]]  # to train on, to test on


def kinds_of_files(name: str, found: Files, folder: Path) -> Iterator[tuple[str, Files]]:
    """The files, and the same at the size of originals. Magnetic tiles are originals as they are."""
    yield "as they are", found
    for suffix, kind in ORIGINALS.items() if name != "mtd" else ():
        large: Files = ([], [])
        for paths, files in zip(found, large, strict=True):
            for path in paths:
                files.append(folder / f"{path.parent.name} {path.stem} {SIDE}{suffix}")
                files[-1].write_bytes(original(path, SIDE, suffix))
        yield f"{kind}, {SIDE} px", large


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


def measure(name: str, files: str, models: dict[str, PatchCore], paths: list[Path], rounds: int) -> dict[str, Any]:
    """One row. models: by precision; the float32 one is the baseline's, too."""
    model = models["float32"]
    faiss = dataclasses.replace(model, searcher=FaissFlat(model.bank.vectors))
    ways: dict[str, Callable[[Path], Any]] = {
        "alone": lambda path: unavoidable(model, path),
        **{precision: lambda path, one=one: whole(one, path) for precision, one in models.items()},
        "faiss": lambda path: whole(faiss, path),
    }
    for way in ways.values():
        way(paths[0])
    # each image's best of several rounds: what the machine can do, whatever else runs on it
    walls = {way: np.full(len(paths), np.inf) for way in ways}
    processors = {way: np.full(len(paths), np.inf) for way in ways}
    stages: dict[str, list[dict[str, float]]] = {precision: [{} for _ in paths] for precision in models}
    for _ in range(rounds):
        for number, path in enumerate(paths):  # in turn, so that a slow spell of the machine meets all of them
            for way, call in ways.items():
                wall, processor, result = clocked(lambda call=call, path=path: call(path))
                walls[way][number] = min(walls[way][number], wall)
                processors[way][number] = min(processors[way][number], processor)
                if way in stages:
                    best = stages[way][number]
                    stages[way][number] = {stage: min(best.get(stage, np.inf), s) for stage, s in result.items()}
    streams = streamed(models, paths, rounds)

    def ratio(of: dict[str, Any], way: str) -> float:
        return round(float(np.median(of[way] / of["alone"])), 3)

    def cost(precision: str) -> dict[str, Any]:
        found = stages[precision]
        return {
            "ms": round(float(np.median(walls[precision])), 2),
            "ratio": ratio(walls, precision),
            "processor_ratio": ratio(processors, precision),
            "stream_ms": round(streams[precision], 2),
            "stream_ratio": round(streams[precision] / streams["alone"], 3),
            "stages_ms": {stage: round(1e3 * float(np.median([s[stage] for s in found])), 3) for stage in found[0]},
        }

    row = {
        "set": name,
        "files": files,
        "bank": len(model.bank),
        "patches": int(np.prod(model.predict(paths[0]).patch_scores.shape)),
        "unavoidable_ms": round(float(np.median(walls["alone"])), 2),
        "stream_unavoidable_ms": round(streams["alone"], 2),
        "ratio_with_faiss_flat": ratio(walls, "faiss"),
        "models": {precision: cost(precision) for precision in models},
    }
    print(row, flush=True)
    return row


def streamed(models: dict[str, PatchCore], paths: list[Path], rounds: int) -> dict[str, float]:
    """Milliseconds an image of a stream, each way's best of several rounds, in turn."""
    ways: dict[str, Callable[[], Any]] = {
        "alone": lambda: list(in_order(lambda path: unavoidable(models["float32"], path), paths)),
        **{
            precision: lambda model=model: [(r.anomaly_map.shape, r.regions) for r in model.predict(iter(paths))]
            for precision, model in models.items()
        },
    }
    found = dict.fromkeys(ways, np.inf)
    for _ in range(rounds):
        for way, call in ways.items():
            found[way] = min(found[way], clocked(call)[0] / len(paths))
    return found


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

    bars = [(row, precision) for row in rows for precision in row["models"]]
    figure, axes = plt.subplots(figsize=(9, 0.4 * len(bars) + 2))
    names = [f"{row['set']}, {row['files']}, {row['bank']:,}, {precision}" for row, precision in bars]
    left = np.zeros(len(bars))
    for stage in rows[0]["models"]["float32"]["stages_ms"]:
        widths = np.array([row["models"][precision]["stages_ms"][stage] for row, precision in bars])
        axes.barh(names, widths, left=left, label=stage)
        left += widths
    needed = [row["unavoidable_ms"] for row, _ in bars]
    axes.plot(needed, names, "k|", markersize=14, markeredgewidth=2, label="decode, resize, float network")
    axes.set(xlabel="milliseconds an image", ylabel="data set, files, bank vectors, precision")
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.legend(ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def fitted(train: list[Path], size: int | None, quick: bool) -> dict[str, PatchCore]:
    """A model for each precision. size: of the bank, None = the default."""
    config = Config(coreset_size=size, calibration="holdout", sampler="random" if quick else Config().sampler)
    return {
        precision: PatchCore.fit(train, dataclasses.replace(config, precision=precision))
        for precision in ("float32", "int8")
    }


def main() -> int:
    options = arguments(__doc__ or "", ("bottle", "screw", "mtd"))
    sets = [name for name in options.sets if (DATA / name).is_dir()]
    if options.quick or not sets:
        sets = ["synthetic"]
    sizes = [(name, size) for size in ((1000,) if options.quick else (1000, None)) for name in sets]
    rows, cold, rounds = [], 0.0, 2 if options.quick else 3
    for name, size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            train, test = images(name, Path(folder))
            found = (train[:12], test[:6]) if options.quick else (train, test)
            for kind, (train, test) in kinds_of_files(name, found, Path(folder)):
                if options.quick and not kind.startswith("PNG"):
                    continue
                models = fitted(train, size, options.quick)
                rows.append(measure(name, kind, models, test, rounds))
            if not cold:
                cold = cold_start(models["float32"], test[0], 2 if options.quick else 9)
                print(f"cold start to the first line: {cold:.2f} s", flush=True)
        results = {"image_size": Config().image_size[0], "rows": rows, "cold_start_s": round(cold, 3)}
        save(options.out, "predict", results)  # after each: the largest banks take long to make
    plot(rows, options.out / "predict.png")
    slow = max(row["models"]["float32"]["ratio"] for row in rows)
    if options.quick and (slow > QUICK_RATIO or cold > QUICK_COLD_S):
        print(f"slow: {slow} times decoding, resizing and the network; cold start {cold:.2f} s", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
