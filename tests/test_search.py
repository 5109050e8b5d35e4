"""Nearest neighbours: brute force as oracle (bit for bit), exact zeros, ties, exclusion, recall."""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import pickle
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from patchbank import native
from patchbank.config import Config
from patchbank.errors import ConfigError, MissingExtraError
from patchbank.native.calls import NativeBank, coded
from patchbank.native.sums import squared_distances
from patchbank.search import exact, projections
from patchbank.search.exact import ExactSearcher
from patchbank.search.projections import Projections
from patchbank.search.searcher import FaissSearcher, build_searcher, measured_recall, search_excluding
from patchbank.util import parallel

Array = npt.NDArray[np.float32]
_BRUTE: dict[tuple[bytes, int], tuple[Array, npt.NDArray[np.int64]]] = {}


def brute(
    vectors: Array, queries: Array, k: int, exclude: npt.NDArray[np.bool_] | None = None
) -> tuple[Array, npt.NDArray[np.int64]]:
    """The oracle's distances and indices, (Q, k). Every way to search is asked the same: they are kept."""
    given = (vectors, queries, np.empty(0, np.bool_) if exclude is None else exclude)
    key = b"".join(hashlib.sha256(each.tobytes()).digest() + str(each.shape).encode() for each in given)
    if (key, k) not in _BRUTE:
        if len(_BRUTE) >= 100:
            _BRUTE.clear()
        squared = np.array([squared_distances(vectors, query) for query in queries])
        if exclude is not None:
            squared[:, exclude] = np.inf
        indices = np.argsort(squared, axis=1, kind="stable")[:, :k]
        _BRUTE[key, k] = np.sqrt(np.take_along_axis(squared, indices, 1)), indices
    return _BRUTE[key, k]


def assert_brute(vectors: Array, queries: Array, k: int, exclude: npt.NDArray[np.bool_] | None = None) -> None:
    """For k and for 1: the single nearest has a way of its own."""
    searcher = ExactSearcher(vectors)
    expected, where = brute(vectors, queries, k, exclude)
    for n in {k, 1}:
        distances, indices = searcher.search(queries, n, exclude=exclude)
        assert (distances.dtype, indices.dtype) == (np.float32, np.int64)
        assert np.array_equal(indices, where[:, :n])
        assert np.array_equal(distances, expected[:, :n])


def clustered(n: int, d: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, d)) * 4
    return (centres[rng.integers(0, 40, n)] + rng.standard_normal((n, d))).astype(np.float32)


@pytest.mark.usefixtures("way")
def test_distances_are_euclidean_ascending_and_found_by_hand() -> None:
    bank = np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]], np.float32)
    distances, indices = ExactSearcher(bank).search(np.array([[0.0, 0.0], [6.0, 9.0]], np.float32), 2)
    assert distances.tolist() == [[0.0, 5.0], [1.0, pytest.approx(np.sqrt(34))]]
    assert indices.tolist() == [[0, 1], [2, 1]]


@pytest.mark.parametrize(
    ("m", "d", "k"),
    [(1, 5, 1), (60, 7, 60), (2048, 20, 1), (2049, 20, 1), (6000, 30, 1), (6000, 30, 5), (6000, 30, 150), (9000, 2, 9)],
)
@pytest.mark.usefixtures("way")
def test_exact_is_brute_force_bit_for_bit(m: int, d: int, k: int) -> None:
    """Banks of one cell and of many, fewer and more neighbours than a cell holds, with an offset that eats digits."""
    bank, queries = clustered(m, d) + 50, clustered(300, d, seed=1) + 50
    assert_brute(bank, np.concatenate([queries, bank[:20]]), k)


@pytest.mark.parametrize("k", [1, 3, 200])
@pytest.mark.parametrize("rank", [3, 70, 150])
@pytest.mark.usefixtures("way")
def test_exact_in_many_dimensions_whatever_their_share_in_the_variance(rank: int, k: int) -> None:
    """More dimensions than a projection has: bulk, nothing or noise beyond the leading axes; duplicates, an outlier."""
    rng = np.random.default_rng(rank)
    basis = rng.standard_normal((rank, 150)) / np.sqrt(rank)
    bank = (clustered(4000, rank) @ basis + 20).astype(np.float32)
    bank[500:520], bank[7] = bank[10], 1e5
    queries = (clustered(200, rank, seed=1) @ basis + 20).astype(np.float32)
    assert_brute(bank, np.concatenate([queries, bank[:30], bank[500:510], queries[:5] * 1000]), k)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-18, 1e-15, 1e13])
@pytest.mark.parametrize("d", [20, 150])
@pytest.mark.usefixtures("way")
def test_numbers_of_any_size_are_searched_as_by_brute_force(d: int, scale: float) -> None:
    """Squares of very small differences are 0 in float32: these tie."""
    bank, queries = clustered(1500, d) * np.float32(scale), clustered(40, d, seed=1) * np.float32(scale)
    assert_brute(bank, queries, 2)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_shadows_are_never_farther_apart_than_their_vectors(scale: float, offset: float) -> None:
    """But for the stated errors; a projection has fewer dimensions, and loses little of a distance along its axes."""
    vectors = ((clustered(300, 120) + offset) * scale).astype(np.float32)
    vectors[100:] = vectors[:1] + (vectors[100:] - vectors[:1]) * np.geomspace(1e-6, 1, 200, dtype=np.float32)[:, None]
    shown_by = Projections(vectors)
    cast, errors = shown_by.of(vectors)
    assert shown_by.axes is not None
    assert cast.shape == (300, shown_by.axes.shape[1] + 1)
    true, shown = (np.linalg.norm(np.diff(x.astype(np.float64), axis=0), axis=1) for x in (vectors, cast))
    assert (shown <= true + errors[1:] + errors[:-1]).all()
    assert (errors <= 1e-2 * scale * (offset + 100)).all()
    assert np.median(shown[true > 0] / true[true > 0]) > 0.8


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1.0, 1e12])
def test_codes_tell_squared_distances_as_native_c_reads_them(scale: float) -> None:
    """The identity that its limits rest on: with codes b of the bank at one step, and u of a query at two steps,
    starts + (u + 64) . b = u . b - |b|^2 / 4, but for rounding down; and what coding changes is as stated."""
    cast = (clustered(70, 78) * scale).astype(np.float32)
    slots = np.concatenate([np.arange(40), np.arange(64, 94)])
    codes, starts, step, wrong = coded(cast, slots, 96)
    assert codes.shape == (3, 20, 32, 4)
    assert starts.shape == (96,)
    by_place = codes.transpose(0, 2, 1, 3).reshape(96, 80)
    b = by_place[slots].astype(np.int64)
    assert scale == 0 or np.abs(b).max() == 127
    assert (by_place[np.setdiff1d(np.arange(96), slots)] == 0).all()
    assert (starts[np.setdiff1d(np.arange(96), slots)] == -2_000_000_000).all()
    true = np.linalg.norm(cast - b[:, :78] * step, axis=1)
    assert (true <= wrong + 1e-30).all()
    assert (wrong <= 1.01 * true + 1e-30).all()
    u = np.random.default_rng(0).integers(-63, 64, 80)
    told = starts[slots] + b @ (u + 64)
    exactly = (4 * (u @ u) - ((2 * u - b) ** 2).sum(axis=1)) / 4
    assert (told >= exactly).all()
    assert (told < exactly + 1).all()


@pytest.mark.usefixtures("way")
def test_queries_far_from_everything_are_right_too() -> None:
    assert_brute(clustered(5000, 10), clustered(50, 10, seed=1) * 1000, 3)


@pytest.mark.usefixtures("way")
def test_a_bank_with_an_outlier_is_right_too() -> None:
    """One huge vector spoils the products' precision for its own cell only."""
    bank = clustered(5000, 10)
    bank[77] = 1e6
    assert_brute(bank, np.concatenate([clustered(100, 10, seed=1), bank[70:80]]), 2)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 70), st.just(2)), elements=st.integers(-3, 3).map(float)),
    hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.just(2)), elements=st.integers(-4, 4).map(float)),
    st.data(),
)
def test_ties_go_to_the_smallest_index(bank: Array, queries: Array, data: st.DataObject) -> None:
    """A grid full of duplicates and ties, in cells of a few vectors."""
    k = data.draw(st.integers(1, len(bank)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATCHBANK_NATIVE", data.draw(st.sampled_from(["", "avxvnni", "avx2", "any", "0"])))
        patch.setattr(projections, "_ONE_CELL", 8)
        patch.setattr(projections, "_PER_CELL", 4)
        for name, value in {"_CROWD": 1, "_QUERIES": 5, "_FEW": 1}.items():
            patch.setattr(exact, name, value)
        assert_brute(bank, queries, k) if len(queries) else ExactSearcher(bank).search(queries, k)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.usefixtures("way")
def test_a_bank_of_one_repeated_vector_answers_with_its_first(k: int) -> None:
    """Blank training images make such banks: everything ties, and candidates must not pile up in memory."""
    distances, indices = ExactSearcher(np.ones((6000, 3), np.float32)).search(np.zeros((500, 3), np.float32), k)
    assert indices.tolist() == [list(range(k))] * 500
    assert np.array_equal(distances, np.full((500, k), np.sqrt(np.float32(3))))


@pytest.mark.parametrize("m", [500, 5000])
@pytest.mark.usefixtures("way")
def test_a_bank_vector_is_at_distance_zero_exactly(m: int) -> None:
    bank = clustered(m, 64) + 300
    distances, indices = ExactSearcher(bank).search(bank, 1)
    assert (distances == 0).all()
    assert indices[:, 0].tolist() == list(range(m))


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.usefixtures("way")
def test_answers_do_not_depend_on_threads_or_company(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same query gives the same bytes alone, among others, again, and whatever the number of threads."""
    bank, queries = clustered(7000, 40), clustered(900, 40, seed=2)
    searcher = ExactSearcher(bank)
    distances, indices = searcher.search(queries, k)
    for rows in (slice(None), slice(0, 1), slice(450, 460)):
        again = searcher.search(queries[rows], k)
        assert again[0].tobytes() == distances[rows].tobytes()
        assert again[1].tobytes() == indices[rows].tobytes()
    for threads in (1, 7):
        monkeypatch.setattr(parallel, "workers", lambda threads=threads: threads)
        other = ExactSearcher(bank.copy()).search(queries, k)
        assert other[0].tobytes() == distances.tobytes()
        assert other[1].tobytes() == indices.tobytes()


@pytest.mark.usefixtures("way")
def test_one_searcher_serves_many_threads() -> None:
    searcher = ExactSearcher(clustered(5000, 20))
    batches = [clustered(200, 20, seed=s) for s in range(8)]
    expected = [searcher.search(batch, 2)[1].tolist() for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        assert [found[1].tolist() for found in pool.map(lambda batch: searcher.search(batch, 2), batches)] == expected


@pytest.mark.skipif(sys.platform != "linux", reason="fork is Linux's way to start a process")
def test_a_forked_process_can_search() -> None:
    """A child has none of its parent's threads; waiting for them would hang for ever."""
    searcher, queries = ExactSearcher(clustered(5000, 20)), clustered(900, 20, seed=1)
    searcher.search(queries, 1)
    child = multiprocessing.get_context("fork").Process(target=searcher.search, args=(queries, 1))
    child.start()
    child.join(60)
    hung = child.is_alive()
    child.kill()
    assert not hung
    assert child.exitcode == 0


@pytest.mark.parametrize(("m", "k"), [(300, 2), (6000, 1), (6000, 3)])
@pytest.mark.usefixtures("way")
def test_excluded_vectors_do_not_count(m: int, k: int) -> None:
    """Whole neighbourhoods are excluded, so that nearest cells run empty."""
    bank = clustered(m, 12)
    exclude = (bank[:, 0] > 0) | (np.arange(m) % 3 == 0)
    assert_brute(bank, np.concatenate([clustered(80, 12, seed=1), bank[:40]]), k, exclude)


@pytest.mark.parametrize("kind", ["exact", "fake"])
def test_leave_one_image_out_never_answers_with_the_image_itself(kind: str) -> None:
    bank = clustered(3000, 8)
    groups = np.arange(3000) // 30
    searcher = ExactSearcher(bank) if kind == "exact" else FakeSearcher(bank)
    distances, indices = search_excluding(searcher, bank, groups, bank[60:90], 2, 2)
    expected, where = brute(bank, bank[60:90], 2, groups == 2)
    assert np.array_equal(indices, where)
    assert np.array_equal(distances, expected)


def test_leave_one_image_out_needs_other_images() -> None:
    bank = clustered(10, 3)
    with pytest.raises(ConfigError, match="lower k"):
        search_excluding(ExactSearcher(bank), bank, np.zeros(10, np.int64), bank, 0, 1)


class FakeSearcher:
    """Brute force behind the protocol."""

    def __init__(self, vectors: Array) -> None:
        self.vectors = vectors

    def search(self, queries: Array, k: int) -> tuple[Array, npt.NDArray[np.int64]]:
        return brute(self.vectors, queries, k)


class WrongSearcher:
    """Finds the nearest of the even-numbered vectors only."""

    def __init__(self, vectors: Array) -> None:
        self.vectors = vectors

    def search(self, queries: Array, k: int) -> tuple[Array, npt.NDArray[np.int64]]:
        distances, indices = brute(self.vectors[::2], queries, k)
        return distances, indices * 2


def test_recall_is_the_share_of_true_neighbours() -> None:
    bank = np.arange(20, dtype=np.float32)[:, None]
    queries = np.array([[3.9], [5.1]], np.float32)  # true pairs: 4, 3 and 5, 6; found: 4, 2 and 6, 4
    assert measured_recall(FakeSearcher(bank), bank, queries, 2) == 1.0
    assert measured_recall(WrongSearcher(bank), bank, queries, 2) == 0.5


def test_recall_of_nothing_is_refused() -> None:
    bank = clustered(10, 3)
    with pytest.raises(ConfigError, match="at least one query"):
        measured_recall(FakeSearcher(bank), bank, bank[:0], 1)


@pytest.mark.parametrize(("kind", "least"), [("flat", 1.0), ("ivf", 0.8)])
def test_faiss_indexes_find_most_and_measure_exactly(kind: str, least: float) -> None:
    pytest.importorskip("faiss")
    bank, queries = clustered(4000, 16), clustered(200, 16, seed=1)
    searcher = build_searcher(bank, Config(search=kind, seed=1))
    assert isinstance(searcher, FaissSearcher)
    assert measured_recall(searcher, bank, queries, 3) >= least
    distances, indices = searcher.search(bank[:50], 3)
    assert (distances[:, 0] == 0).all()
    assert (np.diff(distances, axis=1) >= 0).all()
    assert np.array_equal(distances[:, 2], np.sqrt(squared_distances(bank[:50], bank[indices[:, 2]])))
    again = build_searcher(bank, Config(search=kind, seed=1)).search(queries, 2)
    assert again[1].tobytes() == searcher.search(queries, 2)[1].tobytes()


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_faiss_indexes_return_k_even_from_tiny_banks(kind: str) -> None:
    """Few lists: what the index does not reach is searched exactly; no index is -1."""
    pytest.importorskip("faiss")
    for m in (1, 5, 100):
        bank = clustered(m, 4)
        searcher = FaissSearcher(bank, kind)
        assert np.sort(searcher.search(bank[:1], m)[1][0]).tolist() == list(range(m))
        assert searcher.search(bank[:0], 1)[0].shape == (0, 1)


def test_without_faiss_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"patchbank\[ann\]"):
        build_searcher(clustered(50, 4), Config(search="ivf"))


def test_the_default_is_exact_and_needs_no_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert isinstance(build_searcher(clustered(50, 4), Config()), ExactSearcher)


def test_an_unknown_index_is_refused() -> None:
    pytest.importorskip("faiss")
    for kind in ("pq", "hnsw"):
        with pytest.raises(ConfigError, match="'flat' or 'ivf'"):
            FaissSearcher(clustered(50, 4), kind)


def test_hnsw_is_not_offered_any_more() -> None:
    """Its graph missed neighbours: scores of good parts were much too high on a bank of several products."""
    with pytest.raises(ConfigError, match="search: expected one of exact, flat, ivf; got 'hnsw'"):
        Config(search="hnsw")


def test_the_flat_index_answers_as_the_exact_search() -> None:
    pytest.importorskip("faiss")
    bank, queries = clustered(3000, 40), clustered(100, 40, seed=1)
    for found, expected in zip(
        FaissSearcher(bank, "flat").search(queries, 2), ExactSearcher(bank).search(queries, 2), strict=True
    ):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("k", [0, 51])
def test_more_neighbours_than_vectors_are_refused(k: int) -> None:
    bank = clustered(50, 4)
    with pytest.raises(ConfigError, match="expected 1 to 50"):
        ExactSearcher(bank).search(bank, k)


def test_arrays_of_wrong_shape_or_content_are_refused() -> None:
    bank = clustered(50, 4)
    with pytest.raises(ConfigError, match=r"shape \(q, 4\)"):
        ExactSearcher(bank).search(bank[:, :3], 1)
    with pytest.raises(ConfigError, match="at least one row"):
        ExactSearcher(bank[:0])
    for bad in (np.nan, np.inf, 1e20):
        spoilt = bank.copy()
        spoilt[3, 3] = bad
        with pytest.raises(ConfigError, match="expected finite numbers"):
            ExactSearcher(spoilt)
        with pytest.raises(ConfigError, match="expected finite numbers"):
            ExactSearcher(bank).search(spoilt, 1)


def test_no_queries_no_answers() -> None:
    distances, indices = ExactSearcher(clustered(50, 4)).search(np.empty((0, 4), np.float32), 2)
    assert distances.shape == indices.shape == (0, 2)


# --- the compiled part ---


def test_the_compiled_part_is_there_where_it_can_be() -> None:
    """Else a broken build would pass unnoticed: everything works without it, more slowly."""
    if sys.platform == "win32" or not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler here")
    assert native.available(), "build it: pip install -e ."


@pytest.mark.usefixtures("built")
def test_the_compiled_part_is_used_for_the_single_nearest_and_only_if_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    before = NativeBank.candidates

    def counted(self: NativeBank, queries: Array, starts: Array, threads: int) -> npt.NDArray[np.int32]:
        asked.append(len(queries))
        return before(self, queries, starts, threads)

    monkeypatch.setattr(NativeBank, "candidates", counted)
    searcher, queries = ExactSearcher(clustered(700, 20)), clustered(300, 20, seed=1)
    answer = searcher.search(queries, 1)
    assert sum(asked) == 300
    searcher.search(queries, 2)
    monkeypatch.setenv("PATCHBANK_NATIVE", "0")
    again = searcher.search(queries, 1)
    assert sum(asked) == 300
    assert all(np.array_equal(a, b) for a, b in zip(answer, again, strict=True))


@pytest.mark.usefixtures("built")
def test_each_processor_is_served_with_its_best_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a fast path could be left out, or tested in name only: AVX-VNNI without AVX-512 is in many edge PCs."""
    about = Path("/proc/cpuinfo")
    if not about.is_file() or platform.machine() != "x86_64":
        pytest.skip("needs Linux's list of what the processor has")
    has = set(about.read_text().split())
    used = {}
    for level in ("", "avxvnni", "avx2", "any"):
        monkeypatch.setenv("PATCHBANK_NATIVE", level)
        used[level] = native.instructions()
    avx2 = "avx2" if {"avx2", "fma"} <= has else "any"
    of_256_bits = {"avxvnni", avx2} if "avx_vnni" in has else {avx2}  # GCC before 12 does not compile AVX-VNNI
    assert used["avxvnni"] in of_256_bits
    assert used[""] == ("avx512" if {"avx512f", "avx512vl", "avx512bw", "avx512_vnni"} <= has else used["avxvnni"])
    assert (used["avx2"], used["any"]) == (avx2, "any")
    for level in ("0", "nonsense"):
        monkeypatch.setenv("PATCHBANK_NATIVE", level)
        assert native.instructions() == "numpy"


def test_without_the_library_everything_is_searched_by_numpy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wheel for any platform has none; a damaged one must not stop a line."""
    damaged = tmp_path / "_native.so"
    damaged.write_bytes(b"no library")
    for path in (tmp_path / "nothing.so", damaged):
        monkeypatch.setattr(native, "LIBRARY", path)
        native.library.cache_clear()
        try:
            assert not native.available()
            assert_brute(clustered(500, 20), clustered(50, 20, seed=1), 1)
        finally:
            native.library.cache_clear()


@pytest.mark.usefixtures("built")
def test_few_candidates_a_query_are_left_to_be_measured() -> None:
    """What the compiled part is for: ruling out. (Everything would be right, and slow, if it ruled out nothing.)"""
    bank = ExactSearcher(clustered(4000, 100))._native
    assert bank is not None
    found = bank.candidates(clustered(500, 100, seed=1), bank.starts, 2)
    assert (found[:, 0] >= 0).all()
    assert (found >= 0).sum() <= 520


def test_a_searcher_can_be_copied_and_pickled() -> None:
    """Programs that embed the library send models to other processes."""
    searcher, queries = ExactSearcher(clustered(700, 20)), clustered(30, 20, seed=1)
    for twin in (copy.deepcopy(searcher), pickle.loads(pickle.dumps(searcher))):
        assert np.array_equal(twin.search(queries, 1)[0], searcher.search(queries, 1)[0])
