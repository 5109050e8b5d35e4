"""Inspection in threads with a bounded queue."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from patchbank import PatchCore, Result


class Busy(Exception):  # noqa: N818
    """The queue is full."""


class Pool:
    """Inspects images of one model: `workers` at a time, and up to `queue` more wait."""

    def __init__(self, model: PatchCore, workers: int, queue: int) -> None:
        self._model, self._room, self._lock = model, workers + queue, threading.Lock()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="patchbank-serve")

    def submit(self, image: object) -> Future[Result]:
        """Hands an image over. Raises Busy."""
        with self._lock:
            if self._room < 1:
                raise Busy
            self._room -= 1
        future = self._threads.submit(self._model.predict, image)  # type: ignore[arg-type]  # any source
        future.add_done_callback(self._give_back)
        return future

    def _give_back(self, _: Future[Result]) -> None:
        with self._lock:
            self._room += 1

    def close(self, *, waiting: bool = True) -> None:
        """Waits for the images under way, and for those that wait; waiting = False: these get no result."""
        self._threads.shutdown(wait=True, cancel_futures=not waiting)
