"""Sums in a fixed order, exponentials and logarithms: closed forms, and bits that every processor must give."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchbank import native
from patchbank.errors import PatchbankError
from patchbank.imaging import resize as resizing
from patchbank.imaging.resize import resize, scale_mask, scaling
from patchbank.native import sums
from patchbank.native.sums import Band, both_ways, pair_distances, products, resized, squared_distances, weighted
from patchbank.util.ieee import exp, log, log1p

Array = npt.NDArray[Any]
is_in_order = resizing._opencv_fuses_nothing
LENGTHS = [1, 5, 7, 8, 9, 31, 127, 128, 129, 136, 168, 257, 1030]


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def written_out(terms: list[np.float32]) -> np.float32:
    """The order of a row's sum, number by number."""
    if len(terms) > 128:
        half = len(terms) // 16 * 8
        return written_out(terms[:half]) + written_out(terms[half:])
    whole = len(terms) // 8 * 8
    lanes = [np.float32(0)] * 8
    for i in range(whole):
        lanes[i % 8] = lanes[i % 8] + terms[i]
    total = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))
    for term in terms[whole:]:
        total = total + term
    return total


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dim", LENGTHS)
def test_pairs_are_summed_in_the_order_that_is_written_down(dim: int) -> None:
    a, b = numbers(9, dim), numbers(7, dim, seed=1)
    i, j = np.array([0, 8, 3, 3]), np.array([6, 0, 0, 5])
    distances = [
        written_out([(x - y) * (x - y) for x, y in zip(a[p], b[q], strict=True)]) for p, q in zip(i, j, strict=True)
    ]
    assert pair_distances(a, b, i, j).tolist() == [float(d) for d in distances]
    along = [written_out([x * y for x, y in zip(row, b[2], strict=True)]) for row in a]
    assert products(a, b[2]).tolist() == [float(p) for p in along]
    assert np.array_equal(products(a, b)[:, 2], products(a, b[2]))
    assert np.array_equal(pair_distances(a, b, None, j), pair_distances(a, b, np.arange(4), j))
    assert np.array_equal(squared_distances(a, b[1]), pair_distances(a, b, None, np.ones(9, np.int32)))
    assert np.array_equal(squared_distances(a[:7], b), pair_distances(a[:7], b, None, np.arange(7)))
    assert pair_distances(a, b, i[:0], j[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dim", LENGTHS)
def test_a_numpy_that_sums_in_another_order_is_not_used(dim: int, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = numbers(5, dim).astype(dtype)
    expected = sums.row_sums(terms)
    monkeypatch.setattr(sums, "_numpy_is_pairwise", lambda: False)
    assert np.array_equal(sums.row_sums(terms), expected)
    assert expected.dtype == dtype


def test_a_sum_of_zeros_is_not_minus_zero() -> None:
    for way in (products(-np.zeros((1, 3), np.float32), np.ones(3, np.float32)), sums.row_sums(-np.zeros((1, 3)))):
        assert not np.signbit(way[0])


def test_pairs_outside_of_the_rows_are_refused_in_c(built: None) -> None:
    a = numbers(4, 3)
    for i, j in (([4], [0]), ([0], [-1]), ([0], [2**40])):
        with pytest.raises(PatchbankError, match="compiled part refused"):
            pair_distances(a, a, np.array(i), np.array(j))
    for left, right, j in ((a, a[:, :2], None), (a, a[:3], None), (a[:1], a, np.zeros(2, np.int64))):
        with pytest.raises(PatchbankError, match="compiled part refused"):
            squared_distances(left, right) if j is None else pair_distances(left, right, None, j)


# --- bands ------------------------------------------------------------------------------------------------------------


def banded(rows: int, columns: int, taps: int, seed: int = 0) -> Array:
    """A dense matrix of `taps` numbers side by side in each row, some rows with fewer."""
    rng = np.random.default_rng(seed)
    matrix = np.zeros((rows, columns))
    for row in matrix:
        first, count = rng.integers(0, columns), rng.integers(0, taps + 1)
        row[first : first + count] = rng.standard_normal(min(count, columns - first))
    return matrix


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("width", [1, 3, 4, 15, 16, 33])
def test_weighted_is_the_product_with_the_dense_matrix_row_by_row(width: int) -> None:
    matrix, values = banded(11, 9, 4), numbers(3, 9, width)
    band = Band.of(matrix)
    expected = np.zeros((3, 11, width), np.float32)
    for row in range(11):
        for tap in range(band.weights.shape[1]):  # one by one, each product and each sum rounded
            term = band.weights[row, tap] * values[:, band.first[row] + tap]
            expected[:, row] = term if tap == 0 else expected[:, row] + term
    assert np.array_equal(weighted(band, values), expected)
    np.testing.assert_allclose(expected, np.einsum("rc,ncw->nrw", matrix, values), atol=1e-6)
    out = np.full((3, 11, width + 5), 7, np.float32)
    weighted(band, values, out, 2)
    assert np.array_equal(out[:, :, 2:-3], expected)
    assert (out[:, :, :2] == 7).all()
    assert (out[:, :, -3:] == 7).all()


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), taps=st.integers(0, 9), seed=st.integers(0, 99))
def test_a_band_holds_all_of_its_matrix(rows: int, columns: int, taps: int, seed: int) -> None:
    matrix = banded(rows, columns, taps, seed)
    band = Band.of(matrix)
    dense = weighted(band, np.eye(columns, dtype=np.float32)[None])[0]
    assert np.array_equal(dense, matrix.astype(np.float32))
    for start in range(rows):
        part, used = band.rows(start, start + 3)
        some = np.zeros((len(part), columns), np.float32)
        some[:, used] = weighted(part, np.eye(part.columns, dtype=np.float32)[None])[0]
        assert np.array_equal(some, dense[start : start + 3])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("sizes", [((6, 5), (13, 17)), ((13, 17), (6, 5)), ((6, 17), (13, 5)), ((13, 5), (6, 17))])
def test_both_ways_is_a_product_from_both_sides(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    (height, width), (tall, wide) = sizes
    rows, columns, plane = banded(tall, height, 3), banded(wide, width, 3, seed=1), numbers(height, width)
    found = both_ways(Band.of(rows), Band.of(columns), plane)
    np.testing.assert_allclose(found, rows @ plane @ columns.T, atol=1e-5)
    assert found.flags.c_contiguous


def test_bands_that_do_not_fit_are_refused() -> None:
    band = Band.of(np.eye(4))
    for values, out in (
        (numbers(1, 3, 2), None),
        (numbers(1, 4, 2), numbers(1, 4, 1)),
        (numbers(1, 4, 2), numbers(1, 3, 2)),
    ):
        with pytest.raises(ValueError, match="and room for it"):
            weighted(band, values, out)


@pytest.mark.parametrize("first", [-1, 3, 2**31 - 1])
def test_bands_that_lead_out_of_their_matrix_are_refused_in_c(built: None, first: int) -> None:
    band = Band(np.array([first, 0], np.int32), np.ones((2, 2), np.float32), 4)
    with pytest.raises(PatchbankError, match="compiled part refused"):
        weighted(band, numbers(1, 4, 2))
    with pytest.raises(PatchbankError, match="compiled part refused"):
        resized(numbers(4, 4, 3), Band.of(np.eye(4)), band)


@pytest.mark.parametrize("sizes", [(0, 4, 3), (4, 0, 3), (4, 4, 2), (4, 4, 0), (-1, 4, 3), (3, 4, 3), (4, 3, 3)])
def test_images_that_are_none_are_refused_in_c(built: None, sizes: tuple[int, int, int]) -> None:
    library, image, band = native.library(), numbers(4, 4, 3), Band.of(np.eye(4))
    assert library is not None
    each = (band.first.ctypes.data, band.weights.ctypes.data, 1, 4)
    out = np.empty_like(image)
    failed = library.resize(image.ctypes.data, 0, *sizes, *each, *each, 0, 1, out.ctypes.data, native.level())
    assert failed == library.codes["IMPOSSIBLE"]


# --- images -----------------------------------------------------------------------------------------------------------


def shares(side: int, new: int) -> Array:
    """(new, side) the exact weights along one axis, in fractions but for their last rounding."""
    matrix = [[Fraction(0)] * side for _ in range(new)]
    for i, row in enumerate(matrix):
        if new <= side:
            low, high = Fraction(i * side, new), Fraction((i + 1) * side, new)
            for j in range(side):
                row[j] = max(Fraction(0), min(high, Fraction(j + 1)) - max(low, Fraction(j))) / (high - low)
        else:
            at = min(max(Fraction((2 * i + 1) * side, 2 * new) - Fraction(1, 2), Fraction(0)), Fraction(side - 1))
            row[math.floor(at)] += 1 - at % 1
            if at % 1:
                row[math.floor(at) + 1] += at % 1
    return np.array(matrix, np.float64)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize("size", [(20, 31), (7, 50), (33, 9), (40, 44), (1, 1), (10, 9), (4, 31)])
def test_images_shrink_to_the_exact_means_and_grow_bilinearly(size: tuple[int, int], channels: int) -> None:
    """Bytes that grow are rounded twice."""
    image = np.random.default_rng(0).integers(0, 256, (20, 31, channels), dtype=np.uint8)
    exact = np.einsum("yh,hwc,xw->yxc", shares(20, size[0]), image.astype(np.float64), shares(31, size[1]))
    most = 0.5001 if size[0] <= 20 and size[1] <= 31 else 1.2
    assert np.abs(resize(image, size) - exact).max() <= most
    np.testing.assert_allclose(resize(image.astype(np.float32), size), exact, atol=1e-4)


@pytest.mark.parametrize("seed", range(40))
def test_bytes_are_opencvs_pixels(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, on a processor on which OpenCV fuses nothing: scores of earlier versions stay. Among the sizes are
    whole ratios, for which OpenCV rounds in other ways. Floats are the same but for those."""
    if not is_in_order():
        pytest.skip("this OpenCV fuses products and sums here")
    rng = np.random.default_rng(seed)
    size = [int(side) for side in rng.integers(4, 60, 2)]
    ratio = rng.integers(1, 7, 2) if seed % 2 else rng.uniform(1, 7, 2)
    channels = (1, 3)[seed % 3 == 0]
    image = rng.integers(0, 256, (*(int(s * r) for s, r in zip(size, ratio, strict=True)), channels), dtype=np.uint8)
    for way in ("", "any", "0"):
        monkeypatch.setenv("PATCHBANK_NATIVE", way)
        for each in (image, image.astype(np.float32) / np.float32(257)):
            other = cv2.resize(each, size[::-1], interpolation=cv2.INTER_AREA).reshape(*size, channels)
            found = resize(each, (size[0], size[1]))
            if each.dtype == np.uint8 or not seed % 2:
                np.testing.assert_array_equal(found, other, err_msg=way)
            else:
                np.testing.assert_allclose(found, other, rtol=1e-5, atol=1e-5)


def test_all_ways_give_the_same_pixels(monkeypatch: pytest.MonkeyPatch, built: None) -> None:
    """In C, in NumPy, and by OpenCV where it may be used."""
    rng = np.random.default_rng(1)
    shapes = [((300, 411, 3), (192, 256)), ((50, 60, 6), (128, 96)), ((301, 50, 3), (100, 64)), ((90, 60, 1), (30, 30))]
    for shape, size in shapes:
        whole = rng.integers(0, 256, shape, dtype=np.uint8)
        for image in (whole, (whole * rng.random(shape)).astype(np.float32)):
            found = []
            for way, fuses_nothing in (("", True), ("any", True), ("0", is_in_order()), ("0", False)):
                monkeypatch.setenv("PATCHBANK_NATIVE", way)
                monkeypatch.setattr(resizing, "_opencv_fuses_nothing", lambda value=fuses_nothing: value)
                found.append(resize(image, size))
            assert found[0].dtype == image.dtype
            assert found[0].shape == (*size, shape[2])
            assert all(np.array_equal(each, found[0]) for each in found)


def test_grey_images_are_resized_as_one_plane() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (50, 40, 1), dtype=np.uint8)
    view = np.broadcast_to(grey, (50, 40, 3))
    for size in ((50, 40), (32, 32), (25, 20), (64, 96)):
        np.testing.assert_array_equal(resize(view, size), resize(view.copy(), size))


def test_white_stays_white_and_an_image_of_its_size_is_itself() -> None:
    """Weights add up to 1 but for rounding: no byte may overflow."""
    for size in ((33, 47), (100, 100), (7, 3), (129, 250), (98, 96)):
        assert (resize(np.full((99, 97, 3), 255, np.uint8), size) == 255).all()
    image = numbers(8, 8, 3)
    assert resize(image, (8, 8)) is image


def test_half_of_a_pixel_counts() -> None:
    mask = np.zeros((4, 4), np.bool_)
    mask[:2, :1] = True
    assert scale_mask(mask, (2, 2)).tolist() == [[True, False], [False, False]]
    assert scale_mask(mask, (4, 8))[0].tolist() == [True] * 2 + [False] * 6
    assert scale_mask(mask, (1, 4)).tolist() == [[True, False, False, False]]


@given(length=st.integers(1, 60), size=st.integers(1, 60))
def test_each_pixel_of_another_size_is_a_mean(length: int, size: int) -> None:
    band = scaling(length, size)
    assert (band.weights >= 0).all()
    np.testing.assert_allclose(band.weights.sum(axis=1), 1, rtol=1e-6)
    assert band.first.min() >= 0
    assert band.first.max() + band.weights.shape[1] <= length


# --- exponentials and logarithms --------------------------------------------------------------------------------------


@given(st.floats(-700, 709))
def test_exp_is_the_exponential(x: float) -> None:
    assert exp(x) == pytest.approx(math.exp(x), rel=4e-16)


@given(st.floats(1e-300, 1e300))
def test_log_is_the_logarithm(x: float) -> None:
    assert log(x) == pytest.approx(math.log(x), rel=1e-15)
    assert log1p(x) == pytest.approx(math.log1p(x), rel=2e-15)


@given(st.floats(-0.999, 1e-9))
def test_log1p_is_exact_near_0(x: float) -> None:
    assert log1p(x) == pytest.approx(math.log1p(x), rel=2e-15)


def test_ends_of_the_range() -> None:
    with np.errstate(all="raise"):
        assert exp([0.0, 709.0001, np.inf, -746.0, -np.inf]).tolist() == [1, np.inf, np.inf, 0, 0]
        assert np.isnan(exp(np.nan))
        assert log([1.0, 0.5, 2.0]).tolist() == [0, -math.log(2), math.log(2)]
        assert exp(np.zeros((0,))).shape == (0,)


def test_bits_are_these_on_every_processor() -> None:
    """Pinned: whoever computes these sums elsewhere must get these bits."""
    x = np.arange(1, 400) / np.float64(7)
    terms = (x % 3).astype(np.float32)
    found = [
        math.fsum(exp(-x)),
        math.fsum(log(x)),
        float(sums.row_sums(terms[None])[0]),
        float(products(terms[None], terms)[0]),
    ]
    assert [value.hex() for value in map(float, found)] == PINNED


PINNED = ["0x1.a0c2fb3709572p+2", "0x1.3085d451d4a31p+10", "0x1.1d00000000000p+9", "0x1.1636dc0000000p+10"]
