"""Exact nearest-neighbour search against faiss' flat index (same number of threads), one image's patches at a time.

    python benchmarks/search.py [--quick] [--out DIR]

The three searches take turns, image by image, so that they see the same machine; each image counts with its best of
several rounds, the row with the median of its images. "product" is the plain way in NumPy: products of matrices,
argmin. All three must find the same distances.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from _common import DATA, FloatArray, arguments, clustered, image_features, save, training_images
from patchbank.bank import coreset
from patchbank.config import Config
from patchbank.search.exact import ExactSearcher
from patchbank.util.parallel import workers

SIZE = Config().image_size[0]
QUICK_SPEEDUP = 0.5  # a smoke test on a busy machine must not fail


def product(bank: FloatArray) -> Callable[[FloatArray], FloatArray]:
    squares = np.einsum("ij,ij->i", bank, bank)

    def search(queries: FloatArray) -> FloatArray:
        best = []
        for a in range(0, len(queries), 512):
            block = queries[a : a + 512]
            table = block @ (-2 * bank).T
            table += squares
            best.append(table.min(axis=1) + np.einsum("ij,ij->i", block, block))
        return np.sqrt(np.maximum(np.concatenate(best), 0))

    return search


def flat(bank: FloatArray) -> Callable[[FloatArray], FloatArray]:
    import faiss

    faiss.omp_set_num_threads(workers())
    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(bank)
    return lambda queries: np.sqrt(index.search(queries, 1)[0][:, 0])


def compare(name: str, bank: FloatArray, images: list[FloatArray], rounds: int) -> dict[str, Any]:
    begin = time.perf_counter()
    searcher = ExactSearcher(bank)
    build = time.perf_counter() - begin
    ways: dict[str, Callable[[FloatArray], FloatArray]] = {
        "patchbank": lambda queries: searcher.search(queries, 1)[0][:, 0],
        "faiss_flat": flat(bank),
        "product": product(bank),
    }
    times = {way: np.full(len(images), np.inf) for way in ways}
    worst = 0.0
    for _ in range(rounds):
        for number, queries in enumerate(images):
            found = {}
            for way, search in ways.items():
                begin = time.perf_counter()
                found[way] = search(queries)
                times[way][number] = min(times[way][number], time.perf_counter() - begin)
            worst = max(worst, float(np.abs(found["patchbank"] - found["faiss_flat"]).max() / found["patchbank"].max()))
    median = {way: float(np.median(values)) * 1e3 for way, values in times.items()}
    row = {
        "data": name,
        "bank": len(bank),
        "d": bank.shape[1],
        "queries": len(images[0]),
        "build_ms": round(build * 1e3, 1),
        **{f"{way}_ms": round(value, 2) for way, value in median.items()},
        "speedup_over_faiss_flat": round(median["faiss_flat"] / median["patchbank"], 2),
        "speedup_over_product": round(median["product"] / median["patchbank"], 2),
        "largest_difference_from_faiss": worst,
    }
    print(row, flush=True)
    return row


def test_images(name: str) -> list[Path]:
    """One of each kind."""
    return [path for kind in sorted((DATA / name / "test").iterdir()) for path in sorted(kind.iterdir())[:1]]


def real(name: str, embedding: str, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Banks of one data set's training images; queries are its test images, good and defective."""
    paths = training_images(name)[: 40 if embedding == "mean" else 20]
    rows = np.concatenate([f.reshape(-1, f.shape[-1]) for f in image_features(paths, SIZE, embedding)])
    queries = [f.reshape(-1, f.shape[-1]) for f in image_features(test_images(name), SIZE, embedding)]
    banks = [rows[coreset.sample(rows, Config(coreset_size=size)).indices] for size in sizes]
    return [compare(f"{name}, {embedding}", bank, queries, 3) for bank in banks]


def plot(rows: list[dict[str, Any]], path: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for data in dict.fromkeys(row["data"] for row in rows if row["d"] == rows[0]["d"]):
        some = [row for row in rows if row["data"] == data]
        sizes = [row["bank"] for row in some]
        (line,) = axes.plot(sizes, [row["patchbank_ms"] for row in some], "o-", label=f"patchbank, {data}")
        axes.plot(sizes, [row["faiss_flat_ms"] for row in some], "x--", color=line.get_color(), label=f"faiss, {data}")
    axes.set(xscale="log", yscale="log", xlabel="vectors in the bank", ylabel="ms an image", title="Exact search")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> int:
    options = arguments(__doc__ or "")
    if options.quick or not training_images("bottle"):
        points, source = clustered(12000, 152), "synthetic, clustered"
        rows = [compare(source, points[:8000], [points[-1600:]], 10)]
    else:
        source = f"{Config().backbone} features of real images at {SIZE} px"
        sets = [name for name in ("bottle", "screw", "mtd") if training_images(name)]
        rows = [row for name in sets for row in real(name, "mean", (1000, 5000, 10000))]
        rows += real("bottle", "reference", (1000, 5000))
    save(options.out, "search", {"features": source, "threads": workers(), "rows": rows})
    plot(rows, options.out / "search.png")
    wrong = [row for row in rows if row["largest_difference_from_faiss"] > 1e-2]
    slow = [row for row in rows if options.quick and row["speedup_over_faiss_flat"] < QUICK_SPEEDUP]
    for row in wrong + slow:
        print(f"wrong or slow: {row}", file=sys.stderr)
    return 1 if wrong or slow else 0


if __name__ == "__main__":
    sys.exit(main())
