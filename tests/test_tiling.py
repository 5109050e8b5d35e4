"""Tiles: what is computed in pieces is what would be computed at once, whatever the sizes."""

from __future__ import annotations

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchbank import Config, PatchCore
from patchbank.backbones import Layer, load_backbone
from patchbank.backbones.base import SIDE_MULTIPLE
from patchbank.backbones.fake import FakeBackbone
from patchbank.config import Runtime
from patchbank.errors import BackboneError, ConfigError
from patchbank.features.extract import layer_maps, spans
from patchbank.imaging.images import input_size


def test_a_short_axis_is_one_span():
    (span,) = spans(100, 128, 32, 32)
    assert (span.start, span.stop, span.read_start, span.read_stop) == (0, 100, 0, 100)


def test_closed_form():
    found = [(s.start, s.stop, s.read_start, s.read_stop) for s in spans(384, 256, 64, 32)]
    assert found == [(0, 128, 0, 192), (128, 256, 64, 320), (256, 384, 192, 384)]


@given(
    length=st.integers(1, 5000),
    core=st.integers(1, 20).map(lambda n: n * SIDE_MULTIPLE),
    overlap=st.integers(0, 6).map(lambda n: n * SIDE_MULTIPLE),
)
def test_spans_cover_the_axis_once_and_fit_the_tile(length, core, overlap):
    tile = core + 2 * overlap
    parts = spans(length, tile, overlap, SIDE_MULTIPLE)
    assert parts[0].start == 0
    assert parts[-1].stop == length
    assert all(a.stop == b.start for a, b in itertools.pairwise(parts))
    for part in parts:
        assert part.start < part.stop
        assert part.read_stop - part.read_start <= tile
        assert part.start % SIDE_MULTIPLE == part.read_start % SIDE_MULTIPLE == 0
        assert part.read_start == max(0, part.start - overlap) or len(parts) == 1
        assert part.read_stop == min(length, part.stop + overlap) or part is parts[-1] or len(parts) == 1


def test_tiled_maps_are_those_of_the_whole_image(rng):
    """The fake backbone is local: any overlap will do, and any slip of a row or column shows."""
    image = rng.integers(0, 256, (352, 608, 3)).astype(np.uint8)
    whole = layer_maps(image, FakeBackbone(), 640, 0)
    for tile, overlap in ((128, 0), (192, 32), (256, 96)):
        for a, b in zip(whole, layer_maps(image, FakeBackbone(), tile, overlap), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_default_network_has_no_seams_at_the_default_overlap(rng):
    """Half the receptive field of blocks.4 is 170 pixels: with 192 read around, a tile's maps are the whole image's."""
    noise = cv2.resize(rng.integers(0, 256, (80, 110, 3)).astype(np.uint8), (1088, 800))
    network = load_backbone("efficientnet_lite0", (), Runtime())
    whole = layer_maps(noise, network, 1088, 0)
    tiled = layer_maps(noise, network, 640, Config().tile_overlap)
    seams = layer_maps(noise, network, 640, 0)
    for a, b, c in zip(whole, tiled, seams, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max())
        assert np.abs(a - c).max() > 1e-2 * np.abs(a).max()  # without overlap there are seams: the test sees them


def test_strides_that_do_not_divide_are_refused(rng):
    network = FakeBackbone((Layer("odd", 4, 24),))
    with pytest.raises(BackboneError, match="tile_size"):
        layer_maps(rng.integers(0, 256, (256, 256, 3)).astype(np.uint8), network, 128, 0)


@pytest.mark.parametrize("change", [{"tile_size": 1000}, {"tile_overlap": 50}, {"tile_size": 256, "tile_overlap": 128}])
def test_impossible_tiles(change):
    with pytest.raises(ConfigError, match="tile"):
        Config(**change)


@pytest.mark.parametrize(
    ("image_size", "shape", "expected"),
    [
        ((384,), (900, 900), (384, 384)),
        ((384,), (100, 100), (384, 384)),
        ((384,), (1250, 500), (608, 256)),  # 384 * sqrt(2.5) = 607, 384 / sqrt(2.5) = 243
        ((32,), (10_000, 10), (1024, 32)),
        ((240, 320), (900, 900), (240, 320)),
        ((3000, 4000), (3000, 4000), (3008, 4000)),  # longer than a tile: rounded, so that tiles stay in phase
    ],
)
def test_input_size(image_size, shape, expected):
    assert input_size(image_size, shape, 2048, SIDE_MULTIPLE) == expected


@given(height=st.integers(8, 5000), width=st.integers(8, 5000), n=st.integers(64, 1024))
def test_the_area_is_kept_whatever_the_shape(height, width, n):
    a, b = input_size((n,), (height, width), 16384, SIDE_MULTIPLE)
    assert a % SIDE_MULTIPLE == b % SIDE_MULTIPLE == 0
    shorter = n * (min(height, width) / max(height, width)) ** 0.5
    if shorter >= 2 * SIDE_MULTIPLE:
        assert 0.6 < a * b / n**2 < 1.6
        assert 0.6 < (a / b) / (height / width) < 1.7


def test_a_small_defect_in_a_large_image_is_found(rng):
    """4000 x 3000 pixels, a defect of 20: found where it is, and the map is smooth across the tiles."""
    texture = cv2.resize(rng.integers(90, 160, (750, 1000)).astype(np.uint8), (4000, 3000))
    good = [np.roll(texture, (97 * n, 211 * n), (0, 1)) for n in range(3)]
    config = Config(
        image_size=(1056, 1408),
        tile_size=768,
        sampler="random",
        calibration="none",
        coreset_size=2000,
        thumbnail_size=0,
        distance_scaling=0,
    )
    model = PatchCore.fit(good[:2], config)
    bad = good[2].copy()
    bad[1490:1510, 2190:2210] = 0
    result = model.predict(bad)
    y, x = np.unravel_index(int(result.anomaly_map.argmax()), result.anomaly_map.shape)
    assert abs(y - 1500) < 40
    assert abs(x - 2200) < 40
    whole = dataclasses.replace(model, config=dataclasses.replace(model.config, tile_size=2048))
    one_pass = whole.predict(bad)
    np.testing.assert_allclose(result.anomaly_map, one_pass.anomaly_map, atol=0.01 * one_pass.anomaly_map.max())
