"""The chart of distributions: every value is in one bar, on its side of the mark, at its place on the axis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbank.imaging import drawing
from patchbank.reports.distributions import INKS, WIDTH, Band, Mark, chart, draw, ticks
from patchbank.scoring.normal_distances import NormalDistances

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=40)


def known(values):
    return NormalDistances.of([(np.asarray(values, np.float32).reshape(1, -1), None)]).everywhere()


def counts(found, kind):
    return [(int(bar.title.split(" with")[0].split()[-1]), bar) for bar in found.bars if bar.kind == kind]


@settings(deadline=None, max_examples=150)
@given(VALUES, VALUES, st.one_of(st.none(), st.floats(0, 1e6)))
def test_every_value_is_in_one_bar(first, second, mark):
    line = None if mark is None else Mark("threshold", "threshold", mark)
    found = chart([Band("a", "normal", first), Band("b", "anomalous", second)], line, "")
    assert sum(count for count, _ in counts(found, "normal")) == len(first)
    assert sum(count for count, _ in counts(found, "anomalous")) == len(second)
    for bar in found.bars:
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH
        assert 0 <= bar.y <= bar.y + bar.height <= found.height
    if mark is not None:
        (at,) = (line.x0 for line in found.lines if line.kind == "threshold")
        over = sum(count for count, bar in counts(found, "normal") if bar.x + bar.width / 2 > at)
        assert over == sum(value > mark for value in first)  # what equals the threshold is not over it


def test_bars_stand_where_their_values_are():
    """Closed form: 0 and 100 with the margin of 2 % on both sides, on an axis of 784 units that starts at 8."""
    found = chart([Band("a", "normal", [0.0, 100.0, 100.0])], None, "")
    (one, low), (two, high) = counts(found, "normal")
    assert (one, two) == (1, 2)
    for bar, value in ((low, 0.0), (high, 100.0)):
        assert abs(bar.x + bar.width / 2 - (8 + 784 * (value + 2) / 104)) <= 784 / 60 / 2 + 1e-6
    assert high.height == 46  # the tallest of its band
    assert low.height == 23
    assert {label.words for label in found.labels} >= {"a (3)", "0", "100"}


def test_what_is_known_by_quantiles_looks_as_its_values_do():
    values = np.random.default_rng(0).gamma(9, 1, 20_000).astype(np.float32)
    exact = chart([Band("a", "normal", values.tolist())], None, "")
    close = chart([Band("a", "normal", known(values))], None, "")
    heights = [np.zeros(60), np.zeros(60)]
    for found, into in zip((exact, close), heights, strict=True):
        for bar in found.bars:
            into[round((bar.x - 8.5) / (784 / 60))] = bar.height
    assert np.abs(heights[0] - heights[1]).max() < 0.15 * 46
    assert all(bar.title.startswith("about ") for bar in close.bars)


def test_nothing_to_show_and_marks_that_are_no_numbers():
    assert chart([], Mark("m", "patch", 1.0), "") is None
    assert chart([Band("a", "normal", [])], None, "") is None
    for odd in (float("inf"), float("nan")):
        found = chart([Band("a", "normal", [1.0])], Mark("m", "patch", odd), "")
        assert [line.kind for line in found.lines] == ["axis"]


@pytest.mark.parametrize("values", [[0.0], [1e-30], [1e30], [3.0, 3.0], [0.0, 1e30]])
@pytest.mark.parametrize("mark", [None, 0.0, 1e-30, 1.0, 1e30])
def test_odd_numbers(values, mark):
    for band in (Band("a", "normal", values), Band("a", "normal", known(values))):
        found = chart([band], None if mark is None else Mark("m", "patch", mark), "", start=0.0)
        places = [place for bar in found.bars for place in (bar.x, bar.y, bar.width, bar.height)]
        assert np.isfinite(places).all()
        assert found.bars


def test_the_picture_shows_what_the_page_shows():
    """The same bars at the same places, in the same inks."""
    found = chart([Band("a", "normal", [0.0, 100.0, 100.0])], Mark("this patch", "patch", 50.0), "")
    picture = np.full((round(2 * found.height) + 10, round(2 * WIDTH) + 10, 3), 255, np.uint8)
    draw(found, picture, (0, 0), 2)
    for bar in found.bars:
        y, x = round(2 * (bar.y + bar.height / 2)), round(2 * (bar.x + bar.width / 2))
        assert tuple(picture[y, x]) == INKS["normal"]
        assert tuple(picture[round(2 * bar.y) - 4, x]) == drawing.WHITE
    (line,) = (line for line in found.lines if line.kind == "patch")
    assert tuple(picture[round(found.height), round(2 * line.x0)]) == drawing.MARK


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_round_numbers(low, length):
    found = ticks(low, low + length)
    assert 4 <= len(found) <= 11
    steps = np.diff(found)
    assert np.allclose(steps, steps[0], rtol=1e-3)
    assert all(low <= tick <= low + length for tick in found)


def test_ticks_of_small_numbers_differ():
    assert ticks(0, 1e-30) == [float(f"{k}e-31") for k in range(11)]


@pytest.mark.parametrize("at", [0.0, 0.4, 5.0])
def test_the_name_of_a_further_line_is_inside_the_picture(at):
    """A limit of review close to the lowest score: its name stood before the line, and its beginning was cut off."""
    mark, review = Mark("threshold", "threshold", at + 0.1), Mark("review", "review", at)
    found = chart([Band("a", "normal", [0.0, 10.0])], mark, "", further=[review])
    assert found is not None
    (label,) = (label for label in found.labels if label.kind == "review")
    (line,) = (line for line in found.lines if line.kind == "threshold")
    width = drawing.text_width(label.words, 16, drawing.REGULAR)
    begin = label.x - width if label.anchor == "end" else label.x
    assert 0 <= begin <= begin + width <= WIDTH
    assert label.anchor == ("end" if at == 5.0 else "start")
    assert begin > line.x0 or begin + width < line.x0  # nor does the threshold's line cross it
