"""The yardstick for distances: quantiles of left-out normal patches, overall and by place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from patchbank.scoring.normal_distances import LEVELS, MOST_CELLS, Distribution, NormalDistances


def flat(values) -> Distribution:
    """The distribution of these values, as one row of patches."""
    return NormalDistances.of([(np.array([values], np.float32), None)]).everywhere()


def test_quantiles_of_1_to_100():
    found = flat(np.random.default_rng(0).permutation(np.arange(1, 101)))
    assert found.count == 100
    for level, value in zip(found.levels, found.quantiles, strict=True):
        assert value == max(1, np.ceil(100 * round(float(level), 4)))
    assert (found.median, found.largest, found.quantile(0.99)) == (50, 100, 99)


def test_share_at_most():
    found = flat(np.arange(1, 101))
    assert found.share_at_most(0.5) == 0
    assert found.share_at_most(50) == pytest.approx(0.5)
    assert found.share_at_most(52.5) == pytest.approx(0.525)  # between the stored 0.5 and 0.6
    assert found.share_at_most(99) == pytest.approx(0.99)
    assert found.share_at_most(100) == found.share_at_most(1e9) == 1
    assert flat([2, 2, 2]).share_at_most(2) == 1
    assert flat([2, 2, 2]).share_at_most(np.nextafter(np.float32(2), np.float32(0))) == 0


@settings(deadline=None, max_examples=60)
@given(arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 8, width=16)), st.floats(0, 9))
def test_shares_are_those_of_the_values(values, distance):
    """Against counting: never off by more than the distance between the stored levels around it."""
    found, true = flat(values), float((values <= np.float32(distance)).mean())
    after = min(np.searchsorted(found.levels, true + 1e-6, side="right"), len(LEVELS) - 1)
    before = np.searchsorted(found.levels, true - 1e-6, side="left") - 1
    assert found.levels[max(before, 0)] - 1e-6 <= found.share_at_most(distance) <= found.levels[after] + 1e-6


def test_each_place_has_its_own():
    """Two images of different grids: the left half's distances are small, the right half's large."""
    images = []
    for size in ((20, 32), (48, 64)):
        scores = np.full(size, 1, np.float32)
        scores[:, size[1] // 2 :] = 5
        images.append((scores, None))
    normal = NormalDistances.of(images)
    assert normal.counts.shape == (MOST_CELLS, MOST_CELLS)
    assert normal.counts.sum() == normal.everywhere().count == 20 * 32 + 48 * 64
    assert (normal.at(0.49, 0.5).largest, normal.at(0.51, 0.5).quantiles[0]) == (1, 5)
    assert normal.everywhere().quantiles[[0, -1]].tolist() == [1, 5]
    assert normal.at(1.0, 1.0).median == normal.at(2.0, 0.9).median == 5  # the border, and beyond it
    assert normal.images == 2


def test_a_patch_belongs_to_the_cell_that_its_centre_is_in(rng):
    scores = rng.random((23, 37)).astype(np.float32)
    normal = NormalDistances.of([(scores, None)])
    for row, column in ((0, 0), (11, 18), (22, 36), (7, 30)):
        found = normal.at((column + 0.5) / 37, (row + 0.5) / 23)
        assert found.quantiles[0] <= scores[row, column] <= found.largest
    small = NormalDistances.of([(scores[:3, :5], None)])
    assert small.counts.tolist() == [[1] * 5] * 3
    np.testing.assert_array_equal(small.cells[:, :, -1], scores[:3, :5])


def test_what_does_not_count_is_left_out():
    scores, counted = np.ones((32, 32), np.float32), np.zeros((32, 32), np.bool_)
    scores[:16], counted[:16] = 3, True
    normal = NormalDistances.of([(scores, counted)])
    assert normal.everywhere().quantiles.tolist() == [3.0] * len(LEVELS)
    assert normal.everywhere().count == 512
    assert normal.at(0.5, 0.75) is None
    assert normal.at(0.5, 0.25).count == 4


def test_it_is_small_whatever_came(rng):
    normal = NormalDistances.of([(rng.random((64, 64)).astype(np.float32), None)] * 3)
    assert sum(a.nbytes for a in (normal.levels, normal.overall, normal.cells, normal.counts)) < 30_000


def test_nothing_to_learn_from():
    with pytest.raises(ValueError, match="at least one image"):
        NormalDistances.of([])


@pytest.mark.parametrize(
    "change",
    [
        {"levels": np.array([0.0, 0.5], np.float32)},
        {"levels": np.linspace(1, 0, len(LEVELS), dtype=np.float32)},
        {"overall": np.full(len(LEVELS), np.nan, np.float32)},
        {"overall": np.linspace(1, 0, len(LEVELS), dtype=np.float32)},
        {"cells": np.full((2, 2, len(LEVELS)), -1, np.float32)},
        {"counts": np.zeros((2, 2), np.int32)},
        {"counts": np.full((2, 2), -1, np.int32)},
        {"counts": np.ones((17, 2), np.int32), "cells": np.ones((17, 2, len(LEVELS)), np.float32)},
        {"images": 0},
    ],
)
def test_impossible_values_are_refused(change):
    """It comes from a model file, which is untrusted."""
    good = vars(NormalDistances.of([(np.ones((2, 2), np.float32), None)]))
    with pytest.raises(ValueError):
        NormalDistances(**good | change)
