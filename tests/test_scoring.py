"""Scores: closed forms of each image score, and Eq. 7 against the formula as the paper prints it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from patchbank.config import Config
from patchbank.features.embedding import ImageStatistics, Patches
from patchbank.scoring.scores import image_score, mean_distances, patch_scores, reweighted, smoothed, top_fraction_mean
from patchbank.search.searcher import build_searcher


def test_patch_score_is_the_mean_distance_to_the_neighbours():
    np.testing.assert_allclose(
        patch_scores(mean_distances(np.array([[1, 3], [2, 2]], np.float32)), np.zeros((2, 1), np.float32), None), [2, 2]
    )


@pytest.mark.parametrize(("fraction", "mean"), [(0.01, 10.0), (0.1, 10.0), (0.2, 9.5), (1.0, 5.5)])
def test_top_fraction_closed_form(fraction, mean):
    assert top_fraction_mean(np.arange(1, 11, dtype=np.float32), fraction) == pytest.approx(mean)


def bank(rng, m=30, d=4):
    vectors = rng.standard_normal((m, d), dtype=np.float32)
    return vectors, build_searcher(vectors, Config())


def test_eq_7_is_the_paper_s_formula(rng):
    vectors, searcher = bank(rng)
    patch = rng.standard_normal(4, dtype=np.float32) * 2
    distances = np.linalg.norm(vectors.astype(float) - patch, axis=1)
    nearest = int(distances.argmin())
    around = np.argsort(np.linalg.norm(vectors.astype(float) - vectors[nearest], axis=1))[:5]
    weight = 1 - np.exp(distances[nearest]) / np.exp(distances[around]).sum()
    found = reweighted(float(distances[nearest]), patch, nearest, vectors, searcher, 5)
    assert found == pytest.approx(weight * distances[nearest], rel=1e-6)


def test_eq_7_does_not_overflow(rng):
    """Printed as it is, exp of a distance of 10 000 is infinite and the score NaN."""
    vectors, _ = bank(rng)
    far = vectors * np.float32(5000)
    patch = np.full(4, 20_000, np.float32)
    distances = np.linalg.norm(far - patch, axis=1)
    score = reweighted(float(distances.min()), patch, int(distances.argmin()), far, build_searcher(far, Config()), 9)
    assert np.isfinite(score)
    assert 0 <= score <= distances.min()


def test_eq_7_of_a_bank_smaller_than_b(rng):
    vectors, searcher = bank(rng, m=3)
    score = reweighted(1.0, vectors[0] + 1, 0, vectors, searcher, 9)
    assert 0 < score < 1


def test_eq_7_with_duplicates_in_the_bank():
    """Duplicates fill the neighbourhood of m*; m* still counts once, and the weight stays below 1."""
    vectors = np.zeros((20, 2), np.float32)
    score = reweighted(1.0, np.array([1, 0], np.float32), 19, vectors, build_searcher(vectors, Config()), 4)
    assert 0 < score < 1


def patches(features, grid, place=None):
    place = np.arange(len(features)) if place is None else place
    return Patches(features, place.astype(np.int32), grid, (8 * grid[0], 8 * grid[1]), ImageStatistics(1.0, 1.0, *grid))


def test_image_score_follows_the_config(rng):
    vectors, searcher = bank(rng)
    features = rng.standard_normal((100, 4), dtype=np.float32) * 2
    distances, indices = searcher.search(features, 1)
    scores = patch_scores(mean_distances(distances), features, None)

    def score(**options):
        return image_score(scores, indices, patches(features, (4, 25)), vectors, searcher, Config(**options))

    assert score(image_score="max") == pytest.approx(float(scores.max()))
    top = {"image_score": "top_fraction", "top_fraction": 0.05}
    assert score(**top, score_smoothing=0) == pytest.approx(float(np.sort(scores)[-5:].mean()))
    blurred = ndimage.gaussian_filter(scores.reshape(4, 25), 1.5, mode="reflect")
    assert score(**top, score_smoothing=1.5) == pytest.approx(float(np.sort(blurred.ravel())[-5:].mean()), rel=1e-5)
    worst = int(scores.argmax())
    expected = reweighted(float(scores[worst]), features[worst], int(indices[worst, 0]), vectors, searcher, 9)
    assert score(image_score="reweighted") == pytest.approx(expected)


def test_smoothing_is_a_gaussian_over_the_patches_that_count(rng):
    """Oracle: scipy. What does not count has no weight, whatever its values; sigma 0 changes nothing."""
    scores = rng.random((9, 13), dtype=np.float32)
    np.testing.assert_allclose(smoothed(scores, 1.3), ndimage.gaussian_filter(scores, 1.3, mode="reflect"), rtol=1e-4)
    assert smoothed(scores, 0) is scores
    counted = rng.random((9, 13)) < 0.7
    noise = np.where(counted, scores, rng.random((9, 13), dtype=np.float32) * 100)
    np.testing.assert_array_equal(smoothed(scores, 1.0, counted)[counted], smoothed(noise, 1.0, counted)[counted])
    same = smoothed(np.where(counted, np.float32(3), np.float32(0)), 1.0, counted)
    np.testing.assert_allclose(same[counted], 3, rtol=1e-5)


def test_one_odd_patch_counts_less_than_several_side_by_side(rng):
    """What smoothing is for: a defect spans several patches, noise does not. The largest patch scores are the same."""
    vectors, searcher = bank(rng)
    apart, together = np.ones((2, 20, 20), np.float32)
    apart[2:18:5, 10] = together[9:11, 9:11] = 3  # four patches each
    index = np.zeros((400, 1), np.int64)

    def score(grid, sigma):
        config = Config(image_score="top_fraction", score_smoothing=sigma)
        features = np.zeros((400, 4), np.float32)
        return image_score(grid.ravel(), index, patches(features, (20, 20)), vectors, searcher, config)

    assert score(apart, 0) == score(together, 0) == 3
    assert score(together, 1) > 1.2 * score(apart, 1)


def test_patches_outside_the_region_neither_count_nor_dilute(rng):
    vectors, searcher = bank(rng)
    place = np.arange(50) * 2
    features, index = np.zeros((50, 4), np.float32), np.zeros((50, 1), np.int64)
    flat = np.full(50, 2, np.float32)
    config = Config(image_score="top_fraction", top_fraction=0.1)
    found = image_score(flat, index, patches(features, (10, 10), place), vectors, searcher, config)
    assert found == pytest.approx(2, rel=1e-5)
