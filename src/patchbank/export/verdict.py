"""p-value, image check and verdict as operators of a graph: what `calibration/` and `results/verdict.py` say, number by
number. Verdicts are numbers, as on a PLC."""

from __future__ import annotations

import numpy as np

from patchbank.arrays import BoolArray, FloatArray
from patchbank.calibration.image_check import GRID, ImageCheck, ordinary_cells, ordinary_patches
from patchbank.calibration.thresholds import Calibration
from patchbank.export.graph import Graph
from patchbank.export.preprocessing import area_matrix, left, right
from patchbank.export.scores import OnGrid
from patchbank.features.embedding import adaptive_averages
from patchbank.features.extract import reduced_inside, statistics_sizes
from patchbank.results.verdict import Verdict, needs_review

NUMBERS = {Verdict.OK: 1, Verdict.NG: 2, Verdict.REVIEW: 3}
_LARGEST = float(np.finfo(np.float32).max)


def p_value(g: Graph, score: str, calibration: Calibration | None) -> tuple[str, str]:
    """The p-value of a score, a scalar, and how many calibration scores are at least as large; NaN without
    calibration."""
    if calibration is None:
        odds = g.constant(np.array(np.nan, np.float32))
        return odds, odds  # a constant that no node uses makes ONNX Runtime warn at each start
    scores = calibration.counted_scores
    above = g.cast(g.node("GreaterOrEqual", scores, score), np.float32)
    count = g.reduced("ReduceSum", above, [0], keepdims=False)
    return g.node("Div", g.node("Add", count, 1.0), float(len(scores) + 1)), count


def verdict(g: Graph, score: str, above: str, calibration: Calibration | None, unlike: str | None) -> str:
    """The verdict's number, int32, as `decide` says it. above: as `p_value` counts. unlike: bool, whether the image is
    out of distribution; None = not checked."""
    ok, ng, review = (np.array(NUMBERS[each], np.int32) for each in (Verdict.OK, Verdict.NG, Verdict.REVIEW))
    if calibration is None:
        return g.node("Where", g.node("LessOrEqual", score, _LARGEST), review, ng)  # NaN is no less
    n = len(calibration.counted_scores)
    odd = [needs_review((1 + count) / (n + 1), calibration.review_rate) for count in range(n + 1)]
    enough = float(odd.index(False)) if False in odd else n + 1.0  # p-values rise with the count
    ordinary = g.node("GreaterOrEqual", above, enough)
    if unlike is not None:
        ordinary = g.node("And", ordinary, g.node("Not", unlike))
    within = g.node("LessOrEqual", score, float(calibration.threshold))
    return g.node("Where", within, g.node("Where", ordinary, ok, review), ng)


def measures(
    g: Graph,
    image: str,
    features: str,
    scores: str,
    check: ImageCheck,
    on_grid: OnGrid,
    input_size: tuple[int, int],
    size: tuple[int, int],
    inside: BoolArray | None,
) -> str:
    """The image check's (6,) measures, in the order of MEASURES. image: (3, H', W') 0..255. inside: (H', W')."""
    grey = g.reduced("ReduceMean", image, [0], keepdims=False)  # (H', W')
    small, coarse = (_reduced(g, grey, input_size, each) for each in statistics_sizes(*input_size))
    small_inside, coarse_inside = (reduced_inside(inside, each) for each in statistics_sizes(*input_size))
    brightness = _median(g, small, statistics_sizes(*input_size)[0], small_inside)
    fine = _gradient(g, grey, input_size, inside)
    rough = _gradient(g, coarse, statistics_sizes(*input_size)[1], coarse_inside)
    sharpness = g.node("Div", g.node("Add", fine, 0.01), g.node("Add", rough, 0.04))
    shape = np.array([size[1] / size[0], size[0] * size[1]], np.float32)
    ordinary = ordinary_patches(len(on_grid))
    distance = g.part(g.top(scores, ordinary + 1, largest=False)[0], 0, ordinary, ordinary + 1)
    look = (g.shaped(each, 1) for each in (brightness, sharpness))
    return g.node("Concat", *look, shape, distance, _layout(g, features, check, on_grid), axis=0)


def outside(g: Graph, measured: str, check: ImageCheck) -> str:
    """Whether any of the (6,) measures lies outside its normal range: a bool."""
    low, high = check.ranges.astype(np.float32)
    fits = g.node("And", g.node("GreaterOrEqual", measured, low), g.node("LessOrEqual", measured, high))
    worst = g.reduced("ReduceMin", g.cast(fits, np.float32), keepdims=False)
    return g.node("Less", worst, 0.5)


def _reduced(g: Graph, grey: str, size: tuple[int, int], target: tuple[int, int]) -> str:
    rows, columns = (area_matrix(*sides) for sides in zip(size, target, strict=True))
    return right(g, left(g, rows, grey), columns)


def _median(g: Graph, grey: str, size: tuple[int, int], inside: BoolArray | None) -> str:
    values, count = g.shaped(grey, -1), size[0] * size[1]
    if inside is not None:
        kept = np.flatnonzero(inside).astype(np.int32)
        values, count = g.node("Gather", values, kept, axis=0), len(kept)
    middle = count // 2
    ascending = g.top(values, middle + 1, largest=False)[0]
    both = g.part(ascending, 0, middle - (count + 1) % 2, middle + 1)  # two of an even number
    return g.reduced("ReduceMean", both, keepdims=False)


def _gradient(g: Graph, grey: str, size: tuple[int, int], inside: BoolArray | None) -> str:
    """Mean absolute difference of neighbours that both count, down and across."""
    means = []
    for axis, side in enumerate(size):
        steps = g.node("Abs", g.node("Sub", g.part(grey, axis, 1, side), g.part(grey, axis, 0, side - 1)))
        count = float(size[1 - axis] * (side - 1))
        if inside is not None:
            both = np.logical_and(*(np.take(inside, range(a, side - 1 + a), axis) for a in (1, 0)))
            steps, count = g.node("Mul", steps, both.astype(np.float32)), float(max(both.sum(), 1))
        means.append(g.node("Div", g.reduced("ReduceSum", steps, [0, 1], keepdims=False), count))
    return g.node("Mul", g.node("Add", *means), 0.5)


def _layout(g: Graph, features: str, check: ImageCheck, on_grid: OnGrid) -> str:
    """(1,): how far the image's cells are from those of the most similar training image."""
    cells = g.node("MatMul", _cell_means(check, on_grid), g.node("MatMul", features, check.projection))  # (V, d)
    apart = g.node("Sub", check.cells, cells)  # (n, V, d)
    squared = g.reduced("ReduceSum", g.node("Mul", apart, apart), [2], keepdims=False)
    ordinary = ordinary_cells(len(check.kept))
    nearest = g.part(g.top(squared, ordinary + 1, largest=False)[0], 1, ordinary, ordinary + 1)  # (n, 1)
    return g.shaped(g.node("Sqrt", g.reduced("ReduceMin", nearest, keepdims=False)), 1)


def _cell_means(check: ImageCheck, on_grid: OnGrid) -> FloatArray:
    """(V, n): the mean over each cell of the n patches that count; zeros for a cell without any."""
    rows, columns = (adaptive_averages(side, GRID).dense() for side in on_grid.grid)
    shares = np.einsum("ah,bw->abhw", rows, columns).reshape(GRID * GRID, -1)[check.kept]
    if on_grid.place is not None:
        shares = shares[:, on_grid.place]
    total = shares.sum(axis=1, keepdims=True)
    means: FloatArray = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
    return means
