"""Maps: sizes, units, smoothing and regions, against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from patchbank.scoring.regions import mask_of, regions_of
from patchbank.scoring.scores import anomaly_map


def test_map_has_the_image_s_size_and_aspect_ratio(rng):
    assert anomaly_map(rng.random((40, 40), np.float32), (320, 320), (123, 457), 4.0).shape == (123, 457)


def test_constant_scores_give_a_constant_map():
    np.testing.assert_allclose(anomaly_map(np.full((5, 5), 3, np.float32), (40, 40), (33, 71), 4.0), 3, rtol=1e-5)


def test_map_never_exceeds_the_patch_scores(rng):
    """The shortcut for good images rests on this."""
    for _ in range(20):
        scores = rng.random((int(rng.integers(1, 30)), int(rng.integers(1, 30))), np.float32)
        size = (int(rng.integers(32, 200)), int(rng.integers(32, 200)))
        found = anomaly_map(scores, (160, 160), size, float(rng.uniform(0, 6)))
        assert found.max() <= scores.max() * (1 + 1e-5)
        assert found.min() >= scores.min() * (1 - 1e-5)


def test_bilinear_without_corner_alignment_closed_form():
    found = anomaly_map(np.array([[0, 1]], np.float32), (1, 4), (1, 4), 0.0)
    np.testing.assert_allclose(found, [[0, 0.25, 0.75, 1]], atol=1e-6)


@pytest.mark.parametrize("sigma", [1.0, 4.0])
def test_smoothing_is_scipy_s_gaussian_filter(rng, sigma):
    """The reference implementation smooths with scipy.ndimage.gaussian_filter (truncate 4, mirrored borders)."""
    scores = rng.random((64, 80), np.float32)
    expected = ndimage.gaussian_filter(scores.astype(np.float64), sigma)
    np.testing.assert_allclose(anomaly_map(scores, (64, 80), (64, 80), sigma), expected, atol=2e-5)


def test_a_peak_stays_where_it_was():
    scores = np.zeros((20, 20), np.float32)
    scores[15, 4] = 1
    found = anomaly_map(scores, (160, 160), (320, 480), 4.0)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert abs(row - 15.5 * 16) <= 4
    assert abs(column - 4.5 * 24) <= 6


def test_regions_can_be_compared_and_counted():
    heat = np.zeros((20, 30), np.float32)
    heat[2:5, 3:10], heat[10:12, 20:22] = 2, 7
    first, second = regions_of(heat, mask_of(heat, 1.0))
    assert first != second
    assert [first, second].index(second) == 1
    assert len({first, second, first}) == 2


def test_regions_closed_form():
    heat = np.zeros((20, 30), np.float32)
    heat[2:5, 3:10] = 2
    heat[3, 6] = 5
    heat[10:12, 20:22] = 7
    heat[12, 22] = 6  # touches by a corner: the same region
    mask = mask_of(heat, 1.0)
    first, second = regions_of(heat, mask)
    assert (first.box, first.area, first.peak, first.peak_score) == ((20, 10, 3, 3), 5, (20, 10), 7.0)
    assert (second.box, second.area, second.peak, second.peak_score) == ((3, 2, 7, 3), 21, (6, 3), 5.0)
    assert {tuple(point) for point in second.contour.tolist()} == {(3, 2), (9, 2), (9, 4), (3, 4)}
    assert sum(region.area for region in (first, second)) == mask.sum()


def test_mask_is_strictly_over_the_threshold():
    np.testing.assert_array_equal(mask_of(np.array([[1.0, 1.5]], np.float32), 1.0), [[False, True]])


def test_regions_agree_with_scipy_s_labels(rng):
    heat = ndimage.gaussian_filter(rng.standard_normal((80, 90)), 3).astype(np.float32)
    mask = mask_of(heat, 0.05)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    regions = regions_of(heat, mask)
    assert len(regions) == count > 3
    assert sorted(r.area for r in regions) == sorted(np.bincount(labels.ravel())[1:].tolist())
    for region in regions:
        x, y = region.peak
        assert heat[y, x] == region.peak_score
        assert region.peak_score == heat[labels == labels[y, x]].max()


def test_region_to_dict_is_plain():
    heat = np.ones((4, 4), np.float32)
    assert regions_of(heat, heat > 0)[0].to_dict() == {
        "box": [0, 0, 4, 4],
        "area": 16,
        "peak": [0, 0],
        "peak_score": 1.0,
        "contour": [[0, 0], [0, 3], [3, 3], [3, 0]],
    }


def test_an_empty_mask_has_no_regions():
    assert regions_of(np.ones((20, 30), np.float32), np.zeros((20, 30), np.bool_)) == ()
