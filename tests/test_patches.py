"""Patches: neighbourhoods, alignment and both embeddings, against closed forms, brute force and golden numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchbank.config import Config
from patchbank.errors import ConfigError
from patchbank.features.embedding import (
    adaptive_average_pool,
    bilinear_matrix,
    embed,
    mean_embedding,
    neighbourhood_mean_matrix,
    patch_grid,
    reference_embedding,
    unfold,
)


def test_adaptive_pool_closed_form():
    x = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]], np.float32)
    np.testing.assert_allclose(adaptive_average_pool(x, 1), [[3.0]])
    np.testing.assert_allclose(adaptive_average_pool(x, 2), [[2.0, 4.0]])  # windows 0..3 and 2..5 overlap
    np.testing.assert_allclose(adaptive_average_pool(x, 5), x)
    np.testing.assert_allclose(adaptive_average_pool(x[:, :2], 4), [[1.0, 1.0, 2.0, 2.0]])  # more outputs than inputs


@given(st.integers(1, 40), st.integers(1, 40))
def test_adaptive_pool_is_the_mean_over_its_definition(n, size):
    x = np.random.default_rng(n * 41 + size).standard_normal((3, n), dtype=np.float32)
    expected = [x[:, j * n // size : -(-(j + 1) * n // size)].mean(axis=1) for j in range(size)]
    np.testing.assert_allclose(adaptive_average_pool(x, size), np.stack(expected, axis=1), atol=1e-5)


def test_unfold_flattens_channel_row_column():
    m = np.arange(2 * 3 * 3, dtype=np.float32).reshape(1, 2, 3, 3)
    patches = unfold(m, 3, 1)
    assert patches.shape == (1, 3, 3, 18)
    np.testing.assert_array_equal(patches[0, 1, 1], m.ravel())  # the centre sees everything, in (C, p, p) order
    np.testing.assert_array_equal(patches[0, 0, 0, :9], [0, 0, 0, 0, 0, 1, 0, 3, 4])  # zeros beyond the corner


@pytest.mark.parametrize(
    ("size", "p", "s", "grid"), [((28, 28), 3, 1, (28, 28)), ((7, 9), 5, 2, (4, 5)), ((8, 8), 2, 2, (4, 4))]
)
def test_patch_grid_closed_form(size, p, s, grid):
    assert patch_grid(size, p, s) == grid


def test_patch_larger_than_the_map_is_an_error():
    with pytest.raises(ConfigError, match="does not fit"):
        patch_grid((1, 5), 2, 1)


def test_bilinear_closed_form():
    np.testing.assert_allclose(bilinear_matrix(2, 4), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    np.testing.assert_allclose(bilinear_matrix(3, 3), np.eye(3))


@given(st.integers(1, 30), st.integers(1, 60))
def test_bilinear_rows_sum_to_one_and_keep_straight_lines_inside(size, target):
    matrix = bilinear_matrix(size, target)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    centres = (np.arange(target) + 0.5) * size / target - 0.5
    np.testing.assert_allclose(matrix @ np.arange(size), np.clip(centres, 0, size - 1), atol=1e-4)


def test_neighbourhood_mean_counts_zeros_beyond_the_border():
    third = 1 / 3
    expected = [[third, third, 0], [third, third, third], [0, third, third]]
    np.testing.assert_allclose(neighbourhood_mean_matrix(3, 3, 1), expected)


def test_mean_embedding_of_a_constant_is_that_constant_inside():
    maps = [np.full((2, 3, 8, 12), 2.0, np.float32), np.full((2, 5, 4, 6), -1.0, np.float32)]
    features = mean_embedding(maps, 3, 1)
    assert features.shape == (2, 8, 12, 8)
    np.testing.assert_allclose(features[:, 1:-1, 1:-1, :3], 2, rtol=1e-6)
    np.testing.assert_allclose(features[:, 3:-3, 3:-3, 3:], -1, rtol=1e-6)
    np.testing.assert_allclose(features[:, 0, 0, :3], 2 * 4 / 9, rtol=1e-6)  # five of nine positions are zeros


@pytest.mark.parametrize(("p", "s"), [(1, 1), (3, 1), (5, 2), (2, 1), (3, 3)])
def test_mean_embedding_equals_the_loop_over_neighbourhoods(rng, p, s):
    shallow, deep = (rng.standard_normal(shape, dtype=np.float32) for shape in [(1, 4, 12, 10), (1, 6, 6, 5)])
    features = mean_embedding([shallow, deep], p, s)

    def local_mean(m):
        rows, columns = patch_grid(m.shape[2:], p, s)
        pad, out = (p - 1) // 2, np.empty((rows, columns, m.shape[1]))
        for i in range(rows):
            for j in range(columns):
                window = m[0, :, max(i * s - pad, 0) : i * s - pad + p, max(j * s - pad, 0) : j * s - pad + p]
                out[i, j] = window.sum(axis=(1, 2)) / p**2
        return out

    low = local_mean(deep)
    grid = patch_grid((12, 10), p, s)
    aligned = np.einsum(
        "hr,rcd,wc->hwd", bilinear_matrix(low.shape[0], grid[0]), low, bilinear_matrix(low.shape[1], grid[1])
    )
    np.testing.assert_allclose(features[0], np.concatenate([local_mean(shallow), aligned], axis=2), atol=1e-5)


def test_embeddings_are_linear_and_images_of_a_batch_independent(rng):
    """The claims on which pooling before aligning, and scoring one image alone or among others, rest."""
    a, b = ([rng.standard_normal((1, c, n, n), dtype=np.float32) for c, n in ((4, 8), (6, 4))] for _ in range(2))
    reference = Config(embedding="reference", pretrain_embed_dim=16, target_embed_dim=12, patch_size=3)
    for config in (Config(embedding="mean", patch_size=3), reference):
        both = embed([np.concatenate(pair) for pair in zip(a, b, strict=True)], config)
        np.testing.assert_array_equal(both[1], embed(b, config)[0])
        total = embed([x + 2 * y for x, y in zip(a, b, strict=True)], config)
        np.testing.assert_allclose(total, embed(a, config) + 2 * embed(b, config), atol=1e-4)


def test_reference_embedding_in_the_published_order(rng):
    """Align every element of every deeper neighbourhood first, then pool: the slow order of the published code."""
    maps = [rng.standard_normal(shape, dtype=np.float32) for shape in [(1, 5, 10, 8), (1, 7, 5, 4)]]
    grid, layers = (10, 8), []
    for m in maps:
        patches = unfold(m, 3, 1)[0].astype(np.float64)
        rows, columns = bilinear_matrix(patches.shape[0], grid[0]), bilinear_matrix(patches.shape[1], grid[1])
        layers.append(adaptive_average_pool(np.einsum("hr,rcd,wc->hwd", rows, patches, columns), 20))
    expected = adaptive_average_pool(np.stack(layers, axis=2).reshape(10, 8, 40), 24)
    np.testing.assert_allclose(reference_embedding(maps, 3, 1, 20, 24)[0], expected, atol=1e-5)


def test_what_is_left_to_the_backbone_must_be_resolved_first():
    for config, message in ((Config(patch_size=3), "resolve 'auto'"), (Config(embedding="mean"), "resolve 0")):
        with pytest.raises(ConfigError, match=message):
            embed([np.zeros((1, 2, 4, 4), np.float32)], config)


BATCH = 2
GOLDEN = np.load(Path(__file__).parent / "golden" / "reference_embedding.npz")


@pytest.mark.parametrize("case", sorted({key.split("/")[0] for key in GOLDEN.files}))
def test_reference_embedding_gives_the_published_code_s_numbers(case):
    """Golden numbers of a torch implementation of the published semantics (tools/make_golden_features.py)."""
    golden = {
        name: GOLDEN[f"{case}/{name}"] for name in ("seed", "shapes", "settings", "grid", "rows", "values", "row_means")
    }
    rng = np.random.default_rng(int(golden["seed"]))
    maps = [rng.standard_normal((BATCH, *shape), dtype=np.float32) for shape in golden["shapes"]]
    features = reference_embedding(maps, *(int(value) for value in golden["settings"]))
    assert features.shape[1:3] == tuple(golden["grid"])
    flat = features.reshape(-1, features.shape[-1])  # (B, h, w, D) -> (B*h*w, D)
    np.testing.assert_allclose(flat[golden["rows"]], golden["values"], atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(flat.mean(axis=1), golden["row_means"], atol=1e-5, rtol=1e-4)
