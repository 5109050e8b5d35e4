"""Samplers: the block method makes the textbook loop's selections, and the covering radius is what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank.config import Config
from patchbank.coreset import covering_radius, greedy_kcenter, project, sample
from patchbank.errors import ConfigError


def textbook(points, m, start=None):
    """One pass over all points for each pick, by direct differences in float32; of equals, the first."""
    if start is None:
        centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
        norms = np.square(centred).sum(axis=1)
        bound = np.full(len(points), np.inf, np.float32)
        bound[int(np.argmax(norms >= norms.max() * (1 - 1e-9)))] = np.finfo(np.float32).max
        bound[np.isinf(bound)] = 3e38
    else:
        bound = np.square(start.astype(np.float32))
    picks = []
    for _ in range(m):
        pick = int(bound.argmax())
        picks.append(pick)
        difference = points - points[pick]
        np.minimum(bound, np.einsum("ij,ij->i", difference, difference), out=bound)
        bound[pick] = -1
    return np.array(picks)


def clustered(rng, n, d):
    centres = rng.standard_normal((30, d)) * 3
    return (centres[rng.integers(0, 30, n)] + 0.5 * rng.standard_normal((n, d))).astype(np.float32)


def test_closed_form_on_a_line():
    points = np.array([[0], [1], [2], [3], [10]], np.float32)
    chosen = greedy_kcenter(points, 3)
    assert chosen.indices.tolist() == [4, 0, 3]
    np.testing.assert_allclose(chosen.distances[1:], [10, 3])
    assert chosen.covering_radius == 1.0


@pytest.mark.parametrize(("n", "d", "m"), [(50, 3, 50), (1000, 8, 100), (6000, 16, 600), (20_000, 24, 300)])
def test_greedy_makes_the_textbook_s_selections(rng, n, d, m):
    points = clustered(rng, n, d)
    chosen = greedy_kcenter(points, m)
    np.testing.assert_array_equal(chosen.indices, textbook(points, m))
    assert len(set(chosen.indices.tolist())) == m
    assert (np.diff(chosen.distances[1:]) <= 0).all()  # farthest first


@pytest.mark.parametrize(("n", "m"), [(800, 200), (9000, 500)])
def test_start_bounds_count_until_a_pick_is_nearer(rng, n, m):
    points = clustered(rng, n, 12)
    start = np.linalg.norm(points - points[:10].mean(axis=0), axis=1)
    np.testing.assert_array_equal(greedy_kcenter(points, m, start_bounds=start).indices, textbook(points, m, start))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.integers(1, 4), st.integers(0, 10**6))
def test_ties_and_duplicates_go_to_the_first(n, d, seed):
    """Points on a small grid: most distances occur many times."""
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 3, (n, d)).astype(np.float32)
    m = int(rng.integers(1, n + 1))
    np.testing.assert_array_equal(greedy_kcenter(points, m).indices, textbook(points, m))


def test_seeds_are_centres_that_are_not_chosen_again(rng):
    points, seeds = clustered(rng, 3000, 6), clustered(rng, 40, 6)
    chosen = greedy_kcenter(points, 50, seeds=seeds)
    start = np.linalg.norm(points[:, None] - seeds[None], axis=2).min(axis=1)
    assert chosen.indices[0] == start.argmax()
    both = np.concatenate([seeds, points[chosen.indices]])
    assert chosen.covering_radius == pytest.approx(covering_radius(points, both), rel=1e-5)


@pytest.mark.parametrize("sampler", ["random", "greedy_coreset", "approx_greedy_coreset"])
def test_covering_radius_is_the_largest_distance_to_the_coreset(rng, sampler):
    points = clustered(rng, 2500, 20)
    chosen = sample(points, Config(sampler=sampler, coreset_size=70, projection_dim=10))
    distances = np.linalg.norm(points[:, None].astype(np.float64) - points[chosen.indices][None], axis=2).min(axis=1)
    assert chosen.covering_radius == pytest.approx(distances.max(), rel=1e-5)


def test_greedy_radius_is_at_most_twice_the_best(rng):
    """Gonzalez 1985: 30 balls cover 30 clusters, so 30 picks may take at most twice the balls' radius."""
    centres = rng.standard_normal((30, 8)) * 50
    points = (np.repeat(centres, 40, axis=0) + rng.uniform(-1, 1, (1200, 8))).astype(np.float32)
    best = np.linalg.norm(points - np.repeat(centres, 40, axis=0), axis=1).max()
    assert greedy_kcenter(points, 30).covering_radius <= 2 * best


def test_greedy_covers_better_than_chance(rng):
    points = clustered(rng, 4000, 10)
    greedy, random = (
        sample(points, Config(sampler=name, coreset_size=80)).covering_radius for name in ("greedy_coreset", "random")
    )
    assert greedy < random


def test_identity_keeps_everything(rng):
    points = clustered(rng, 20, 3)
    chosen = sample(points, Config(sampler="identity"))
    np.testing.assert_array_equal(chosen.indices, np.arange(20))
    assert chosen.covering_radius == 0


@pytest.mark.parametrize("sampler", ["random", "greedy_coreset", "approx_greedy_coreset"])
def test_size_by_ratio_or_number_and_the_seed(rng, sampler):
    points = clustered(rng, 900, 12)
    assert len(sample(points, Config(sampler=sampler, coreset_ratio=0.1)).indices) == 90
    assert len(sample(points, Config(sampler=sampler, coreset_ratio=1e-6)).indices) == 1
    assert len(sample(points, Config(sampler=sampler, coreset_ratio=0.1, coreset_size=5)).indices) == 5
    assert len(sample(points, Config(sampler=sampler, coreset_size=5000)).indices) == 900
    a, b, c = (sample(points, Config(sampler=sampler, coreset_size=50, seed=seed)).indices for seed in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert (sampler == "greedy_coreset") == np.array_equal(a, c)  # only the exact one needs no luck


def test_projection_keeps_distances_on_average(rng):
    points = rng.standard_normal((300, 400), dtype=np.float32)
    projected = project(points, 128, np.random.default_rng(0))
    ratio = np.linalg.norm(projected[:150] - projected[150:], axis=1) / np.linalg.norm(
        points[:150] - points[150:], axis=1
    )
    assert projected.shape == (300, 128)
    assert abs(ratio.mean() - 1) < 0.02


def test_threads_do_not_change_the_selections(rng, monkeypatch):
    points = clustered(rng, 6000, 16)
    several = greedy_kcenter(points, 200).indices
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    np.testing.assert_array_equal(greedy_kcenter(points, 200).indices, several)


def test_progress_ends_complete_and_can_interrupt(rng):
    points, seen = clustered(rng, 3000, 8), []
    greedy_kcenter(points, 200, progress=lambda *step: seen.append(step))
    assert seen[-1] == ("coreset", 200, 200)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        greedy_kcenter(points, 200, progress=interrupt)


@pytest.mark.parametrize(
    "points", [np.empty((0, 3), np.float32), np.full((4, 2), np.nan, np.float32), np.full((4, 2), np.inf, np.float32)]
)
def test_unusable_points_say_why(points):
    with pytest.raises(ConfigError, match="features"):
        sample(points, Config())


def test_all_points_equal():
    chosen = sample(np.ones((100, 4), np.float32), Config(coreset_size=7, sampler="greedy_coreset"))
    assert sorted(set(chosen.indices.tolist())) == sorted(chosen.indices.tolist())
    assert chosen.covering_radius == 0
