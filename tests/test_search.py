"""Nearest neighbours: exact means exact, to the bit, in any company; approximate ones say how good they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank.config import Config
from patchbank.errors import ConfigError
from patchbank.search import ExactSearcher, build_searcher, measured_recall, search_excluding


def brute(queries, vectors, k):
    """Double precision, all pairs; ties by index."""
    distances = np.sqrt(
        np.square(queries[:, None, :].astype(np.float64) - vectors[None].astype(np.float64)).sum(axis=2)
    )
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


def clusters(rng, n, d, spread=0.3):
    centres = rng.standard_normal((40, d)) * 3
    return (centres[rng.integers(0, 40, n)] + spread * rng.standard_normal((n, d))).astype(np.float32)


def test_closed_form():
    vectors = np.array([[0, 0], [3, 4], [10, 0]], np.float32)
    distances, indices = ExactSearcher(vectors).search(np.array([[0, 0], [9, 0]], np.float32), 2)
    np.testing.assert_allclose(distances, [[0, 5], [1, np.sqrt(52)]], rtol=1e-6)
    np.testing.assert_array_equal(indices, [[0, 1], [2, 1]])


@pytest.mark.parametrize("m", [1, 7, 300, 2048, 5000])
@pytest.mark.parametrize("k", [1, 5])
def test_equals_brute_force(rng, m, k):
    """Below and above the size at which the bank is divided into cells."""
    if k > m:
        return
    vectors, queries = clusters(rng, m, 24), clusters(rng, 150, 24)
    queries[::3] = vectors[rng.integers(0, m, 50)] + np.float32(0.01)
    distances, indices = ExactSearcher(vectors).search(queries, k)
    expected, order = brute(queries, vectors, k)
    np.testing.assert_allclose(distances, expected, rtol=1e-5, atol=1e-6)
    assert (indices == order).mean() > 0.999  # equal but for ties within float32's rounding
    assert (np.diff(distances, axis=1) >= 0).all()


@pytest.mark.parametrize("m", [500, 6000])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_vector_of_the_bank_is_at_distance_zero(rng, m, offset):
    """By products alone, |x|^2 - 2xy + |y|^2 leaves a rounding error that grows with the norms."""
    vectors = clusters(rng, m, 16) + np.float32(offset)
    distances, indices = ExactSearcher(vectors).search(vectors[::7], 1)
    assert (distances == 0).all()
    np.testing.assert_array_equal(vectors[indices[:, 0]], vectors[::7])


def test_ties_go_to_the_smallest_index(rng):
    for m in (600, 6000):
        vectors = np.repeat(clusters(rng, m // 3, 8), 3, axis=0)
        _, indices = ExactSearcher(vectors).search(vectors, 1)
        np.testing.assert_array_equal(indices[:, 0], np.arange(m) // 3 * 3)


@pytest.mark.parametrize("m", [900, 6000])
def test_a_query_s_answer_does_not_depend_on_its_company(rng, m, monkeypatch):
    vectors, queries = clusters(rng, m, 20), clusters(rng, 400, 20)
    searcher = ExactSearcher(vectors)
    together, indices = searcher.search(queries, 2)
    again, _ = ExactSearcher(vectors.copy()).search(queries, 2)
    np.testing.assert_array_equal(together, again)
    for a in (0, 13, 399):
        alone, index = searcher.search(queries[a : a + 1], 2)
        np.testing.assert_array_equal(alone[0], together[a])
        np.testing.assert_array_equal(index[0], indices[a])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    np.testing.assert_array_equal(ExactSearcher(vectors).search(queries, 2)[0], together)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 6), st.integers(0, 3), st.integers(1, 4))
def test_small_and_degenerate_banks(m, d, scale, k):
    rng = np.random.default_rng(m * 100 + d * 10 + scale)
    vectors = rng.integers(-2, 3, (m, d)).astype(np.float32) * np.float32(10.0**scale)
    queries = rng.integers(-2, 3, (17, d)).astype(np.float32) * np.float32(10.0**scale)
    k = min(k, m)
    distances, indices = ExactSearcher(vectors).search(queries, k)
    expected, order = brute(queries, vectors, k)
    np.testing.assert_allclose(distances, expected, rtol=1e-6)
    np.testing.assert_array_equal(indices, order)


def test_no_queries(rng):
    distances, indices = ExactSearcher(clusters(rng, 10, 3)).search(np.empty((0, 3), np.float32), 2)
    assert distances.shape == indices.shape == (0, 2)


def test_impossible_input_says_why(rng):
    vectors = clusters(rng, 10, 3)
    searcher = ExactSearcher(vectors)
    with pytest.raises(ConfigError, match="got 11"):
        searcher.search(vectors, 11)
    with pytest.raises(ConfigError, match="got 0"):
        searcher.search(vectors, 0)
    with pytest.raises(ConfigError):
        searcher.search(vectors[:, :2], 1)
    with pytest.raises(ConfigError):
        ExactSearcher(np.full((3, 3), np.nan, np.float32))
    with pytest.raises(ConfigError):
        ExactSearcher(np.empty((0, 3), np.float32))


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_approximate_search_measures_true_distances_and_its_recall(rng, kind):
    pytest.importorskip("faiss", reason="the extra 'ann' is not installed")
    vectors, queries = clusters(rng, 4000, 16), clusters(rng, 200, 16)
    searcher = build_searcher(vectors, Config(search=kind))
    distances, indices = searcher.search(queries, 3)
    expected = np.linalg.norm(queries[:, None] - vectors[indices], axis=2)
    np.testing.assert_allclose(distances, expected, rtol=1e-5)
    recall = measured_recall(searcher, vectors, queries, 3)
    assert 0.6 < recall <= 1
    again = build_searcher(vectors, Config(search=kind)).search(queries, 3)
    np.testing.assert_array_equal(again[0], distances)


def test_recall_of_an_exact_search_is_one_and_of_a_blind_one_nearly_none(rng):
    vectors, queries = clusters(rng, 500, 8), clusters(rng, 50, 8)

    class Blind:
        def search(self, queries, k):
            indices = np.zeros((len(queries), k), np.int64)
            return np.linalg.norm(queries[:, None] - vectors[indices], axis=2).astype(np.float32), indices

    assert measured_recall(ExactSearcher(vectors), vectors, queries, 2) == 1
    assert measured_recall(Blind(), vectors, queries, 2) < 0.1


@pytest.mark.parametrize("m", [400, 5000])
def test_excluding_a_group_equals_searching_the_others(rng, m):
    vectors, queries = clusters(rng, m, 12), clusters(rng, 120, 12)
    queries[:40] = vectors[:40]
    groups = np.arange(m) % 5
    distances, indices = search_excluding(ExactSearcher(vectors), vectors, groups, queries, 2, 3)
    others = np.flatnonzero(groups != 2)
    expected, order = brute(queries, vectors[others], 3)
    np.testing.assert_allclose(distances, expected, rtol=1e-5, atol=1e-6)
    assert (indices == others[order]).mean() > 0.999
    assert (groups[indices] != 2).all()


def test_excluding_too_much_is_an_error(rng):
    vectors = clusters(rng, 10, 3)
    with pytest.raises(ConfigError, match="lower k"):
        search_excluding(ExactSearcher(vectors), vectors, np.zeros(10, np.int64), vectors, 0, 1)


def test_missing_faiss_names_the_command(monkeypatch, rng):
    import sys

    from patchbank.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'patchbank\[ann\]'"):
        build_searcher(clusters(rng, 100, 4), Config(search="ivf"))
