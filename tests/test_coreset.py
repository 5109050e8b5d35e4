"""Samplers: closed-form picks, the textbook loop as oracle (bit for bit), covering radii, real features."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from patchbank.bank import coreset
from patchbank.bank import k_center as kcenter
from patchbank.bank import k_center_bounds as bounds
from patchbank.config import Config
from patchbank.errors import ConfigError
from patchbank.native import calls as measure
from patchbank.native.sums import squared_distances

Array = npt.NDArray[np.float32]


def textbook(
    points: Array, m: int, start: Array | None = None, seeds: Array | None = None
) -> tuple[list[int], list[float]]:
    """Farthest-first traversal, one pass over all points for each pick. Distances are direct differences in float32."""
    if seeds is not None:
        bound = np.min([squared_distances(points, seed) for seed in seeds], axis=0)
    elif start is not None:
        bound = np.square(start)
    else:
        bound = np.full(len(points), np.inf, np.float32)
    indices: list[int] = []
    distances: list[float] = []
    for _ in range(m):
        first = seeds is None and start is None and not indices
        i = _largest_row(points) if first else int(bound.argmax())
        indices.append(i)
        distances.append(float(np.sqrt(bound[i])))
        bound = np.minimum(bound, squared_distances(points, points[i]))
        bound[indices] = -1
    return indices, distances


@functools.cache
def textbook_case(n: int, d: int, m: int) -> Any:
    """Points, seeds and start bounds, and the textbook loop's answers with each: computed once, for all ways."""
    points = clustered(n, d) + 100  # an offset that would ruin |x|^2 + |y|^2 - 2xy
    farthest = squared_distances(points, points.mean(axis=0)).argmax()  # its row of the matrix is the largest
    seeds = points[farthest : farthest + 1] + 1
    start = np.random.default_rng(1).random(n).astype(np.float32) * 5
    alone = textbook(points, m) if n < 1000 else None  # the closed row sums need an N x N matrix
    return points, seeds, start, textbook(points, m, seeds=seeds), textbook(points, m, start), alone


def _largest_row(points: Array) -> int:
    rows = cdist(points, points, "sqeuclidean").sum(axis=1)  # the norm's order is that of the sums of squares
    return int(np.argmax(rows >= rows.max() * (1 - 1e-12)))


def brute_radius(points: Array, centres: Array) -> float:
    return float(cdist(points, centres).min(axis=1).max())  # in float64, by direct differences


def clustered(n: int, d: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((20, d))[rng.integers(0, 20, n)] * 4 + rng.standard_normal((n, d))).astype(np.float32)


def make_small(patch: pytest.MonkeyPatch, pools: tuple[tuple[float, int], ...], candidates: int, cells: int) -> None:
    patch.setattr(bounds, "_CELLS", cells)
    patch.setattr(bounds, "_CENTRES_PER_CELL", 1)
    patch.setattr(kcenter, "_POOLS", pools)
    patch.setattr(kcenter, "_CANDIDATES", candidates)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools, cells and blocks so small that a few hundred points go through all of the machinery."""
    make_small(monkeypatch, ((8, 60), (1e9, 24)), candidates=10, cells=5)
    monkeypatch.setattr(bounds, "_BLOCK_ROWS", 7)


@pytest.mark.usefixtures("way")
def test_picks_on_a_line_are_those_found_by_hand() -> None:
    """0, 1, 4, 10: the outlier has the largest row; then the other end; then the widest gap's point."""
    line = np.array([[0.0], [1.0], [4.0], [10.0]], np.float32)
    picked = coreset.greedy_kcenter(line, 3)
    assert picked.indices.tolist() == [3, 0, 2]
    assert picked.distances.tolist() == [np.inf, 10.0, 4.0]
    assert picked.covering_radius == 1.0


@pytest.mark.usefixtures("way")
def test_start_distances_count_until_a_pick_is_nearer() -> None:
    line = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    picked = coreset.greedy_kcenter(line, 3, start_bounds=np.array([5.0, 9.0, 0.25, 1.5]))
    assert picked.indices.tolist() == [1, 3, 0]  # 9; then 1.5 (a start value, below its distance 2); then 1
    assert picked.distances.tolist() == [9.0, 1.5, 1.0]
    assert picked.covering_radius == 1.0  # of point 2: its start value 0.25 is no distance to a pick


def test_seeds_are_covered_already_and_are_not_picked() -> None:
    line = np.array([[0.0], [5.0], [11.0]], np.float32)
    picked = coreset.greedy_kcenter(line, 1, seeds=np.array([[10.0]], np.float32))
    assert (picked.indices.tolist(), picked.distances.tolist(), picked.covering_radius) == ([0], [10.0], 5.0)


@pytest.mark.parametrize(("n", "d", "m"), [(1, 3, 1), (700, 2, 700), (3000, 16, 500), (40000, 24, 1200)])
@pytest.mark.usefixtures("way")
def test_selections_are_the_textbook_loops_bit_for_bit(n: int, d: int, m: int) -> None:
    points, seeds, start, seeded, started, alone = textbook_case(n, d, m)
    picked = coreset.greedy_kcenter(points, m, seeds=seeds)
    assert picked.indices.tolist() == seeded[0]
    assert np.array_equal(picked.distances, np.array(seeded[1], np.float32))
    assert coreset.greedy_kcenter(points, m, start_bounds=start).indices.tolist() == started[0]
    assert alone is None or coreset.greedy_kcenter(points, m).indices.tolist() == alone[0]


def test_points_in_another_order_of_memory_are_the_same_points() -> None:
    """Slices and columns of larger arrays: C reads row after row."""
    points = clustered(900, 12)
    wider = np.zeros((900, 24), np.float32)
    wider[:, ::2] = points
    for same in (np.asfortranarray(points), wider[:, ::2]):
        assert coreset.greedy_kcenter(same, 50).indices.tolist() == textbook(points, 50)[0]
        assert_same(coreset.sample(same, Config(coreset_size=50)), coreset.sample(points, Config(coreset_size=50)))


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 80), st.integers(1, 3)), elements=st.integers(-3, 3).map(float)),
    st.data(),
)
def test_ties_and_duplicates_go_to_the_smallest_index(points: Array, data: st.DataObject) -> None:
    """On a small grid nearly every choice is a tie, and many points are the same."""
    m = data.draw(st.integers(1, len(points)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATCHBANK_NATIVE", data.draw(st.sampled_from(["", "avxvnni", "avx2", "any", "0"])))
        make_small(patch, ((3, 24), (1e9, 6)), candidates=5, cells=4)
        picked = coreset.greedy_kcenter(points, m)
    indices, distances = textbook(points, m)
    assert picked.indices.tolist() == indices
    assert np.array_equal(picked.distances, np.array(distances, np.float32))
    assert picked.covering_radius == pytest.approx(brute_radius(points, points[indices]))


@pytest.mark.usefixtures("way")
def test_every_round_limit_is_crossed_without_a_difference(small_blocks: None) -> None:
    points = clustered(900, 3)
    assert coreset.greedy_kcenter(points, 900).indices.tolist() == textbook(points, 900)[0]


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(("room", "answered"), [(16, True), (0, False)])
def test_most_points_are_measured_in_c_and_where_they_have_no_room_in_numpy(
    room: int, answered: bool, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What C has done before it gives up must not be wrong, or done twice. On a grid most points have several nearest
    centres."""
    answers = []

    def watched(*arguments: Any) -> Any:
        answers.append(measure.measure(*arguments))
        return answers[-1]

    monkeypatch.setattr(measure, "_ROOM", room)
    monkeypatch.setattr(bounds, "measure", watched)
    points = np.random.default_rng(0).integers(-4, 5, (900, 3)).astype(np.float32)
    picked = coreset.greedy_kcenter(points, 250)
    assert picked.indices.tolist() == textbook(points, 250)[0]
    assert len(answers) > 10
    assert any(answer is None for answer in answers) != answered
    if answered:
        assert 0 < sum(len(answer[0]) for answer in answers) < 8 * len(points)


@pytest.mark.usefixtures("way")
def test_dense_and_sparse_picking_agree(small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether candidates' mutual distances are listed or passed over at each pick is a matter of speed only."""
    points = clustered(600, 4)
    picks = []
    for dense in (-1, 10**9):
        monkeypatch.setattr(kcenter, "_DENSE", dense)
        picks.append(coreset.greedy_kcenter(points, 300).indices.tolist())
    assert picks[0] == picks[1]


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.usefixtures("way")
def test_the_number_of_threads_changes_nothing(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points = clustered(20000, 12)
    expected = coreset.sample(points, Config(coreset_size=300, projection_dim=6))
    monkeypatch.setattr(kcenter, "workers", lambda: int(threads))
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert_same(coreset.sample(points, Config(coreset_size=300, projection_dim=6)), expected)


@pytest.mark.parametrize("sampler", ["identity", "random", "greedy_coreset", "approx_greedy_coreset"])
def test_each_sampler_keeps_its_promises(sampler: str) -> None:
    """As many as asked for, none twice, repeatable, and the covering radius is the true one."""
    points = clustered(1200, 20)
    config = Config(sampler=sampler, coreset_ratio=0.05, projection_dim=8, seed=3)
    picked = coreset.sample(points, config)
    m = 1200 if sampler == "identity" else 60
    assert picked.indices.dtype == np.int64
    assert picked.distances.dtype == np.float32
    assert len(picked.indices) == len(picked.distances) == len(set(picked.indices.tolist())) == m
    assert picked.covering_radius == pytest.approx(brute_radius(points, points[picked.indices]), rel=1e-5)
    assert_same(coreset.sample(points, config), picked)


def test_another_seed_is_another_sample() -> None:
    points = clustered(1000, 10)
    for sampler in ("random", "approx_greedy_coreset"):
        a, b = (coreset.sample(points, Config(sampler=sampler, coreset_size=50, seed=seed)) for seed in (0, 1))
        assert a.indices.tolist() != b.indices.tolist()


def test_greedy_covers_better_than_chance() -> None:
    """The reason for k-center: the radius is within twice the best possible, random samples miss outliers."""
    points = clustered(3000, 10)
    greedy = coreset.sample(points, Config(sampler="greedy_coreset", coreset_size=60))
    chance = coreset.sample(points, Config(sampler="random", coreset_size=60))
    assert greedy.covering_radius < 0.8 * chance.covering_radius


def test_distances_fall_and_end_above_the_radius() -> None:
    """The k-center guarantee: picks are at least the final radius apart."""
    picked = coreset.greedy_kcenter(clustered(4000, 6), 200)
    assert (np.diff(picked.distances) <= 0).all()
    assert picked.covering_radius <= picked.distances[-1]


def test_the_approximation_works_in_the_projection() -> None:
    """approx = greedy on the projected points, started from mean distances to 10 points."""
    points = clustered(3000, 30)
    rng = np.random.default_rng(5)
    projected = coreset.project(points, 7, rng)
    start = coreset.mean_distance(projected, rng)
    picked = coreset.approximate_kcenter(points, 80, 7, np.random.default_rng(5))
    indices, distances = textbook(projected, 80, start)
    assert picked.indices.tolist() == indices
    assert np.array_equal(picked.distances, np.array(distances, np.float32))
    assert picked.covering_radius == pytest.approx(brute_radius(points, points[indices]), rel=1e-5)


def test_projection_keeps_squared_distances_on_average_and_leaves_equal_dimensions_alone() -> None:
    points = clustered(400, 300)
    assert coreset.project(points, 300, np.random.default_rng(0)) is points
    projected = coreset.project(points, 128, np.random.default_rng(0))
    before = squared_distances(points[:200], points[200:])
    after = squared_distances(projected[:200], projected[200:])
    assert (after / before).mean() == pytest.approx(1, abs=0.05)


def test_mean_distance_of_few_points_is_the_mean_to_all() -> None:
    line = np.array([[0.0], [3.0], [9.0]], np.float32)
    expected = np.array([12, 9, 15]) / 3
    assert coreset.mean_distance(line, np.random.default_rng(0)) == pytest.approx(expected)


@pytest.mark.parametrize("hint", [None, "wrong", "unknown"])
@pytest.mark.usefixtures("way")
def test_covering_radius_does_not_depend_on_the_hint(hint: str | None) -> None:
    points, centres = clustered(5000, 9), clustered(300, 9, seed=1)
    near = {"wrong": np.arange(5000) % 300, "unknown": np.full(5000, -1)}.get(hint or "")
    assert coreset.covering_radius(points, centres, near) == pytest.approx(brute_radius(points, centres), rel=1e-5)


def test_size_wins_over_ratio_and_is_bounded_by_the_points() -> None:
    assert coreset.coreset_size(1000, Config(coreset_ratio=0.0155)) == 15
    assert coreset.coreset_size(10, Config(coreset_ratio=0.01)) == 1
    assert coreset.coreset_size(1000, Config(coreset_ratio=0.5, coreset_size=7)) == 7
    assert coreset.coreset_size(5, Config(coreset_size=7)) == 5


@pytest.mark.usefixtures("way")
def test_equal_points_are_taken_in_order() -> None:
    picked = coreset.sample(np.ones((50000, 2), np.float32), Config(sampler="greedy_coreset", coreset_size=4))
    assert (picked.indices.tolist(), picked.covering_radius) == ([0, 1, 2, 3], 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_features_that_cannot_be_measured_are_refused(bad: float) -> None:
    points = clustered(100, 4)
    points[50, 2] = bad
    with pytest.raises(ConfigError, match="expected finite numbers"):
        coreset.sample(points, Config())


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (4,), (2, 2, 2)])
def test_features_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="shape"):
        coreset.sample(np.zeros(shape, np.float32), Config())


@pytest.mark.parametrize("m", [0, 11])
def test_impossible_sizes_are_refused(m: int) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 10"):
        coreset.greedy_kcenter(clustered(10, 2), m)


def test_progress_rises_to_the_total() -> None:
    seen: list[tuple[str, int, int]] = []
    coreset.greedy_kcenter(clustered(20000, 8), 500, progress=lambda *report: seen.append(report))
    assert {(stage, total) for stage, _, total in seen} == {("coreset", 500)}
    done = [report[1] for report in seen]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 500)
    assert len(done) > 3


def test_an_interrupt_passes_through_and_leaves_nothing_behind() -> None:
    """Ctrl-C in the middle: the exception comes out, and the next run is right."""

    def interrupt(stage: str, done: int, total: int) -> None:
        if done > 100:
            raise KeyboardInterrupt

    points = clustered(20000, 8)
    with pytest.raises(KeyboardInterrupt):
        coreset.greedy_kcenter(points, 500, progress=interrupt)
    assert len(coreset.greedy_kcenter(points, 500).indices) == 500


def test_features_are_not_changed() -> None:
    points = clustered(3000, 10)
    before = points.copy()
    coreset.sample(points, Config(coreset_size=50, projection_dim=10))
    assert np.array_equal(points, before)


@pytest.fixture(scope="module")
def real_selection(data_root: Path) -> tuple[Array, list[int], list[float]]:
    """(19200, 152) features of twelve bottles, and the oracle's 400 picks with their distances."""
    from patchbank.backbones import load_backbone
    from patchbank.features import embedding as patches
    from patchbank.imaging import images
    from patchbank.imaging.resize import resize

    network = load_backbone("efficientnet_lite0")
    blocks = []
    for path in sorted((data_root / "bottle" / "train" / "good").iterdir())[:12]:
        pixels = resize(images.read_image(path), (320, 320))
        batch = images.normalise(pixels, network.info.mean, network.info.std).reshape(1, 3, 320, 320)
        blocks.append(patches.embed(network.features(batch), Config(embedding="mean", patch_size=3)).reshape(1600, -1))
    features = np.concatenate(blocks)
    return features, *textbook(features, 400, seeds=features[:1])


@pytest.mark.realdata
@pytest.mark.usefixtures("way")
def test_selections_on_real_features_are_the_textbook_loops(
    real_selection: tuple[Array, list[int], list[float]],
) -> None:
    features, indices, distances = real_selection
    picked = coreset.greedy_kcenter(features, 400, seeds=features[:1])
    assert picked.indices.tolist() == indices
    assert np.array_equal(picked.distances, np.array(distances, np.float32))


def assert_same(a: coreset.Coreset, b: coreset.Coreset) -> None:
    assert a.indices.tobytes() == b.indices.tobytes()
    assert a.distances.tobytes() == b.distances.tobytes()
    assert a.covering_radius == b.covering_radius


@pytest.mark.parametrize(
    ("n", "options", "m"),
    [
        (500, {}, 500),  # fewer than the least: all
        (100_000, {}, 8_000),
        (1_750_000, {}, 17_500),
        (5_000_000, {}, 30_000),
        (100_000, {"coreset_limit": 3_000}, 3_000),
        (100_000, {"coreset_ratio": 0.01}, 1_000),
        (50, {"coreset_ratio": 0.01}, 1),
        (100_000, {"coreset_ratio": 0.9}, 30_000),
        (100_000, {"coreset_size": 77, "coreset_ratio": 0.9}, 77),
    ],
)
def test_how_many_patches_the_bank_keeps(n, options, m):
    assert coreset.coreset_size(n, Config(**options)) == m
