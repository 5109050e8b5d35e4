"""What a bank takes from new images, and what fills the place of those that leave: closed forms, then properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank.bank import coreset
from patchbank.bank.memory_bank import ArchivedVectors, MemoryBank
from patchbank.calibration.thresholds import Calibration
from patchbank.config import Config
from patchbank.errors import ConfigError, DatasetError
from patchbank.features.embedding import CalibrationPatches, ImageStatistics, Patches
from patchbank.search.exact import ExactSearcher
from patchbank.update.learning import NewImage, farthest, fill, learn, learning_radius, staying

LOOK = ImageStatistics(1.0, 0.5, 32, 32)


def line(*values: float) -> np.ndarray:
    """Points on a line, (n, 1) float32."""
    return np.array(values, np.float32)[:, None]


def new_image(number: int, *values: float) -> NewImage:
    patches = Patches(line(*values), np.arange(len(values), dtype=np.int32), (1, len(values)), (32, 32), LOOK)
    return NewImage(number, f"new {number}", patches, b"")


def rows(vectors: np.ndarray, image: list[int]) -> tuple[np.ndarray, ...]:
    zeros = np.zeros(len(vectors), np.int32)
    return vectors, np.array(image, np.int32), zeros, zeros


def bank_of(vectors: np.ndarray, image: list[int], radius: float = 1.0) -> MemoryBank:
    names = tuple(f"image {n}" for n in range(max(image) + 1))
    return MemoryBank(*rows(vectors, image), images=names, covering_radius=radius, grids=np.ones((len(names), 2), int))


def test_learns_the_farthest_first_and_stops_when_all_is_covered():
    """Bank at 0 and 10, radius 2: of 1, 9, 3, 20, 21 the last three are new; 21 covers 20, then 3 is left."""
    learned = learn([new_image(4, 1, 9, 3, 20, 21)], line(0, 10), 2.0)
    np.testing.assert_array_equal(learned.rows.vectors, line(21, 3))
    assert learned.rows.image.tolist() == [4, 4]
    assert learned.rows.column.tolist() == [4, 2]
    assert learned.covered == (2,)
    assert learned.reach == 1.0


def test_two_images_are_learned_together():
    """What one of them brings covers the other's."""
    learned = learn([new_image(2, 0.5, 30), new_image(3, 31, 29.5)], line(0), 2.0)
    np.testing.assert_array_equal(learned.rows.vectors, line(31))
    assert learned.rows.image.tolist() == [3]
    assert learned.covered == (1, 0)
    assert learned.reach == 1.5


def test_nothing_is_learned_twice():
    learned = learn([new_image(2, 0.5, 1, -2)], line(0), 2.0)
    assert len(learned.rows) == 0
    assert learned.covered == (3,)
    assert learned.reach == 2.0
    assert learn([], line(0), 2.0).reach == 0.0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.floats(0.01, 6), count=st.integers(1, 60))
def test_afterwards_every_patch_is_covered_and_no_vector_was_needless(seed, radius, count):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, 3)).astype(np.float32)
    features = (rng.standard_normal((count, 3)) * 3).astype(np.float32)
    image = NewImage(7, "new", Patches(features, np.arange(count, dtype=np.int32), (1, count), (32, 32), LOOK), b"")
    learned = learn([image], centres, radius)
    bank = np.concatenate([centres, learned.rows.vectors])
    distances = ExactSearcher(bank).search(features, 1)[0]
    assert distances.max() <= radius * (1 + 1e-6)
    assert float(distances.max()) * (1 - 1e-6) <= learned.reach <= radius * (1 + 1e-6)
    np.testing.assert_array_equal(features[learned.rows.column], learned.rows.vectors)
    for number, vector in enumerate(learned.rows.vectors):  # each was farther than the radius when it was taken
        assert ExactSearcher(bank[: len(centres) + number]).search(vector[None], 1)[0].item() > radius


def test_the_radius_is_that_of_a_typical_good_image():
    bank = bank_of(line(0, 1), [0, 1], radius=9.0)
    scores, peaks = np.array([3, 5, 50], np.float32), np.array([4, 4.5, 60], np.float32)
    calibration = Calibration(scores, peaks, ("a", "b", "c"), "leave_one_out", 0.01)
    assert learning_radius(bank, calibration) == 4.5
    assert learning_radius(bank_of(line(0, 1), [0, 1], radius=2.0), calibration) == 2.0
    assert learning_radius(bank, None) == 9.0
    unknown = bank_of(line(0, 1), [0, 1], radius=float("nan"))
    assert learning_radius(unknown, calibration) == 4.5
    with pytest.raises(ConfigError, match="fit it again"):
        learning_radius(unknown, None)


def test_what_stays():
    assert staying(bank_of(line(0, 10, 20, 1), [0, 1, 1, 2]), [1]).tolist() == [0, 3]
    assert staying(bank_of(line(0, 10), [0, 1]), []).tolist() == [0, 1]
    with pytest.raises(DatasetError, match="would be empty"):
        staying(bank_of(line(0, 10), [0, 1]), [0, 1])


def test_a_hole_is_filled_by_the_farthest_candidates():
    """0 and 1 are left; of 2, 19, 9, 0.5 the two that k-center takes are 19 and 9."""
    candidates = ArchivedVectors(*rows(line(2, 19, 9, 0.5), [0, 2, 0, 2]))
    exact = Config(sampler="greedy_coreset")
    filled = fill(candidates, line(0, 1), 2, exact)
    assert (filled.picks.tolist(), filled.reach) == ([1, 2], 1.0)
    assert fill(candidates, line(0, 1), 2, exact, left_out=1.5).reach == 1.5
    assert fill(candidates, line(0, 1), 9, exact).picks.tolist() == [1, 2, 0, 3]  # as many as there are
    assert fill(candidates, line(0, 1), 0, exact).picks.tolist() == []
    assert fill(candidates.take(np.empty(0, np.int64)), line(0, 1), 2, exact).picks.tolist() == []


@pytest.mark.parametrize("count", [1, 5, 17, 1000])
def test_the_farthest_patches_of_many_images_in_bounded_memory(rng, count):
    """The same as sorting all of them; what is in the bank is no candidate."""
    centres = rng.standard_normal((6, 3)).astype(np.float32)
    features = rng.standard_normal((8, 10, 3)).astype(np.float32)
    features[2, 4] = centres[1]
    patches = [Patches(f, np.arange(10, dtype=np.int32), (2, 5), (32, 32), LOOK) for f in features]
    pool, left_out = farthest([CalibrationPatches(n, p) for n, p in enumerate(patches)], centres, count)
    everything = features.reshape(-1, 3)
    distances = ExactSearcher(centres).search(everything, 1)[0][:, 0]
    expected = np.sort(np.argsort(-distances, kind="stable")[: min(count, 79)])
    np.testing.assert_array_equal(np.sort(pool.image * 10 + pool.row * 5 + pool.column), expected)
    np.testing.assert_array_equal(pool.vectors, features[pool.image, pool.row * 5 + pool.column])
    assert left_out == np.sort(distances)[::-1][count] if count < 79 else left_out == 0


@pytest.mark.parametrize("sampler", ["random", "greedy_coreset", "approx_greedy_coreset"])
def test_spares_are_the_next_picks(rng, sampler):
    """They change nothing about the coreset itself, and continue it as a larger one would."""
    points = rng.standard_normal((900, 12)).astype(np.float32)
    options = {"sampler": sampler, "projection_dim": 8}
    plain = coreset.sample(points, Config(coreset_size=60, spare_ratio=0, **options))
    spared = coreset.sample(points, Config(coreset_size=60, spare_ratio=0.5, **options))
    larger = coreset.sample(points, Config(coreset_size=90, spare_ratio=0, **options))
    assert len(plain.spares) == 0
    np.testing.assert_array_equal(spared.indices, plain.indices)
    np.testing.assert_array_equal(np.concatenate([spared.indices, spared.spares]), larger.indices)
    assert spared.covering_radius == pytest.approx(plain.covering_radius, rel=1e-6)


@pytest.mark.parametrize("sampler", ["random", "greedy_coreset", "approx_greedy_coreset", "identity"])
def test_a_sampler_continues_from_what_is_there(rng, sampler):
    """No pick twice, the same again, and the radius is that of centres and picks."""
    points, centres = (rng.standard_normal((n, 12)).astype(np.float32) for n in (400, 20))
    config = Config(sampler=sampler, projection_dim=5)
    picked = coreset.continued(points, 30, centres, config)
    assert len(set(picked.indices.tolist())) == 30
    np.testing.assert_array_equal(coreset.continued(points, 30, centres, config).indices, picked.indices)
    true = ExactSearcher(np.concatenate([centres, points[picked.indices]])).search(points, 1)[0].max()
    assert picked.covering_radius == pytest.approx(float(true), rel=1e-6)
    if sampler == "approx_greedy_coreset":  # in the projection, the farthest comes first
        small, seeds = (coreset.project(each, 5, np.random.default_rng(0)) for each in (points, centres))
        assert picked.indices[0] == ExactSearcher(seeds).search(small, 1)[0][:, 0].argmax()


def test_spares_end_where_the_points_do(rng):
    points = rng.standard_normal((30, 4)).astype(np.float32)
    assert len(coreset.sample(points, Config(sampler="greedy_coreset", coreset_size=28, spare_ratio=1.0)).spares) == 2
    assert len(coreset.sample(points, Config(sampler="identity", spare_ratio=1.0)).spares) == 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.floats(0.05, 5))
def test_cover_is_k_center_up_to_the_radius(seed, radius):
    """The same picks as greedy k-center from the same centres, as many as it takes and not one more."""
    rng = np.random.default_rng(seed)
    points, centres = (rng.standard_normal((n, 2)).astype(np.float32) for n in (150, 5))
    picked = coreset.cover(points, centres, radius)
    count = len(picked.indices)
    if count:
        full = coreset.greedy_kcenter(points, count, seeds=centres)
        np.testing.assert_array_equal(picked.indices, full.indices)
        assert picked.distances.min() > radius
    everything = np.concatenate([centres, points[picked.indices]])
    true = float(ExactSearcher(everything).search(points, 1)[0].max())
    assert true <= radius * (1 + 1e-6)
    assert picked.covering_radius == pytest.approx(true, rel=1e-6, abs=1e-6)
