"""The metrics: values worked out by hand, scikit-learn and brute force as judges, and the bounds on binned values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from patchbank.evaluation.metrics import FPR_LIMIT, PixelMetrics, PixelResult, auroc, average_precision, best_f1

F32 = np.float32
NAMES = ("auroc", "average_precision", "aupro")


def pixel_metrics(
    maps: list[npt.NDArray[np.float32]], masks: list[npt.NDArray[np.bool_]], **limits: int
) -> PixelResult:
    metrics = PixelMetrics(**limits)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.update(anomaly_map, mask)
    return metrics.result()


# --- by hand ---


def test_perfect_reversed_and_useless_scores() -> None:
    labels = [0, 0, 1, 1]
    assert auroc([1, 2, 3, 4], labels) == 1.0
    assert average_precision([1, 2, 3, 4], labels) == 1.0
    assert best_f1([1, 2, 3, 4], labels) == (1.0, 3.0)
    assert auroc([4, 3, 2, 1], labels) == 0.0
    assert auroc([7, 7, 7, 7], labels) == 0.5  # ties count half
    assert average_precision([7, 7, 7, 7], labels) == 0.5
    assert best_f1([7, 7, 7, 7], labels) == (2 / 3, 7.0)


def test_worked_example() -> None:
    """Falling: 5 bad, 4 good, 3 bad and good, 1 good. Pairs won by bad: 5 beats 3; 3 beats 1, ties 1, loses 1."""
    scores, labels = [5, 4, 3, 3, 1], [1, 0, 1, 0, 0]
    assert auroc(scores, labels) == pytest.approx((3 + 1.5) / 6)
    assert average_precision(scores, labels) == pytest.approx(1 / 2 * 1 + 1 / 2 * (2 / 4))
    assert best_f1(scores, labels) == (
        pytest.approx(2 / 3),
        5.0,
    )  # at 5: 2*1/(1+2); at 3: 2*2/(4+2), the same: the higher


def test_one_class_has_no_metrics() -> None:
    for labels in ([0, 0], [1, 1]):
        assert auroc([1, 2], labels) is None
        assert average_precision([1, 2], labels) is None
        assert best_f1([1, 2], labels) is None
    assert auroc([], []) is None


def test_impossible_input_is_named() -> None:
    with pytest.raises(ValueError, match="NaN"):
        auroc([1.0, float("nan")], [0, 1])
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        average_precision([1, 2], [0, 1, 1])
    with pytest.raises(ValueError, match="True/False"):
        best_f1([1, 2], [0, 2])


def test_aupro_by_hand() -> None:
    """Ten normal pixels and two regions, of 1 and of 4 pixels; overlap counts regions alike, whatever their size.

    Falling: region A whole (PRO 0.5 at FPR 0), 1 normal (0.1), half of B (0.75), 1 normal (0.2), the rest of B (1.0).
    Area to 0.3: 0.1 * 0.5 + 0.1 * 0.75 + 0.1 * 1.0.
    """
    anomaly_map = np.array([[9, 8, 0, 6, 4], [0, 0, 0, 6, 4], [0, 0, 5, 0, 0]], F32)
    anomaly_map[0, 1], anomaly_map[2, 2] = 8, 5
    mask = np.array([[1, 0, 0, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]], np.bool_)
    result = pixel_metrics([anomaly_map], [mask])
    assert (result.n_pixels, result.n_regions, result.exact) == (15, 2, True)
    assert result.aupro == pytest.approx((0.05 + 0.075 + 0.1) / FPR_LIMIT)


def test_aupro_interpolates_at_the_limit() -> None:
    """All scores equal: the curve is the diagonal from (0, 0) to (1, 1), so the area to 0.3 is 0.3 / 2 of 0.3."""
    mask = np.zeros((4, 4), np.bool_)
    mask[1, 1] = True
    assert pixel_metrics([np.ones((4, 4), F32)], [mask]).aupro == pytest.approx(0.15)


def test_regions_connect_over_corners() -> None:
    mask = np.eye(4, dtype=np.bool_)
    assert pixel_metrics([np.ones((4, 4), F32)], [mask]).n_regions == 1


def test_good_images_count_through_their_false_alarms() -> None:
    """A loud good image lowers every pixel metric although its mask is empty."""
    anomaly_map, mask = np.full((4, 4), 1, F32), np.zeros((4, 4), np.bool_)
    anomaly_map[0, 0], mask[0, 0] = 2, True
    quiet = pixel_metrics([anomaly_map, np.full((4, 4), 1, F32)], [mask, np.zeros_like(mask)])
    loud = pixel_metrics([anomaly_map, np.full((4, 4), 3, F32)], [mask, np.zeros_like(mask)])
    for name in NAMES:
        assert getattr(loud, name) < getattr(quiet, name) == 1.0


@pytest.mark.parametrize("fill", [False, True])
def test_pixels_of_one_class_have_no_metrics(fill: bool) -> None:
    result = pixel_metrics([np.ones((2, 2), F32)], [np.full((2, 2), fill)])
    assert (result.auroc, result.average_precision, result.aupro) == (None, None, None)
    binned = pixel_metrics([np.ones((2, 2), F32)], [np.full((2, 2), fill)], exact_normal=0, exact_anomalous=0)
    assert (binned.auroc, binned.auroc_error, binned.average_precision_error, binned.aupro_error) == (None, 0, 0, 0)
    assert PixelMetrics().result().n_pixels == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_maps_that_are_no_distances_are_refused(bad: float) -> None:
    anomaly_map = np.ones((2, 2), F32)
    anomaly_map[1, 1] = bad
    with pytest.raises(ValueError, match="finite scores >= 0"):
        PixelMetrics().update(anomaly_map, np.zeros((2, 2), np.bool_))


def test_wrong_types_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="of float32"):
        PixelMetrics().update(np.ones((2, 2)), np.zeros((2, 2), np.bool_))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a mask \(2, 2\)"):
        PixelMetrics().update(np.ones((2, 2), F32), np.zeros((2, 3), np.bool_))
    with pytest.raises(ValueError, match="of bool"):
        PixelMetrics().update(np.ones((2, 2), F32), np.zeros((2, 2), np.uint8))  # type: ignore[arg-type]


def test_negative_zero_is_zero() -> None:
    """Its bits are the largest of all; its value equals 0.0."""
    mask = np.array([[True, False]])
    assert pixel_metrics([np.array([[-0.0, 0.0]], F32)], [mask]).auroc == 0.5


# --- scikit-learn as the judge ---


@st.composite
def scored(draw: st.DrawFn) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Scores with heavy ties, or with none, and labels of both classes."""
    n = draw(st.integers(2, 60))
    levels = draw(st.sampled_from([2, 5, 10**6]))
    scores = np.array(draw(st.lists(st.integers(0, levels), min_size=n, max_size=n)), np.float64)
    labels = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    labels[:2] = True, False
    return scores, labels


@settings(deadline=None)
@given(scored())
def test_image_metrics_are_scikit_learns(data: tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]) -> None:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    scores, labels = data
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    precision, recall, _ = precision_recall_curve(labels, scores)
    best = best_f1(scores, labels)
    assert best is not None
    assert best[0] == pytest.approx((2 * precision * recall / np.maximum(precision + recall, 1e-300)).max(), abs=1e-12)
    flagged = scores >= best[1]  # the threshold is one that reaches this F1
    assert best[0] == pytest.approx(2 * (flagged & labels).sum() / (flagged.sum() + labels.sum()), abs=1e-12)


@settings(deadline=None)
@given(scored())
def test_image_metrics_depend_on_order_alone(data: tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]) -> None:
    scores, labels = data
    shuffled = np.random.default_rng(0).permutation(scores.size)
    assert auroc(np.sqrt(scores) * 3 + 1, labels) == auroc(scores, labels)
    assert auroc(scores[shuffled], labels[shuffled]) == auroc(scores, labels)
    assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels), abs=1e-12)  # type: ignore[operator]


# --- brute force as the judge ---


def brute_force_aupro(maps: list[npt.NDArray[np.float32]], masks: list[npt.NDArray[np.bool_]]) -> float:
    """The definition, threshold by threshold and region by region."""
    from scipy import integrate, ndimage

    regions = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [anomaly_map[labels == i] for i in range(1, count + 1)]
    normal = np.concatenate([m[~k] for m, k in zip(maps, masks, strict=True)])
    thresholds = np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]
    fpr = np.array([0.0] + [(normal >= t).mean() for t in thresholds])
    pro = np.array([0.0] + [np.mean([(r >= t).mean() for r in regions]) for t in thresholds])
    limit = np.interp(FPR_LIMIT, fpr, pro) if FPR_LIMIT not in fpr else pro[fpr == FPR_LIMIT].max()
    inside = fpr <= FPR_LIMIT
    return float(integrate.trapezoid(np.append(pro[inside], limit), np.append(fpr[inside], FPR_LIMIT)) / FPR_LIMIT)


@st.composite
def mapped(draw: st.DrawFn) -> tuple[list[npt.NDArray[np.float32]], list[npt.NDArray[np.bool_]]]:
    """One to three small maps of different sizes, some with heavy ties or crowded into few bins, with masks."""
    seed, ties, crowded = draw(st.integers(0, 2**32)), draw(st.booleans()), draw(st.booleans())
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.tuples(st.integers(2, 12), st.integers(2, 12)))
        masks.append(rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.4])))
        raw = rng.random(shape) + 0.3 * masks[-1]
        raw = np.round(raw * 4) if ties else raw
        maps.append((1000 + raw / 8 if crowded else raw).astype(F32))
    masks[0].flat[0], masks[0].flat[1] = True, False
    return maps, masks


Mapped = tuple[list[npt.NDArray[np.float32]], list[npt.NDArray[np.bool_]]]


@settings(deadline=None)
@given(mapped())
def test_pixel_metrics_are_the_definitions(data: Mapped) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    maps, masks = data
    result = pixel_metrics(maps, masks)
    scores, labels = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    assert result.exact
    assert result.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert result.average_precision == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert result.aupro == pytest.approx(brute_force_aupro(maps, masks), abs=1e-9)


@settings(deadline=None)
@given(mapped(), st.sampled_from([0, 20, 100]))
def test_binned_metrics_keep_their_bounds(data: Mapped, limit: int) -> None:
    """Whenever binning starts, the exact value lies within the stated error."""
    exact, binned = pixel_metrics(*data), pixel_metrics(*data, exact_normal=limit)
    for name in NAMES:
        error = getattr(binned, f"{name}_error")
        assert abs(getattr(binned, name) - getattr(exact, name)) <= error + 1e-12
        assert getattr(exact, f"{name}_error") == 0.0
    assert (binned.n_pixels, binned.n_regions) == (exact.n_pixels, exact.n_regions)


def test_the_bounds_are_reached_where_a_bin_holds_both_classes() -> None:
    """One bin holds everything: AUROC may be 0 or 1, 0.5 is reported, and the bound must say so."""
    values = np.array([[1, np.nextafter(F32(1), F32(2))]], F32)
    for mask, truth in (([[False, True]], 1.0), ([[True, False]], 0.0)):
        binned = pixel_metrics([values], [np.array(mask)], exact_normal=0)
        assert (binned.auroc, binned.auroc_error) == (0.5, 0.5)
        assert pixel_metrics([values], [np.array(mask)]).auroc == truth


def test_binning_is_fine_enough_to_report(rng: np.random.Generator) -> None:
    """On maps as smooth and as narrow as real ones, the stated errors are below what anyone prints."""
    maps = [(2 + rng.random((200, 200))).astype(F32) for _ in range(5)]
    masks = [np.zeros((200, 200), np.bool_) for _ in range(5)]
    for anomaly_map, mask in zip(maps, masks, strict=True):
        mask[50:80, 60:100] = True
        anomaly_map[mask] += F32(0.5)
    binned, exact = pixel_metrics(maps, masks, exact_normal=0), pixel_metrics(maps, masks)
    assert not binned.exact
    for name in NAMES:
        assert abs(getattr(binned, name) - getattr(exact, name)) <= getattr(binned, f"{name}_error") < 2e-4


@settings(deadline=None, max_examples=25)
@given(
    hnp.arrays(np.float32, (3, 4), elements=st.floats(0, 2.0**127, width=32)),
    hnp.arrays(np.bool_, (3, 4)),
)
def test_any_finite_map_keeps_the_bounds(anomaly_map: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> None:
    """Subnormal numbers and the largest ones go through the same bins."""
    exact, binned = pixel_metrics([anomaly_map], [mask]), pixel_metrics([anomaly_map], [mask], exact_normal=0)
    for name in NAMES:
        if getattr(exact, name) is None:
            assert getattr(binned, name) is None
        else:
            gap = abs(getattr(binned, name) - getattr(exact, name))
            assert gap <= getattr(binned, f"{name}_error") + 1e-12


def test_the_order_of_images_and_looking_early_change_nothing(rng: np.random.Generator) -> None:
    maps = [rng.random((9, 7)).astype(F32) for _ in range(4)]
    masks = [rng.random((9, 7)) < 0.2 for _ in range(4)]
    metrics = PixelMetrics()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.update(anomaly_map, mask)
        metrics.result()
    for name in NAMES:
        forward, backward = getattr(metrics.result(), name), getattr(pixel_metrics(maps[::-1], masks[::-1]), name)
        assert forward == pytest.approx(backward, abs=1e-12)


def test_maps_in_any_memory_layout(rng: np.random.Generator) -> None:
    anomaly_map, mask = rng.random((6, 8)).astype(F32), rng.random((6, 8)) < 0.3
    plain = pixel_metrics([anomaly_map], [mask])
    assert pixel_metrics([np.asfortranarray(anomaly_map)], [np.asfortranarray(mask)]) == plain
    assert pixel_metrics([anomaly_map[:, ::-1][:, ::-1]], [mask[:, ::-1][:, ::-1]]) == plain
