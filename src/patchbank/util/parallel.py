"""Work in blocks, one thread for each processor, NumPy's BLAS on one thread in each.

The blocks of the coreset and of the search are small. BLAS' own threads meet at a barrier for every product, which
costs more than the product when anything else runs on the machine; threads over whole blocks do not wait for each
other.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from patchbank.arrays import Array

T = TypeVar("T")
R = TypeVar("R")

_lock = threading.Lock()
_users = 0  # threads inside one_blas_thread
_images = 0  # images under way
_before: list[int] = []
_inherited: list[int] = []  # what a forked child must give back, although it never entered
_pool: ThreadPoolExecutor | None = None
_scratch = threading.local()
_here = threading.local()  # .counted: this thread works on an image that is counted already


def workers() -> int:
    """Threads to work with: processors this process may use, or OMP_NUM_THREADS where that is fewer."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, min(usable, int(wanted))) if wanted.isdigit() and int(wanted) else usable


def share_of_workers() -> int:
    """Threads for one image's work: all workers, or what images that are worked on at the same time leave it."""
    return max(1, workers() // max(1, _images))


def spread(work: Callable[[T], R], items: Sequence[T], most: int | None = None) -> list[R]:
    """[work(item) for item in items], over all workers, this thread among them. A worker's exception is raised here.

    most: workers to use at most. Short NumPy calls wait for each other (for Python's lock): of these, more than two
    threads get less done than one. Who is free takes the next item. Where the other workers are busy (with another
    thread's items), this thread does everything itself. Images that are worked on at the same time (`one_image`) share
    the workers.
    """
    with one_blas_thread():
        helpers = min(share_of_workers(), len(items), most or len(items)) - 1
        if helpers < 1:
            return [work(item) for item in items]
        results: dict[int, R] = {}
        waiting = deque(range(len(items)))

        def help_out() -> None:
            while True:
                try:
                    number = waiting.popleft()
                except IndexError:
                    return
                results[number] = work(items[number])

        futures = [_threads().submit(help_out) for _ in range(helpers)]
        try:
            help_out()
        finally:
            waiting.clear()  # after an exception nobody begins another item
            running = [future for future in futures if not future.cancel()]
            wait(running)
        for future in running:
            future.result()
        return [results[number] for number in range(len(items))]


def beside(work: Callable[[], R]) -> Callable[[], R]:
    """Begins `work` on another thread, and returns a function that waits for its result, or raises its exception.

    For what takes one thread a millisecond, while this one does something else. Where no other thread is free, or
    images that are worked on at the same time use them all, the work is done when its result is asked for.
    """
    if share_of_workers() < 2:
        return work
    future = _threads().submit(work)

    def result() -> R:
        return work() if future.cancel() else future.result()

    return result


def in_order(work: Callable[[T], R], items: Iterable[T], ahead: int = 2) -> Iterator[R]:
    """work(item) for item in items, in order, two at a time; items are taken up to `ahead` before they are asked for.

    For images: while one waits for its slowest thread, or does what takes only one, another uses the processors.
    """

    def counted(item: T) -> R:
        with one_image():
            return work(item)

    pool = ThreadPoolExecutor(2, thread_name_prefix="patchbank-image")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(counted, item))
            while waiting and (len(waiting) > ahead or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def one_image() -> Iterator[None]:
    """Counts an image as under way on this thread: all that are under way at the same time share the workers, whoever
    handed them over. Inside of itself it counts nothing again."""
    global _images
    if getattr(_here, "counted", False):
        yield
        return
    with _lock:
        _images += 1
    _here.counted = True
    try:
        yield
    finally:
        _here.counted = False
        with _lock:
            _images -= 1


def scratch(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> Array:
    """Uninitialised memory of this thread, the same for the same name: valid until the thread asks for it again.

    Fresh memory is mapped page by page as it is written and unmapped when it is freed, for which all threads must stop;
    for blocks of a few megabytes that costs as much as the work on them.
    """
    size = math.prod(shape)
    kept = _scratch.__dict__.get(name)
    if kept is None or len(kept) < size or kept.dtype != dtype:
        kept = _scratch.__dict__[name] = np.empty(size, dtype)
    return kept[:size].reshape(shape)


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS uses one thread while any thread of this process is inside; then what it used before, unless somebody else
    has set another number meanwhile, which stays."""
    global _users, _before
    with _lock:
        _users += 1
        if _users == 1:
            _before = _inherited[:] or [library.num_threads for library in _blas()]
            _inherited.clear()
            _limit_blas([1] * len(_before))
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                now = [library.num_threads for library in _blas()]
                _limit_blas([then if count == 1 else count for then, count in zip(_before, now, strict=True)])


def _limit_blas(threads: list[int]) -> None:
    for library, count in zip(_blas(), threads, strict=True):
        if library.num_threads == count:
            continue
        # threadpoolctl 3.7 and later ignores all threads but the first that set a limit; here the last one to leave
        # need not be the first that came
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)
        library.set_num_threads(count)


@functools.lru_cache(maxsize=1)
def _blas() -> list[Any]:
    """The BLAS libraries of this process."""
    from threadpoolctl import ThreadpoolController

    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def _threads() -> ThreadPoolExecutor:
    """The threads, kept: a search takes a few milliseconds, of which starting threads would be a part."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(workers(), thread_name_prefix="patchbank")
        return _pool


def _forget() -> None:
    """A forked child has none of its parent's threads, and may have been forked while a lock was held."""
    global _lock, _users, _images, _pool
    _inherited.extend(_before if _users else [])  # not set here: a fork handler should do little
    _lock, _users, _images, _pool, _here.counted = threading.Lock(), 0, 0, None, False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
