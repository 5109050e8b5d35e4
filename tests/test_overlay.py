"""Overlays: what stays untouched, what is coloured, and that the colours mean multiples of the threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from patchbank.errors import ConfigError
from patchbank.imaging.overlay import COLOURS, heatmap, overlay

GREY = np.full((40, 50, 3), 120, np.uint8)


@dataclass(frozen=True)
class Outline:
    contour: npt.NDArray[np.int32]


def level(value: float, shape: tuple[int, int] = (40, 50)) -> npt.NDArray[np.float32]:
    return np.full(shape, value, np.float32)


def lightness(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return rgb @ np.array([0.2126, 0.7152, 0.0722])


def test_a_clean_part_stays_as_it_is() -> None:
    """Nothing is drawn on scores that normal parts reach, and the image that was given is never written to."""
    before = GREY.copy()
    picture = overlay(GREY, level(0.75), 1.0)
    assert (picture == GREY).all()
    assert not np.shares_memory(picture, GREY)
    overlay(GREY, level(2.0), 1.0)
    assert (before == GREY).all()


def test_the_threshold_is_clearly_coloured_and_more_is_stronger() -> None:
    changes = [np.abs(overlay(GREY, level(v), 1.0).astype(int) - 120).max() for v in (0.8, 0.9, 1.0, 1.4)]
    assert changes == sorted(changes)
    assert changes[0] == 0
    assert changes[2] >= 40


def test_colours_are_multiples_of_the_threshold() -> None:
    """Two images of one model compare; the same map in other units looks the same."""
    ramp = np.linspace(0, 2.5, 50, dtype=np.float32)[None].repeat(40, axis=0)
    assert np.abs(heatmap(ramp, 1.0).astype(int) - heatmap(ramp * 20, 20.0)).max() <= 3
    assert np.abs(heatmap(ramp, 1.0).astype(int) - heatmap(ramp + 5, 6.0, low=5.0)).max() <= 3
    assert (heatmap(level(1.0), 1.0) != heatmap(level(1.0), 2.0)).any()


@pytest.mark.parametrize("scale", COLOURS)
def test_lightness_falls_along_the_scale(scale: str) -> None:
    """What a grey print or colour-blind eyes rely on."""
    colours = heatmap(np.linspace(0, 2, 256, dtype=np.float32)[None], 1.0, colours=scale)[0]
    assert (np.diff(lightness(colours)) <= 1).all()
    assert lightness(colours)[0] - lightness(colours)[-1] > 150


def test_scores_beyond_the_scale_keep_its_end() -> None:
    assert (heatmap(level(1e30), 1.0) == heatmap(level(2.0), 1.0)).all()
    assert (heatmap(level(0.0), 1.0, low=0.5) == heatmap(level(0.0), 1.0)).all()


def test_without_a_threshold_the_own_maximum_ends_the_scale() -> None:
    ramp = np.linspace(0, 7, 50, dtype=np.float32)[None].repeat(40, axis=0)
    assert (heatmap(ramp, None)[:, -1] == heatmap(level(2.0), 1.0)[0, 0]).all()
    assert (overlay(GREY, level(0.0), None) == GREY).all()  # a map of nothing has no maximum to scale by


@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_a_threshold_of_nothing_still_draws(threshold: float) -> None:
    assert heatmap(level(1.0), threshold).shape == (40, 50, 3)
    assert (heatmap(level(1.0), threshold) == heatmap(level(2.0), 1.0)).all()


def test_only_the_anomalous_place_is_coloured() -> None:
    anomaly_map = level(0.1)
    anomaly_map[10:15, 20:30] = 2
    changed = (overlay(GREY, anomaly_map, 1.0) != GREY).any(axis=2)
    assert (changed == (anomaly_map > 1)).all()


def test_regions_are_outlined_where_they_are() -> None:
    """x runs to the right and y down; black and white images show the line alike."""
    contour = np.array([[20, 10], [35, 10], [35, 25], [20, 25]], np.int32)
    for shade in (0, 255):
        image = np.full((40, 50, 3), shade, np.uint8)
        picture = overlay(image, level(0.0), 1.0, [Outline(contour)])
        assert lightness(picture[10, 20:36]).min() > 200  # the top edge
        assert lightness(picture[10:26, 20]).min() > 200  # the left edge
        edge = picture[8:13, 28]
        assert lightness(edge).max() - lightness(edge).min() > 150
        assert (picture[30:, :15] == shade).all()


def test_lines_grow_with_the_image() -> None:
    def drawn(side: int) -> float:
        contour = (np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]]) * side).astype(np.int32)
        picture = overlay(np.zeros((side, side, 3), np.uint8), level(0, (side, side)), 1.0, [Outline(contour)])
        return float((picture > 0).any(axis=2).mean())

    assert 0.5 * drawn(300) < drawn(1500) < drawn(300)  # with one width for all it would be a fifth


def test_on_rust_the_blue_scale_tells_more_than_the_orange_one() -> None:
    """Orange heat on an orange part was hardly seen."""
    rust = np.broadcast_to(np.array([176, 88, 38], np.uint8), (40, 50, 3)).copy()

    def contrast(scale: str) -> float:
        changed = overlay(rust, level(1.05), 1.0, colours=scale)[0, 0].astype(float) - rust[0, 0]
        return float(np.linalg.norm(changed))

    assert contrast("blue") > 2 * contrast("orange")
    assert (overlay(rust, level(0.75), 1.0, colours="blue") == rust).all()


def test_an_unknown_scale_is_named() -> None:
    with pytest.raises(ConfigError, match="orange, blue"):
        overlay(GREY, level(1.0), 1.0, colours="rainbow")


def test_arrays_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(40, 50, 3\) of uint8 and \(40, 51\)"):
        overlay(GREY, level(0.0, (40, 51)), 1.0)
    with pytest.raises(ValueError, match="float64"):
        overlay(GREY / 255, level(0.0), 1.0)  # type: ignore[arg-type]
