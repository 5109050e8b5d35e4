"""The C functions called directly: what cannot be is refused before memory is touched; which library is used.

`tools/sanitize_native.py` runs these under AddressSanitizer and UndefinedBehaviorSanitizer.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from patchbank import native
from patchbank.bank import k_center_bounds as bounds
from patchbank.errors import ConfigError, PatchbankError
from patchbank.native import compiling
from patchbank.native.calls import NativeBank, measure, unfiltered
from patchbank.search import exact, projections
from patchbank.search.exact import ExactSearcher

Array = npt.NDArray[np.float32]

needs_compiler = pytest.mark.skipif(compiling.compiler() is None, reason="no C compiler here")


def points(n: int, d: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


@pytest.fixture
def library(built: None) -> native.Library:
    used = native.library()
    assert used is not None
    return used


@pytest.fixture(params=["", "avxvnni", "avx2", "any"])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each instruction set has code of its own; a processor without one runs the next."""
    monkeypatch.setenv("PATCHBANK_NATIVE", request.param)


@functools.cache
def bank_of(m: int, d: int) -> NativeBank:
    """A bank of m random vectors, built once; no test changes it."""
    return built_of(points(m, d))


def built_of(vectors: Array) -> NativeBank:
    bank = ExactSearcher(vectors)._native
    assert bank is not None
    return bank


def nearest(
    library: native.Library,
    bank: NativeBank,
    queries: Array,
    *,
    total: int | None = None,
    threads: int = 2,
    record: Any = None,
) -> tuple[int, npt.NDArray[np.int32]]:
    """patchbank_nearest's code, and what it found."""
    found = np.full((len(queries), native.KEPT), -7, np.int32)
    record = library.structs["Bank"].record(bank.fields) if record is None else record
    total = len(queries) if total is None else total
    addresses = (record.ctypes.data, bank.starts.ctypes.data, queries.ctypes.data, total, found.ctypes.data)
    return library.nearest(*addresses, threads, native.level()), found


# --- search ---


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("bad", [1e15, 1e20, -3e38, np.inf, np.nan])
@pytest.mark.parametrize(("m", "d"), [(40, 3), (900, 20), (900, 168)])
def test_queries_out_of_range_are_refused_in_c(library: native.Library, m: int, d: int, bad: float) -> None:
    """They led past the lists of cells, on the heap: squares beyond float32 are infinite, and their differences NaN."""
    bank, queries = bank_of(m, d), points(70, d, 1)
    for spoilt in (np.full_like(queries, bad), queries.copy(), queries.copy()):
        spoilt[-1, -1] = bad
        assert nearest(library, bank, spoilt)[0] == library.codes["OUT_OF_RANGE"]
        with pytest.raises(ConfigError, match="expected finite numbers"):
            bank.candidates(spoilt, bank.starts, 2)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("scale", [9.9e14, 1e-40, 0.0])
@pytest.mark.parametrize("d", [3, 168])
def test_the_largest_and_smallest_queries_that_are_allowed_are_answered(
    library: native.Library, d: int, scale: float
) -> None:
    for bank in (bank_of(3000, d), built_of(np.ones((600, d), np.float32))):
        queries = np.sign(points(70, d, 1)) * np.float32(scale)
        failed, found = nearest(library, bank, queries)
        assert failed == 0
        assert ((found >= -1) & (found < 3000)).all()


@pytest.mark.usefixtures("instructions")
def test_no_queries_are_no_work(library: native.Library) -> None:
    assert nearest(library, bank_of(40, 3), points(0, 3))[0] == 0


@pytest.mark.parametrize("threads", [1, 3, 64, 1000, 2**31 - 1])
def test_any_number_of_threads_finds_the_same(library: native.Library, threads: int) -> None:
    bank, queries = bank_of(2000, 20), points(500, 20, 1)
    failed, found = nearest(library, bank, queries, threads=threads)
    assert failed == 0
    assert np.array_equal(found, nearest(library, bank, queries, threads=1)[1])


@pytest.mark.parametrize("total", [-1, -(2**40), 2**31, 2**62])
def test_impossible_numbers_of_queries_are_refused(library: native.Library, total: int) -> None:
    assert nearest(library, bank_of(40, 3), points(5, 3), total=total)[0] == library.codes["IMPOSSIBLE"]


@pytest.mark.parametrize("threads", [0, -1, -(2**31)])
def test_impossible_numbers_of_threads_are_refused(library: native.Library, threads: int) -> None:
    assert nearest(library, bank_of(40, 3), points(5, 3), threads=threads)[0] == library.codes["IMPOSSIBLE"]


WRONG = [-(2**31), -1, 0, 1, 7, 33, 2**16, 2**31 - 1]


@pytest.mark.parametrize("d", [20, 168])
def test_every_number_and_length_of_a_bank_is_checked(library: native.Library, d: int) -> None:
    """Whatever leads into arrays: a wrong one is refused, and does not lead out of them."""
    bank, queries = bank_of(3000, d), points(5, d, 1)
    struct = library.structs["Bank"]
    whole = [name for name in struct.dtype.names or () if np.issubdtype(struct.dtype[name], np.signedinteger)]
    assert {"dim", "width", "axes", "dims", "cells", "panels", "groups", "codes_length"} <= set(whole)
    for name in whole:
        right = int(struct.record(bank.fields)[name][0])
        for wrong in {*WRONG, right - 1, right + 1, 2 * right + 1} - {right}:
            record = struct.record(bank.fields)
            record[name] = wrong
            assert nearest(library, bank, queries, record=record)[0] == library.codes["IMPOSSIBLE"], (name, wrong)


def test_arrays_that_are_not_there_are_refused(library: native.Library) -> None:
    bank, struct = bank_of(3000, 168), library.structs["Bank"]
    for name in struct.arrays:
        record = struct.record(bank.fields)
        record[name] = 0
        assert nearest(library, bank, points(5, 168), record=record)[0] == library.codes["IMPOSSIBLE"], name


@pytest.mark.parametrize("change", [{0: 1}, {0: -1}, {2: 10**6}, {2: -5}, {-1: 0}, {-1: 10**6}])
def test_cells_that_lead_out_of_the_bank_are_refused(library: native.Library, change: dict[int, int]) -> None:
    bank = bank_of(3000, 20)
    first = bank.fields["first"].copy()
    for place, value in change.items():
        first[place] = value
    wrong = dataclasses.replace(bank, fields={**bank.fields, "first": first})
    assert nearest(library, wrong, points(5, 20))[0] == library.codes["IMPOSSIBLE"]
    with pytest.raises(PatchbankError, match="PATCHBANK_NATIVE=0"):
        wrong.candidates(points(5, 20), wrong.starts, 1)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -3e38])
def test_a_bank_of_odd_numbers_leads_nowhere(library: native.Library, bad: float) -> None:
    """What checks do not see, contents and rounding terms, may make answers wrong, but not touch other memory."""
    bank, queries = bank_of(900, 168), points(20, 168, 1)
    floats = [name for name, value in bank.fields.items() if np.asarray(value).dtype.kind == "f"]
    for name in floats:
        value = bank.fields[name]
        odd = np.full_like(value, bad) if isinstance(value, np.ndarray) else bad
        failed, found = nearest(library, dataclasses.replace(bank, fields={**bank.fields, name: odd}), queries)
        assert failed == 0
        assert ((found >= -1) & (found < 900)).all()


def test_queries_and_starts_of_another_kind_are_refused_before_c_reads_them(library: native.Library) -> None:
    bank, queries = bank_of(300, 20), points(8, 20)
    for wrong in (queries.astype(np.float64), queries[:, ::-1], queries.T.copy().T, queries.astype(">f4")):
        with pytest.raises(TypeError, match=r"queries: expected a contiguous array of float32"):
            bank.candidates(wrong, bank.starts, 1)
    for shape in (queries[:, :19].copy(), queries.ravel()):
        with pytest.raises(PatchbankError, match="refused"):
            bank.candidates(shape, bank.starts, 1)
    with pytest.raises(PatchbankError, match="refused"):
        bank.candidates(queries, bank.starts[:-1].copy(), 1)
    with pytest.raises(TypeError, match="starts: expected a contiguous array of int32"):
        bank.candidates(queries, bank.starts.astype(np.int64), 1)


# --- rows of a PNG ---


def unfilter(
    library: native.Library, raw: Any, height: int, pixels: int, step: int, *, out: Any = None
) -> tuple[int, npt.NDArray[np.uint8]]:
    """patchbank_unfilter's code, and the rows that it wrote."""
    out = np.full(max(0, min(height * pixels * step, 10**6)), 7, np.uint8) if out is None else out
    sizes = (out.ctypes.data, out.size, raw.ctypes.data, raw.size)
    return library.unfilter(*sizes, height, pixels, step, native.level()), out


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("step", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("pixels", [1, 2, 3, 15, 16, 17, 18, 40])
def test_rows_are_undone_as_the_specification_says(library: native.Library, step: int, pixels: int) -> None:
    """tests/test_png.py holds the same against OpenCV; here each filter follows each other, in rows of any length."""
    rng, rows = np.random.default_rng(pixels), []
    raw = rng.integers(0, 256, (60, 1 + pixels * step)).astype(np.uint8)
    raw[:, 0] = rng.integers(0, 5, 60)
    above = [0] * (pixels * step)
    for filter, *coded in raw.tolist():
        row: list[int] = []
        for at, value in enumerate(coded):
            a, c = (row[at - step], above[at - step]) if at >= step else (0, 0)
            b = above[at]
            nearest = min((a, b, c), key=lambda each: abs(a + b - c - each))
            row.append((value + (0, a, b, (a + b) // 2, nearest)[filter]) % 256)
        rows.append(row)
        above = row
    for height in (60, 59, 17, 16, 1):
        failed, out = unfilter(library, np.ascontiguousarray(raw[:height]), height, pixels, step)
        assert failed == 0
        assert out.reshape(height, -1).tolist() == rows[:height]


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("place", [0, 5, 16, 19])
@pytest.mark.parametrize("filter", [5, 255])
def test_a_filter_that_there_is_not_is_refused(library: native.Library, place: int, filter: int) -> None:
    raw = np.full((20, 31), 4, np.uint8)
    raw[place, 0] = filter
    assert unfilter(library, raw, 20, 10, 3)[0] == library.codes["OUT_OF_RANGE"]
    assert unfiltered(raw.reshape(-1), 20, 10, 3) is None


@pytest.mark.parametrize(
    ("height", "pixels", "step"),
    [
        *((20, 10, step) for step in (-1, 0, 1, 2, 4, 5, 7, 9, 2**30, -(2**31))),
        *((height, 10, 3) for height in (-1, 0, 19, 21, 2**31, 2**62, -(2**63))),
        *((20, pixels, 3) for pixels in (-1, 0, 9, 11, 2**31, 2**62, -(2**63))),
        (2**32, 2**32, 1),
        (-20, -10, 3),
    ],
)
def test_sizes_that_do_not_fit_the_rows_are_refused(
    library: native.Library, height: int, pixels: int, step: int
) -> None:
    raw, out = np.zeros(20 * 31, np.uint8), np.zeros(600, np.uint8)
    assert unfilter(library, raw, height, pixels, step, out=out)[0] == library.codes["IMPOSSIBLE"]


def test_rows_of_another_kind_are_refused_before_c_reads_them(library: native.Library) -> None:
    raw = np.zeros(20 * 31, np.uint8)
    assert unfilter(library, raw[:-1], 20, 10, 3)[0] == library.codes["IMPOSSIBLE"]
    with pytest.raises(PatchbankError, match=r"rows of a PNG of 10x20 pixels of 3 bytes: .*refused"):
        unfiltered(raw[:-1].copy(), 20, 10, 3)
    with pytest.raises(TypeError, match="raw: expected a contiguous array of uint8"):
        unfiltered(raw.astype(np.int8), 20, 10, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="raw: expected a contiguous array of uint8"):
        unfiltered(np.zeros(2 * 20 * 31, np.uint8)[::2], 20, 10, 3)


# --- coreset ---


class Entries:
    def __init__(self, numbers: Any, distances: Any) -> None:
        self.numbers, self.distances = np.array(numbers, np.int32), np.array(distances, np.float32)

    def __len__(self) -> int:
        return len(self.numbers)


def traversal(n: int = 50, d: int = 5, centres: int = 7) -> dict[str, Any]:
    """The state of one cell, around 0."""
    some = points(n, d)
    return {
        "dim": d,
        "cells": 1,
        "capacity": centres,
        "count": n,
        "rounding": np.float32(2.0**-23 * (d + 16)),
        "points": some,
        "centres": points(centres, d, 1),
        "pivots": np.zeros((1, d), np.float32),
        "to_pivot": np.linalg.norm(some, axis=1).astype(np.float32),
        "met": np.zeros(n, np.int32),
        "bound": np.full(n, np.inf, np.float32),
        "slack": np.zeros(n, np.float32),
        "near": np.full(n, -1, np.int32),
    }


def entries_of(state: dict[str, Any]) -> Entries:
    with np.errstate(over="ignore"):
        return Entries(np.arange(len(state["centres"])), np.linalg.norm(state["centres"], axis=1))


@pytest.mark.usefixtures("instructions", "library")
@pytest.mark.parametrize("d", [1, 5, 40, 300])
def test_points_are_measured_as_numpy_measures_them(d: int) -> None:
    state = traversal(d=d)
    found = measure(state, [(0, np.arange(50))], [entries_of(state)], 2)
    assert found is not None
    squared = np.square(state["points"][:, None].astype(np.float64) - state["centres"]).sum(axis=2)  # (50, 7)
    clear = np.setdiff1d(np.arange(50), found[0])
    assert np.array_equal(state["near"][clear], squared.argmin(axis=1)[clear])
    assert (state["bound"][clear] >= squared.min(axis=1)[clear]).all()
    assert state["bound"][clear] == pytest.approx(squared.min(axis=1)[clear], rel=1e-4, abs=1e-4)
    for point, number in zip(*found, strict=True):
        assert squared[point, number] == pytest.approx(squared[point].min(), rel=1e-4, abs=1e-4)


@pytest.mark.usefixtures("instructions", "library")
@pytest.mark.parametrize("bad", [1e20, 3e38, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", ["points", "centres", "pivots", "to_pivot", "bound", "slack", "rounding"])
def test_points_out_of_range_lead_nowhere(where: str, bad: float) -> None:
    """coreset.py refuses them; if they came here all the same, they must not touch other memory."""
    state = traversal(n=200, d=40)
    state[where] = np.full_like(state[where], bad)
    found = measure(state, [(0, np.arange(200))], [entries_of(state)], 2)
    if found is not None:
        assert ((found[0] >= 0) & (found[0] < 200)).all()
        assert ((found[1] >= 0) & (found[1] < 7)).all()
    assert ((state["near"] >= -1) & (state["near"] < 7)).all()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("cell", "members", "numbers", "met"),
    [
        (1, [0], [0], 0),
        (-1, [0], [0], 0),
        (2**31 - 1, [0], [0], 0),
        (0, [50], [0], 0),
        (0, [0, -1], [0], 0),
        (0, [2**40], [0], 0),
        (0, [0], [7], 0),
        (0, [0], [3, -1], 0),
        (0, [0], [0], -1),
        (0, [0], [0], -(2**31)),
    ],
)
def test_groups_that_lead_out_of_the_arrays_are_refused(
    cell: int, members: list[int], numbers: list[int], met: int
) -> None:
    state = traversal()
    state["met"][:] = met
    lists = dict.fromkeys([cell], Entries(numbers, np.zeros(len(numbers))))
    with pytest.raises(PatchbankError, match="coreset: the compiled part refused"):
        measure(state, [(cell, np.array(members))], lists, 2)  # type: ignore[arg-type]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ["dim", "cells", "capacity", "count"])
def test_every_number_of_a_traversal_is_checked(name: str) -> None:
    for wrong in (-(2**31), -1, 0, 6, 2**14, 2**31 - 1):
        state = traversal()
        if wrong == state[name]:
            continue
        arguments = ({**state, name: wrong}, [(0, np.arange(50))], [entries_of(state)], 1)
        if name == "dim" and wrong > native.MOST_DIM:
            assert measure(*arguments) is None  # more than codes can sum: NumPy does it
            continue
        with pytest.raises(PatchbankError, match="refused"):
            measure(*arguments)


@pytest.mark.usefixtures("instructions", "library")
def test_sums_of_codes_do_not_overflow_in_the_most_dimensions() -> None:
    """All codes at their largest, and padding beside them: sums stay within 32 bits, the nearest is found."""
    d = native.MOST_DIM
    state = traversal(n=4, d=d, centres=3)
    signs = np.sign(points(3, d, 2))
    state["centres"], state["points"] = signs * np.float32(100), signs[[0, 1, 2, 0]] * np.float32(-100)
    state["points"][3] = signs[0] * np.float32(99)
    state["to_pivot"] = np.linalg.norm(state["points"], axis=1)
    found = measure(state, [(0, np.arange(4))], [entries_of(state)], 1)
    assert found is not None
    near = {3: state["near"][3], **dict(zip(*(values.tolist() for values in found), strict=True))}
    assert near[3] == 0
    assert measure({**state, "dim": d + 1}, [(0, np.arange(4))], [entries_of(state)], 1) is None


@pytest.mark.usefixtures("library")
def test_nothing_to_measure_is_no_work() -> None:
    state = traversal()
    empty = np.empty(0, np.int64)
    for groups, lists in (([(0, empty)], [entries_of(state)]), ([(0, np.arange(50))], [Entries([], [])])):
        found = measure(state, groups, lists, 2)
        assert found is not None
        assert len(found[0]) == 0
    assert (state["near"] == -1).all()


# --- what Python and C must agree on ---


def test_numbers_that_both_languages_need_are_the_same(library: native.Library) -> None:
    told = native.constants(ctypes.CDLL(str(native.LIBRARY)))
    for name in ("PANEL", "KEPT", "HIDDEN", "MIDDLE", "WIDEST", "MOST_DIM"):
        assert told.pop(name) == getattr(native, name)
    assert np.float32(told.pop("MARGIN")) == np.float32(bounds.MARGIN)
    assert np.float32(told.pop("TINY")) == projections.TINY
    assert np.float32(told.pop("LARGEST")) == np.float32(exact._LARGEST)
    assert set(told) == set(library.codes)


def test_records_hold_each_field_once_and_as_c_reads_it(library: native.Library) -> None:
    struct, bank = library.structs["Traversal"], traversal()
    record = struct.record(bank)
    assert record["dim"][0] == 5
    assert record["points"][0] == bank["points"].ctypes.data
    assert record["points_length"][0] == 250
    assert struct.dtype.itemsize == record.nbytes
    with pytest.raises(TypeError, match="missing or unknown: met, mett"):
        struct.record({**{name: value for name, value in bank.items() if name != "met"}, "mett": bank["met"]})
    locked = bank["bound"].copy()
    locked.flags.writeable = False
    for name, wrong in {
        "points": bank["points"][:, ::-1],
        "centres": bank["centres"].astype(np.float64),
        "met": bank["met"].astype(np.int64),
        "bound": locked,
        "near": [1, 2],
    }.items():
        with pytest.raises(TypeError, match=rf"Traversal\.{name}: expected a contiguous"):
            struct.record({**bank, name: wrong})
    shared = bank["points"].copy()
    shared.flags.writeable = False  # C only reads it: it may lie in a file
    struct.record({**bank, "points": shared})


# --- which library is used ---


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Path]:
    """A copy of the sources; the library beside them is the one that would be used."""
    for name in compiling.SOURCES:
        shutil.copy(compiling.FOLDER / name, tmp_path)
    monkeypatch.setattr(native, "LIBRARY", tmp_path / compiling.LIBRARY)
    monkeypatch.delenv("PATCHBANK_NATIVE", raising=False)
    caplog.set_level(logging.INFO, "patchbank")
    native.library.cache_clear()
    yield tmp_path
    native.library.cache_clear()


@needs_compiler
def test_a_library_of_the_same_sources_is_used(elsewhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert compiling.compile_library(elsewhere, flags=["-O0"]) == ""
    assert native.available()
    assert caplog.records == []
    assert not list(elsewhere.glob("*.tmp"))


@needs_compiler
@pytest.mark.parametrize("name", ["native.c", "structs.h"])
def test_a_library_of_other_sources_is_told_by_its_content(
    elsewhere: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Its functions have the same names: a struct's field moved, or a number's meaning. It must not be called."""
    source = elsewhere / name
    source.write_text(source.read_text() + "\n/* another */\n")
    assert compiling.compile_library(elsewhere, flags=["-O0"]) == ""
    assert not native.available()
    assert native.instructions() == "numpy"
    assert "other sources" in caplog.text
    assert "build it again" in caplog.text
    vectors = points(300, 8)
    assert ExactSearcher(vectors).search(vectors[:9], 1)[1].ravel().tolist() == list(range(9))


@needs_compiler
def test_a_library_that_does_not_say_what_it_is_made_of_is_not_used(
    elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that somebody compiled by hand, or of an earlier version, whose functions have these names too."""
    old = elsewhere / "old.c"
    old.write_text("int patchbank_nearest(void) { return 0; }\nint patchbank_measure(void) { return 0; }\n")
    for source in (old, elsewhere / "native.c"):
        native.LIBRARY.unlink(missing_ok=True)
        command = [compiling.compiler() or "", "-O0", "-shared", "-fPIC", "-pthread", "-o", str(native.LIBRARY)]
        subprocess.run([*command, str(source), "-lm"], check=True)
        native.library.cache_clear()
        caplog.clear()
        assert not native.available()
        assert "NumPy does its work" in caplog.text


@needs_compiler
def test_a_program_that_was_packed_without_the_c_sources_uses_the_library_that_came_with_it(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiling.compile_library(elsewhere, flags=["-O0"]) == ""
    monkeypatch.setattr(native, "digest", lambda: None)
    assert native.available()


def test_a_digest_is_of_names_and_contents_not_of_line_ends(tmp_path: Path) -> None:
    for name in compiling.SOURCES:
        (tmp_path / name).write_bytes((compiling.FOLDER / name).read_bytes().replace(b"\n", b"\r\n"))
    made = compiling.digest(tmp_path)
    assert made == compiling.digest()
    (tmp_path / "set.h").write_text("")
    assert compiling.digest(tmp_path) != made
    (tmp_path / "set.h").unlink()
    assert compiling.digest(tmp_path) is None


def test_all_c_files_are_in_the_digest() -> None:
    """Else a change of one would go unnoticed."""
    here = {path.name for path in compiling.FOLDER.iterdir() if path.suffix in (".c", ".h")}
    assert here == set(compiling.SOURCES)
