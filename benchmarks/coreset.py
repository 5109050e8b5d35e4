"""Greedy k-center against the textbook loop: one pass over all points for each pick, in NumPy/BLAS.

Every pick of the textbook loop costs the same pass, so some picks are timed, before and after ours (the median of
three runs), and multiplied.
Its fastest form keeps the squared norms and makes one matrix-vector product a pick ("blas"); the plain form subtracts
and sums squares ("direct"). The speed-up is over the fastest.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from _common import FloatArray, arguments, clustered, features, save, seconds
from patchbank.bank import coreset
from patchbank.config import Config
from patchbank.native.sums import squared_distances
from patchbank.util.parallel import one_blas_thread

QUICK_SPEEDUP = (
    4.0  # over direct differences, whose selections ours are; 40 000 points fit the cache, where BLAS is as fast
)


def textbook_blas(points: FloatArray, start: FloatArray, picks: int) -> list[float]:
    """Seconds of each pick."""
    norms = np.einsum("ij,ij->i", points, points)
    bound, distance = np.square(start), np.empty(len(points), np.float32)
    times = []
    for _ in range(picks):
        begin = time.perf_counter()
        i = int(bound.argmax())
        np.dot(points, points[i], out=distance)
        distance *= -2
        distance += norms
        distance += norms[i]
        np.minimum(bound, distance, out=bound)
        times.append(time.perf_counter() - begin)
    return times


def textbook_direct(points: FloatArray, start: FloatArray, picks: int) -> tuple[list[int], list[float], list[float]]:
    """Indices, distances and seconds of each pick."""
    bound = np.square(start)
    indices, distances, times = [], [], []
    for _ in range(picks):
        begin = time.perf_counter()
        i = int(bound.argmax())
        indices.append(i)
        distances.append(float(np.sqrt(bound[i])))
        np.minimum(bound, squared_distances(points, points[i]), out=bound)
        bound[i] = -1
        times.append(time.perf_counter() - begin)
    return indices, distances, times


def speed(data: FloatArray, n: int, ratio: float, timed: int) -> dict[str, Any]:
    """Time of the greedy loop on projected points, and of the whole sampler on the features."""
    points = data[:n]
    rng = np.random.default_rng(0)
    projected = coreset.project(points, 128, rng)
    start = coreset.mean_distance(projected, rng)
    m = int(n * ratio)
    before = textbook_blas(projected, start, timed)
    with one_blas_thread():  # as the sampler does
        ours = seconds(lambda: coreset._traverse(projected, m, start, None, lambda *_: None), 3)
    after = textbook_blas(projected, start, timed)
    direct = textbook_direct(projected, start, max(3, timed // 8))[2]
    begin = time.perf_counter()
    picked = coreset.sample(points, Config(coreset_ratio=ratio))
    whole = time.perf_counter() - begin
    pass_blas, pass_direct = float(np.median(before + after)), float(np.median(direct))
    row = {
        "n": n,
        "d": 128,
        "ratio": ratio,
        "picks": m,
        "seconds": round(ours, 3),
        "textbook_picks_timed": 2 * timed,
        "textbook_blas_ms_per_pick": round(pass_blas * 1e3, 3),
        "textbook_direct_ms_per_pick": round(pass_direct * 1e3, 3),
        "textbook_seconds_extrapolated": round(pass_blas * m, 1),
        "speedup": round(pass_blas * m / ours, 1),
        "speedup_over_direct": round(pass_direct * m / ours, 1),
        "whole_sampler_seconds": round(whole, 3),
        "covering_radius": picked.covering_radius,
        "last_pick_distance_projected": float(picked.distances[-1]),
    }
    print(row, flush=True)
    return row


def equality(data: FloatArray, n: int, m: int) -> dict[str, Any]:
    """How many picks, and which distances, differ from the textbook loop by direct differences."""
    rng = np.random.default_rng(0)
    points = coreset.project(data[:n], 128, rng)
    start = coreset.mean_distance(points, rng)
    indices, distances, _ = textbook_direct(points, start, m)
    picked = coreset.greedy_kcenter(points, m, start_bounds=start)
    difference = np.abs(picked.distances - np.array(distances, np.float32)) / np.maximum(distances, 1e-30)
    row = {
        "n": n,
        "picks": m,
        "equal_picks": int((picked.indices == indices).sum()),
        "largest_relative_difference_of_distances": float(difference.max()),
    }
    print(row, flush=True)
    return row


def plot(rows: list[dict[str, Any]], path: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for ratio in sorted({row["ratio"] for row in rows}):
        some = [row for row in rows if row["ratio"] == ratio]
        sizes = [row["n"] for row in some]
        (line,) = axes.plot(sizes, [row["seconds"] for row in some], "o-", label=f"patchbank, {ratio:.0%}")
        textbook = [row["textbook_seconds_extrapolated"] for row in some]
        axes.plot(sizes, textbook, "x--", color=line.get_color(), label=f"textbook loop, {ratio:.0%}")
    axes.set(xscale="log", yscale="log", xlabel="points", ylabel="seconds", title="Greedy k-center, 128 dimensions")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> int:
    options = arguments(__doc__ or "")
    if options.quick:
        data, source = clustered(40000, 152), "synthetic, clustered"
        rows = [speed(data, 40000, 0.05, 20)]
        same = equality(data, 10000, 300)
    else:
        data, source = features(270000)
        rows = [speed(data, n, ratio, 40) for ratio in (0.01, 0.1) for n in (90000, 270000)]
        same = equality(data, 40000, 1500)
    save(options.out, "coreset", {"features": source, "rows": rows, "equality": same})
    plot(rows, options.out / "coreset.png")
    if same["equal_picks"] != same["picks"]:
        print("the selections differ from the textbook loop's", file=sys.stderr)
        return 1
    if options.quick and rows[0]["speedup_over_direct"] < QUICK_SPEEDUP:
        print(
            f"only {rows[0]['speedup_over_direct']}x the textbook loop, expected at least {QUICK_SPEEDUP}x",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
