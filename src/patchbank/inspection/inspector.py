"""Inspection of images as they are handed over, one future for each: for services and live lines.

`predict_each` waits for the next image before it hands out a finished result. Here nothing waits for anything else: a
result is there as soon as it is computed. What may wait is bounded, so that a burst of images, or a slow machine, is an
error at once and not a queue that grows.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeAlias, cast

from patchbank.errors import Busy, ConfigError
from patchbank.imaging.sources import ImageSource, name_of, own
from patchbank.results.result import Result
from patchbank.util.parallel import one_image

MAX_WORKERS, MAX_QUEUE = 256, 100_000
_LAST_IMAGES = 30.0  # seconds that the end of Python waits for the images under way
Inspect: TypeAlias = Callable[[ImageSource, str], Result]


@dataclass(eq=False)
class _Work:
    """An image that was handed over. source: None once it is of no use any more."""

    future: Future[Result]
    name: str
    source: Any


@dataclass(eq=False)
class _Crew:
    """Holds what the threads of one process share; they know nothing of the Inspector, which may be forgotten.
    reserved: places of images that are being copied. unfinished: futures that have neither result nor error yet."""

    inspect: Inspect
    room: int
    process: int = field(default_factory=os.getpid)
    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: deque[_Work] = field(default_factory=deque)
    running: int = 0
    reserved: int = 0
    unfinished: int = 0
    submitted: int = 0
    closed: bool = False
    threads: list[threading.Thread] = field(default_factory=list)

    def reserve(self, timeout: float) -> int:
        """Takes a place, and returns the image's number. Raises Busy if none gets free in time."""
        end = time.monotonic() + timeout
        with self.changed:
            while not self.closed and len(self.waiting) + self.running + self.reserved >= self.room:
                if (left := end - time.monotonic()) <= 0 or not self.changed.wait(left):
                    raise Busy(f"{self.room} images are being inspected or wait for it: no more are taken; try again")
            if self.closed:
                raise ConfigError("the inspector is closed: it takes no more images")
            self.reserved += 1
            self.submitted += 1
            return self.submitted - 1

    def add(self, work: _Work) -> None:
        """Puts an image into the place that was reserved. After a stop, it is the threads' last."""
        with self.changed:
            self.reserved -= 1
            self.unfinished += 1
            self.waiting.append(work)
            self.changed.notify_all()
        work.future.add_done_callback(lambda _: self.cancelled(work))

    def cancelled(self, work: _Work) -> None:
        """Frees the place of an image whose future was cancelled; nothing for one that is done."""
        if not work.future.cancelled():
            return
        with self.changed:
            if work not in self.waiting:  # a thread has just taken it, and will notice
                return
            self.waiting.remove(work)
            self.unfinished -= 1
            self.changed.notify_all()
        work.future.set_running_or_notify_cancel()

    def work(self) -> None:
        """The life of a thread."""
        while True:
            with self.changed:
                while not self.waiting:
                    if self.closed and not self.reserved:
                        return
                    self.changed.wait()
                work = self.waiting.popleft()
                self.running += 1
            self._do(work)
            del work  # until the next one comes, nothing of it is kept

    def _do(self, work: _Work) -> None:
        error: BaseException | None = None
        result: Result | None = None
        wanted = work.future.set_running_or_notify_cancel()
        if wanted:
            try:
                with one_image():
                    result = self.inspect(work.source, work.name)
            except BaseException as raised:  # noqa: BLE001  (one image's fault, whatever it is, is its own)
                error = raised
        work.source = None
        with self.changed:  # before the result is there: who waits for it may submit at once
            self.running -= 1
            self.changed.notify_all()
        if wanted and error is not None:
            work.future.set_exception(error)
        elif wanted:
            work.future.set_result(cast(Result, result))
        with self.changed:
            self.unfinished -= 1
            self.changed.notify_all()

    def stop(self, cancel: bool) -> None:
        """Takes no more images; the threads end once nothing waits any more."""
        if self.process != os.getpid():  # a forked child has none of these threads, and the lock may be held
            return
        with self.changed:
            self.closed = True
            left = [work.future for work in self.waiting] if cancel else []
            self.changed.notify_all()
        for future in left:
            future.cancel()

    def join(self, timeout: float | None = None) -> None:
        """Waits for the end of the threads, but for the one that calls: a future's callback may close, too."""
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join(timeout)


_crews: weakref.WeakSet[_Crew] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Ends all threads before Python takes away what they work with."""
    crews = [crew for crew in _crews if crew.process == os.getpid()]
    for crew in crews:
        crew.stop(cancel=True)
    for crew in crews:
        crew.join(_LAST_IMAGES)


def _is_time(value: object) -> bool:
    """Whether a lock can wait for so many seconds."""
    return isinstance(value, (int, float)) and 0 <= value <= threading.TIMEOUT_MAX  # NaN is not


class Inspector:
    """Inspects images in threads of its own; made by `PatchCore.inspector`. Its methods may be called from any thread.

    workers: images that are inspected at the same time; they share the processors. queue: images that may wait, beyond
    those. Use it as a context manager, or call `close`; one that is forgotten, or still there when Python ends, drops
    what waits. A forked child that uses its parent's gets threads of its own.
    """

    def __init__(self, inspect: Inspect, workers: int, queue: int) -> None:
        for name, value, least, most in (("workers", workers, 1, MAX_WORKERS), ("queue", queue, 0, MAX_QUEUE)):
            if type(value) is not int or not least <= value <= most:
                raise ConfigError(f"{name}: expected a whole number from {least} to {most:,}; got {value!r}")
        self.workers, self.queue = workers, queue
        self._inspect = inspect
        self._crew = self._new_crew()

    @property
    def waiting(self) -> int:
        """Returns how many images wait for a thread."""
        return len(self._present().waiting)

    @property
    def running(self) -> int:
        """Returns how many images are being inspected."""
        return self._present().running

    def submit(self, image: ImageSource, *, timeout: float = 0.0) -> Future[Result]:
        """Hands an image over, of any kind that `predict` takes, and returns the future of its result.

        The future raises what `predict` would raise: ImageError for an unusable image. It may be cancelled while the
        image waits, which frees the place. A buffer is copied before this returns, so its owner may write to it again;
        a path is read later. timeout: seconds to wait for a free place. Raises Busy if there is none, ConfigError after
        `close`, and for a timeout that is no time.
        """
        if not _is_time(timeout):
            raise ConfigError(f"timeout: expected 0 to {threading.TIMEOUT_MAX:,.0f} seconds; got {timeout!r}")
        crew = self._present()
        number = crew.reserve(timeout)
        try:
            work = _Work(Future(), name_of(image, number), own(image))
        except BaseException:
            with crew.changed:
                crew.reserved -= 1
                crew.changed.notify_all()
            raise
        crew.add(work)
        return work.future

    def drain(self, timeout: float | None = None) -> bool:
        """Waits until every image that was handed over has its result, its error, or was cancelled. Returns False if
        that takes longer than `timeout` seconds. Raises ConfigError in a future's callback, which would wait for the
        image that it belongs to."""
        crew = self._present()
        if threading.current_thread() in crew.threads:
            raise ConfigError("drain: expected a thread of your own; a future's callback would wait for itself")
        with crew.changed:
            return crew.changed.wait_for(lambda: not (crew.unfinished or crew.reserved), timeout)

    def close(self, *, cancel: bool = False) -> None:
        """Takes no more images, and returns when all have their results. cancel: those that still wait are cancelled;
        those that are being inspected are waited for."""
        crew = self._present()
        crew.stop(cancel)
        crew.join()

    def __enter__(self) -> Inspector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(cancel=kind is not None)

    def _present(self) -> _Crew:
        """The crew of this process: a forked child has none of its parent's threads, and may have been forked while
        they held the lock."""
        if self._crew.process != os.getpid():
            closed = self._crew.closed
            self._crew = self._new_crew()
            self._crew.closed = closed
        return self._crew

    def _new_crew(self) -> _Crew:
        crew = _Crew(self._inspect, self.workers + self.queue)
        crew.threads = [
            threading.Thread(target=crew.work, name=f"patchbank-inspector-{number}", daemon=True)
            for number in range(self.workers)
        ]
        for thread in crew.threads:
            thread.start()
        weakref.finalize(self, crew.stop, cancel=True).atexit = False
        _crews.add(crew)
        return crew
