"""Fit under a memory budget: one chunk loses nothing; many keep the bank nearly as good, within their stated bound."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from patchbank.bank.coreset import sample
from patchbank.config import Config
from patchbank.errors import ConfigError
from patchbank.features.embedding import ImageStatistics, Patches
from patchbank.fit import fit as training
from patchbank.fit import stream as streaming
from patchbank.fit.self_test import ImageSample
from patchbank.fit.stream import PatchStream
from patchbank.search.exact import ExactSearcher
from patchbank.util.progress import silent
from patchbank.validation import memory_budget

GRID, DIMS, PROJECTED = (10, 10), 6, 4
CONFIG = Config(coreset_size=60, projection_dim=PROJECTED, calibration="none", thumbnail_size=0)


def images(rng, n):
    """n images of 100 patches: clusters that all images share, and now and then a patch like no other."""
    centres = rng.standard_normal((20, DIMS)) * 5
    for _ in range(n):
        patches = centres[rng.integers(0, 20, 100)] + rng.standard_normal((100, DIMS))
        if rng.random() < 0.1:
            patches[0] *= 4
        yield patches.reshape(*GRID, DIMS).astype(np.float32)


def patches_of(features):
    height, width, dims = features.shape
    place = np.arange(height * width, dtype=np.int32)
    return Patches(features.reshape(-1, dims), place, (height, width), (80, 80), ImageStatistics(1.0, 0.5, 80, 80))


def run(everything, budget, config=CONFIG, held_out=lambda image: False, known=True):
    stream = PatchStream(config, budget, len(everything) if known else 0, held_out, silent)
    for features in everything:
        stream.add(patches_of(features))
    bank, _, calibration = stream.finish(tuple(f"{n}" for n in range(len(everything))))
    return stream, bank, calibration


def budget_for(images_at_once, sampler="approx_greedy_coreset"):
    row = 4 * (DIMS + (PROJECTED if sampler == "approx_greedy_coreset" else 0)) + streaming._ROW_OVERHEAD
    return int(images_at_once * 100 * row / (1 - streaming.WORK_SHARE - streaming.CALIBRATION_SHARE)) + row


def radius(everything, vectors):
    points = np.concatenate([features.reshape(-1, DIMS) for features in everything])
    return float(ExactSearcher(vectors).search(points, 1)[0].max())


@pytest.mark.parametrize("sampler", ["identity", "random", "greedy_coreset", "approx_greedy_coreset"])
def test_one_chunk_is_the_sampler_itself(rng, sampler):
    everything = list(images(rng, 12))
    config = dataclasses.replace(CONFIG, sampler=sampler)
    stream, bank, _ = run(everything, 10**9, config)
    points = np.concatenate([features.reshape(-1, DIMS) for features in everything])
    chosen = sample(points, config)
    assert stream.chunks == 0
    np.testing.assert_array_equal(bank.vectors, points[chosen.indices])
    assert bank.covering_radius == chosen.covering_radius


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("sampler", ["greedy_coreset", "approx_greedy_coreset"])
def test_many_chunks_cover_nearly_as_well_as_one(rng, sampler, known):
    everything = list(images(rng, 120))
    config = dataclasses.replace(CONFIG, sampler=sampler)
    _, whole, _ = run(everything, 10**9, config)
    stream, bank, _ = run(everything, budget_for(12, sampler), config, known=known)
    assert stream.chunks >= 9
    assert len(bank) == len(whole) == 60
    assert radius(everything, bank.vectors) <= 1.25 * radius(everything, whole.vectors)


def test_what_comes_late_is_covered_as_well_as_what_came_first():
    """A net that was thinned twice must still take what is new: its spacing is its last, not the sum of them all."""
    rng = np.random.default_rng(3)
    places = [rng.standard_normal(DIMS) * 40 for _ in range(8)]
    everything = [
        (place + rng.standard_normal((*GRID, DIMS)) * 4).astype(np.float32) for place in places for _ in range(12)
    ]
    _, whole, _ = run(everything, 10**9)
    stream, bank, _ = run(everything, budget_for(10))
    assert stream.chunks >= 6
    assert stream.net.radius > 1.5 * stream.net.spacing > 0
    assert radius(everything, bank.vectors) <= 1.15 * radius(everything, whole.vectors)
    counts = np.bincount(bank.image // 12, minlength=8)
    assert counts.min() >= 3


def test_the_buffer_has_room_for_projections_only_where_all_may_be_sampled_at_once(rng):
    """A chunk more costs more than the projections save; and what was put in without them must not get them later."""
    few, many = (list(images(rng, n)) for n in (6, 60))
    budget = budget_for(10)
    assert run(few, budget)[0].buffer.capacity < run(many, budget)[0].buffer.capacity
    stream, bank, _ = run(many, budget, known=False)
    assert stream.buffer.capacity == run(many, budget)[0].buffer.capacity
    foreseen = PatchStream(CONFIG, budget, 60, lambda image: False, silent)  # but only half come
    for features in many[:11]:
        foreseen.add(patches_of(features))
    assert foreseen.chunks == 0
    assert foreseen.buffer.used > streaming.Limits(CONFIG, budget, 60).rows(DIMS, projected=True)
    bank = foreseen.finish(tuple(map(str, range(11))))[0]
    exact = sample(
        np.concatenate([f.reshape(-1, DIMS) for f in many[:11]]), dataclasses.replace(CONFIG, sampler="greedy_coreset")
    )
    np.testing.assert_array_equal(bank.vectors, np.concatenate([f.reshape(-1, DIMS) for f in many[:11]])[exact.indices])


def test_the_stated_radius_bounds_the_true_one(rng):
    for seed in range(5):
        everything = list(images(np.random.default_rng(seed), 60))
        _, bank, _ = run(everything, budget_for(6 + seed))
        assert radius(everything, bank.vectors) <= bank.covering_radius * (1 + 1e-5)


def test_provenance_survives_every_reduction(rng):
    everything = list(images(rng, 80))
    for sampler in ("random", "approx_greedy_coreset"):
        _, bank, _ = run(everything, budget_for(10, sampler), dataclasses.replace(CONFIG, sampler=sampler))
        for vector, image, row, column in zip(bank.vectors, bank.image, bank.row, bank.column, strict=True):
            np.testing.assert_array_equal(vector, everything[image][row, column])


def test_a_random_sample_of_a_stream_is_uniform(rng):
    """Early chunks must not be favoured or forgotten: each tenth of the images gives about a tenth of the bank."""
    everything = list(images(rng, 100))
    counts = np.zeros(10)
    for seed in range(20):
        config = dataclasses.replace(CONFIG, sampler="random", seed=seed)
        counts += np.bincount(run(everything, budget_for(9, "random"), config)[1].image // 10, minlength=10)
    assert counts.sum() == 20 * 60
    assert np.abs(counts - 120).max() < 5 * np.sqrt(120)


def test_memory_is_bounded_whatever_comes(rng):
    budget = budget_for(8)
    stream = PatchStream(
        dataclasses.replace(CONFIG, calibration="leave_one_out"), budget, 0, lambda image: False, silent
    )
    for features in images(rng, 300):
        stream.add(patches_of(features))
        held = stream.buffer.features.nbytes + stream.buffer.image.nbytes + stream.buffer.place.nbytes
        held += sum(patches.patches.features.nbytes for patches in stream.pool.images)
        assert held <= budget


def test_thumbnails_keep_within_their_share_of_the_budget(rng, monkeypatch):
    """It is a share of its own, taken from the patches'; pictures of images that have left the net make room."""
    budget, most, had = budget_for(32), [0], []
    config = dataclasses.replace(CONFIG, thumbnail_size=64)

    class Watched(training._Run):
        def add(self, *args):
            reduced = super().add(*args)
            assert self.pictured == sum(map(len, self.thumbnails.values()))
            most.append(self.pictured)
            had.append(set(self.thumbnails))
            stream, sample = PatchStream(config, budget, 200, lambda image: False, silent), ImageSample(0, budget)
            again = training._Run(stream, sample, self.picture_bytes)
            if len(self.names) % 50 == 0:
                again.restore(self.state() | {"digests": np.zeros((self.done, 32), np.uint8)})
                assert (again.pictured, again.thumbnails) == (self.pictured, self.thumbnails)
            return reduced

    monkeypatch.setattr(training, "_Run", Watched)
    made = training.collect(
        [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(200)],
        training.Job(
            config,
            lambda image: patches_of(
                np.random.default_rng(int(image.sum())).standard_normal((*GRID, DIMS), np.float32)
            ),
            lambda image: image,
            budget,
            False,
            silent,
        ),
    )
    share = streaming.PICTURE_SHARE * budget
    assert 0.8 * share < max(most) <= share
    assert any(later - before for before, later in zip(had, had[20:], strict=False))
    assert 0 < len(made.thumbnails) < len(set(made.bank.image.tolist()))
    plain, pictured = (
        PatchStream(dataclasses.replace(CONFIG, thumbnail_size=size), budget, 0, lambda image: False, silent)
        for size in (0, 256)
    )
    for stream in (plain, pictured):
        stream.add(patches_of(next(images(rng, 1))))
    row = (plain.buffer.capacity - pictured.buffer.capacity) * (4 * (DIMS + PROJECTED) + streaming._ROW_OVERHEAD)
    assert row == pytest.approx(share, rel=0.01)


def test_calibration_pool_is_a_uniform_sample_of_the_images(rng):
    config = dataclasses.replace(CONFIG, calibration="leave_one_out")
    counts = np.zeros(4)
    everything = list(images(rng, 80))
    for seed in range(30):
        stream, _, pool = run(everything, budget_for(10), dataclasses.replace(config, seed=seed))
        assert len({patches.image for patches in pool}) == len(pool) == stream.pool.size < 80
        for patches in pool:
            np.testing.assert_array_equal(patches.patches.features, everything[patches.image].reshape(-1, DIMS))
        counts += np.bincount([patches.image // 20 for patches in pool], minlength=4)
    expected = counts.sum() / 4
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_held_out_images_never_reach_the_bank(rng):
    config = dataclasses.replace(CONFIG, calibration="holdout")
    everything = list(images(rng, 60))
    for budget in (10**9, budget_for(8)):
        _, bank, pool = run(everything, budget, config, held_out=lambda image: image % 3 == 0)
        assert not (bank.image % 3 == 0).any()
        assert all(patches.image % 3 == 0 for patches in pool)


def test_same_seed_same_bank(rng):
    everything = list(images(rng, 60))
    for sampler in ("random", "approx_greedy_coreset"):
        config = dataclasses.replace(CONFIG, sampler=sampler)
        a, b = (run(everything, budget_for(8, sampler), config)[1] for _ in range(2))
        np.testing.assert_array_equal(a.vectors, b.vectors)


def test_what_cannot_fit_says_so(rng):
    everything = list(images(rng, 40))
    with pytest.raises(ConfigError, match="identity"):
        run(everything, budget_for(8, "identity"), dataclasses.replace(CONFIG, sampler="identity"))
    with pytest.raises(ConfigError, match="raise memory, or set coreset_size"):
        run(everything, budget_for(8), dataclasses.replace(CONFIG, coreset_size=700))
    with pytest.raises(ConfigError, match="at least"):
        run(everything, budget_for(2))


def test_images_in_use_are_those_of_the_buffer(rng):
    stream, _, _ = run(list(images(rng, 50)), budget_for(8))
    assert stream.images_in_use() == set(stream.buffer.image[: stream.buffer.used].tolist())


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("500 mb", 5 * 10**8), ("1.5GiB", 1610612736), ("3000000", 3 * 10**6)]
)
def test_memory_sizes(text, size):
    assert memory_budget(text) == size


def test_memory_auto_is_half_of_the_machine():
    assert 10**8 < memory_budget("auto") < 10**14


@pytest.mark.parametrize("text", ["", "much", "-1GB", "1XB", "10", "0GB"])
def test_impossible_memory_sizes(text):
    with pytest.raises(ConfigError, match="memory"):
        memory_budget(text)
