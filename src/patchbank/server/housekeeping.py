"""What the service does by itself: images whose time is over go, files that nobody names go, room is made on a disk
that gets full. In a thread, one thing at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from patchbank.errors import PatchbankError
from patchbank.server.logs import event, logger
from patchbank.store import retention
from patchbank.store.blobs import free_bytes
from patchbank.store.engine import Store
from patchbank.store.retention import Removed

_INFO = 20
LOOK_S, RUN_S, SWEEP_S = 60.0, 3600.0, 86_400.0
IN_VAIN_S = 600.0  # between two rounds on a full disk where nothing may go


class Housekeeping:
    """Rounds of retention every hour and when the disk gets short, a sweep at the start and every day. clock: seconds,
    another one for tests."""

    def __init__(self, store: Store, *, look: float = LOOK_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._look, self._clock = store, look, clock
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._next_run = self._next_sweep = clock()
        self._next_for_room = clock()

    def start(self) -> None:
        """Begins. To be called in the loop."""
        self._task = asyncio.create_task(self._rounds())

    async def stop(self) -> None:
        """Ends, after the images that are just being removed."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    async def _rounds(self) -> None:
        while not self._stopping.is_set():
            try:
                await asyncio.to_thread(self.look)
            except PatchbankError as error:
                logger.warning("housekeeping has to wait: %s", error)
            except Exception:  # noqa: BLE001  (the next round may go well)
                logger.exception("housekeeping failed")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._look)

    def look(self) -> None:
        """Does what it is time for."""
        now = self._clock()
        if now >= self._next_sweep:
            done = retention.sweep(self._store, stop=self._stopping.is_set)
            self._next_sweep = now if done.postponed else now + SWEEP_S
            _tell("files that nobody names were removed", done, orphans=done.orphans)
        is_short = free_bytes(self._store.folder.path) < self._store.read(retention.policy).min_free
        if now >= self._next_run or (is_short and now >= self._next_for_room):
            done = retention.run(self._store, stop=self._stopping.is_set)
            self._next_run = now if done.postponed else now + RUN_S
            self._next_for_room = now + (0 if done.images or done.postponed else IN_VAIN_S)
            _tell("images were removed", done, images=done.images, for_space=done.for_space)


def _tell(what: str, done: Removed, **facts: int) -> None:
    if done.images or done.files:
        about: dict[str, Any] = {"files": done.files, "megabytes": round(done.size / 1e6, 1), **facts}
        event(_INFO, what, **about)
