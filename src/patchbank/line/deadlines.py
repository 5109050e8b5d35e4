"""One thread that calls back when a time has come: no part waits for an answer longer than its deadline."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger("patchbank.line")
_TICK = 0.2


class Deadlines:
    """Calls what was scheduled. `close` it."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._ticked = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="patchbank-deadlines", daemon=True)
        self._thread.start()

    def schedule(self, when: float, call: Callable[[], None]) -> None:
        """Calls it at this time, as `time.monotonic()` counts, or at once if that is over. It must return quickly."""
        with self._changed:
            heapq.heappush(self._due, (when, next(self._numbers), call))
            if self._due[0][2] is call:
                self._changed.notify()

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive() and time.monotonic() - self._ticked < 5 * _TICK

    def close(self) -> None:
        """Ends; what is due later is not called."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._ticked = now = time.monotonic()
                if self._closed:
                    return
                if not self._due or self._due[0][0] > now:
                    self._changed.wait(min(_TICK, self._due[0][0] - now) if self._due else _TICK)
                    continue
                call = heapq.heappop(self._due)[2]
            try:
                call()
            except Exception:
                logger.exception("a deadline's call failed")
