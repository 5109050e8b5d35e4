"""Asks a camera for pictures in a thread of its own, so that a driver that hangs holds up nothing else.

A camera that fails is closed, and opened again at the next request; if that fails, at most once a second. One that does
not come back from a call for `HANGS` seconds is left behind with its thread, and a new one is made.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from patchbank import CameraError
from patchbank.line.cameras.base import Camera, Frame

logger = logging.getLogger("patchbank.line")
HANGS = 5.0  # seconds
_REOPEN = 1.0
_SLACK = 0.05
_MOST_LEFT_BEHIND = 10


@dataclass(eq=False)
class _Request:
    """What the thread should do with the camera."""

    call: Callable[[Camera], Any]
    answer: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)


class _Thread:
    """A camera and the thread that calls it."""

    def __init__(self, name: str, camera: Camera) -> None:
        self.camera, self.opened = camera, ""
        self.requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self.busy_since: float | None = None
        self.failed_at = -_REOPEN  # when it could not be opened
        self.thread = threading.Thread(target=self._run, name=f"patchbank-camera-{name}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while request := self.requests.get():
            try:
                if not self.opened:
                    self.failed_at = time.monotonic()
                    self.opened = self.camera.open() or "camera"
                    self.failed_at = -_REOPEN
                answer: Any = request.call(self.camera)
            except Exception as error:  # noqa: BLE001  (drivers raise anything)
                answer = error
                self._close()
            self.busy_since = None
            request.answer.put(answer)
        self._close()

    def _close(self) -> None:
        self.opened = ""
        with suppress(Exception):
            self.camera.close()


class Grabber:
    """Hands out frames. Its methods are called by one thread, but `done` by any."""

    def __init__(self, name: str, make: Callable[[], Camera]) -> None:
        """make: a new camera, not yet open."""
        self._name, self._make = name, make
        self._camera = make()
        self.self_paced: bool = self._camera.self_paced
        self._thread = _Thread(name, self._camera)
        self._left_behind = 0
        self.failure = ""  # why there is no camera now

    @property
    def camera(self) -> Camera:
        """The present camera."""
        return self._camera

    @property
    def opened(self) -> str:
        """What the open camera found; empty while it is not open."""
        return self._thread.opened

    def open(self, timeout: float) -> str:
        """Opens the camera, unless it is open. Returns what it found. Raises CameraError."""
        if not self._thread.opened:
            self._ask(lambda _: None, timeout)
        return self._thread.opened

    def grab(self, timeout: float) -> Frame | None:
        """As `Camera.grab`. Raises CameraError: it failed, it hangs, or it failed a moment ago."""
        return self._ask(lambda camera: camera.grab(timeout), timeout)

    def done(self, frame: Frame, usable: bool) -> None:
        """As `Camera.done`."""
        with suppress(Exception):
            self._camera.done(frame, usable)

    def close(self, timeout: float = 5.0) -> None:
        """Closes the camera; one that hangs is left behind."""
        self._thread.requests.put(None)
        self._thread.thread.join(timeout)

    def _ask(self, call: Callable[[Camera], Any], timeout: float) -> Any:
        request = self._requested(call)
        patience = HANGS if self.self_paced else _SLACK  # who waits for a trigger's picture has a deadline
        try:
            answer = request.answer.get(timeout=timeout + patience)
        except queue.Empty:
            raise CameraError("the camera does not answer") from None
        if isinstance(answer, Exception):
            self.failure = f"the camera fails: {answer}"
            raise CameraError(self.failure) from answer
        self.failure = ""
        return answer

    def _requested(self, call: Callable[[Camera], Any]) -> _Request:
        self._replace_if_hanging()
        if not self._thread.opened and time.monotonic() - self._thread.failed_at < _REOPEN:
            raise CameraError(self.failure or "the camera is not open")
        request = _Request(call)
        self._thread.busy_since = time.monotonic()
        self._thread.requests.put(request)
        return request

    def _replace_if_hanging(self) -> None:
        """Makes a new camera if the present one has hung for HANGS seconds. Raises CameraError if it hangs, but not for
        so long yet."""
        since = self._thread.busy_since
        if since is None:
            return
        self.failure = f"the camera has not answered for {time.monotonic() - since:.1f} s"
        if time.monotonic() - since < HANGS:
            raise CameraError(self.failure)
        if self._left_behind >= _MOST_LEFT_BEHIND:
            raise CameraError(f"{self.failure}, after {_MOST_LEFT_BEHIND} others; start the line again")
        logger.error("camera %s hangs: it is left behind, and opened anew", self._name)
        self._left_behind += 1
        self._thread.requests.put(None)  # should it ever come back
        self._camera = self._make()
        self._thread = _Thread(self._name, self._camera)
