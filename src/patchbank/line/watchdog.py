"""Counts the heartbeats that PLCs see: only while what answers them lives."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from patchbank.line.plc.protocol import Plc

logger = logging.getLogger("patchbank.line")
BEAT = 0.1  # seconds


class Watchdog:
    """Beats for each PLC whose station is alive. `close` it."""

    def __init__(self, watched: Sequence[tuple[Callable[[], bool], Plc]]) -> None:
        """watched: says whether a station can answer, and its PLC."""
        self._watched = watched
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="patchbank-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Beats no more."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ending.wait(max(0.0, due - time.monotonic())):
            due = max(due + BEAT, time.monotonic())
            for alive, plc in self._watched:
                try:
                    if alive():
                        plc.beat()
                except Exception:
                    logger.exception("a heartbeat failed")
