"""Grids in few bytes: what comes back, and what is refused before it takes memory."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from patchbank.util import grids


def test_a_grid_comes_back_as_float16_has_it():
    grid = np.array([[0, 1, 0.1], [33.333, 70_000, 1e-3]], np.float32)
    data = grids.packed(grid)
    assert zlib.decompress(data) == np.clip(grid, 0, 65504).astype("<f2").tobytes()
    np.testing.assert_allclose(grids.unpacked(data, 2, 3), np.clip(grid, 0, 65504), rtol=5e-4)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 8), (5, 13)])
def test_truths_come_back(shape):
    truths = np.random.default_rng(0).random(shape) < 0.5
    np.testing.assert_array_equal(grids.unpacked_bits(grids.packed_bits(truths), *shape), truths)


@pytest.mark.parametrize(
    "data",
    [b"", b"x", zlib.compress(bytes(11)), zlib.compress(bytes(13)), zlib.compress(bytes(12)) + b"x",
     zlib.compress(bytes(12))[:-1], zlib.compress(bytes(100_000_000))],
    ids=["nothing", "no zlib", "short", "long", "more behind", "cut", "bomb"],
)  # fmt: skip
def test_other_data_is_refused(data):
    with pytest.raises(ValueError, match="packed by zlib"):
        grids.unpacked(data, 2, 3)
