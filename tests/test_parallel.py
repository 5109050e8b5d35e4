"""Threads over blocks and images: order, errors, BLAS' threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from patchbank.util import parallel
from patchbank.util.parallel import in_order


def test_results_come_in_order_two_at_a_time() -> None:
    """Each item waits for its partner: one at a time would never end."""
    meeting = threading.Barrier(2, timeout=60)

    def work(item: int) -> int:
        meeting.wait()
        return item * item

    assert list(in_order(work, range(8))) == [item * item for item in range(8)]


def test_an_error_comes_in_its_turn_and_ends_the_rest() -> None:
    done: list[int] = []

    def work(item: int) -> int:
        done.append(item)
        return 12 // (3 - item)

    results = in_order(work, range(100))
    assert [next(results) for _ in range(3)] == [4, 6, 12]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(done) < 10


def test_only_a_little_is_taken_ahead() -> None:
    """A camera is an endless iterator."""
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = in_order(lambda item: item, endless(), ahead=2)
    assert [next(results) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert taken <= 5 + 3
    results.close()


def test_blas_gets_its_threads_back() -> None:
    """The limit is for the time of the work only, also when workers overlap or fail."""
    from threadpoolctl import threadpool_info

    def blas() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if "numpy" in library["filepath"]]

    before = blas()
    entered, leave = threading.Event(), threading.Event()

    def another() -> None:  # goes last
        with parallel.one_blas_thread():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=another)
    with parallel.one_blas_thread():
        thread.start()
        entered.wait(60)
        assert set(blas()) <= {1}
    assert set(blas()) <= {1}
    leave.set()
    thread.join()
    assert blas() == before
    with parallel.one_blas_thread(), parallel.one_blas_thread():
        assert set(blas()) <= {1}  # empty where NumPy's BLAS is the system's own, as on macOS
    with pytest.raises(ZeroDivisionError):
        parallel.spread(lambda x: 1 // x, [1, 0])
    assert blas() == before
    assert parallel.spread(lambda x: x * x, range(5)) == [0, 1, 4, 9, 16]


def test_work_may_spread_from_within_work() -> None:
    """Nobody waits for threads that are all waiting."""
    inner = parallel.spread(lambda x: parallel.spread(lambda y: x * y, range(6)), range(9))
    assert inner == [[x * y for y in range(6)] for x in range(9)]


@pytest.mark.parametrize(("value", "expected"), [("1", 1), ("100000", None), ("abc", None), ("", None), ("0", None)])
def test_omp_num_threads_limits_the_workers(value: str, expected: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    usable = parallel.workers()
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert parallel.workers() == (expected or usable)


def test_work_beside_runs_while_this_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both wait for each other: done one after the other they would never end."""
    monkeypatch.setattr(parallel, "workers", lambda: 2)
    meeting = threading.Barrier(2, timeout=60)

    def work() -> str:
        meeting.wait()
        return threading.current_thread().name

    result = parallel.beside(work)
    meeting.wait()
    assert result() != threading.current_thread().name


def test_work_beside_raises_where_its_result_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "workers", lambda: 2)
    result = parallel.beside(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        result()


def test_work_beside_is_done_here_where_there_is_no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "workers", lambda: 1)
    assert parallel.beside(threading.current_thread)() is threading.current_thread()


def test_work_beside_does_not_wait_for_threads_that_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another image's threads may be busy for long; what they have not begun is done by who needs it."""
    monkeypatch.setattr(parallel, "workers", lambda: 2)
    monkeypatch.setattr(parallel, "_pool", None)
    end = threading.Event()
    busy = [parallel.beside(lambda: end.wait(60)) for _ in range(2)]
    try:
        assert parallel.beside(threading.current_thread)() is threading.current_thread()
    finally:
        end.set()
    assert all(result() for result in busy)
