"""Cameras and streams that OpenCV reads: USB, RTSP, video files.

A thread reads all the time, so that no buffer fills with old frames; a trigger gets the first frame that was taken
after it. With `every_frame` (video files) nothing is dropped: each frame is a part.
"""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from patchbank import CameraError
from patchbank.line.cameras.base import Frame
from patchbank.line.cameras.lag import Lag

_SILENCE = 3.0  # seconds without a frame: the camera is gone
_OPEN_MS, _READ_MS = 5000, 3000
_TCP = "rtsp_transport;tcp"  # by UDP, lost packets become grey smears


class OpenCvCamera:
    """Implements `Camera`. The options are those of `OpenCvOptions`."""

    def __init__(
        self,
        device: str,
        every_frame: bool = False,
        width: int | None = None,
        height: int | None = None,
        frame_rate: float | None = None,
        username_file: str = "",
    ) -> None:
        self.self_paced = every_frame
        self._device, self._every_frame, self._username_file = device, every_frame, username_file
        self._wanted = width, height, frame_rate
        self._capture: Any = None
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._number, self._ended, self._why = 0, False, ""
        self._last_at = 0.0
        self._lag = Lag()
        self._thread: threading.Thread | None = None

    def open(self) -> str:
        """Opens the device, and begins to read."""
        import cv2

        self._capture = _opened(self._device, self._username_file)
        width, height, rate = self._wanted
        for name, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, width),
            (cv2.CAP_PROP_FRAME_HEIGHT, height),
            (cv2.CAP_PROP_FPS, rate),
        ):
            if value is not None and not self._capture.set(name, float(value)):
                raise CameraError(f"{self._device}: the camera does not take width, height or frame_rate")
        self._ended, self._why, self._newest, self._lag = False, "", None, Lag()
        self._last_at = time.monotonic()
        size = tuple(int(self._capture.get(each)) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if not self._every_frame:
            self._thread = threading.Thread(target=self._drain, name="patchbank-opencv", daemon=True)
            self._thread.start()
        return f"{self._device}, {size[0]}x{size[1]}, by {self._capture.getBackendName()}"

    @property
    def is_empty(self) -> bool:
        """Whether a video file has ended."""
        return self._ended

    def grab(self, timeout: float) -> Frame | None:
        """The next frame of a file; else the first one that was taken from now on. Raises CameraError if the camera has
        given none for some seconds."""
        if self._every_frame:
            if self._ended:
                time.sleep(timeout)
                return None
            frame = self._read()
            self._ended = frame is None
            return frame
        asked, end = time.monotonic(), time.monotonic() + timeout
        with self._changed:
            while self._newest is None or self._newest.taken < asked:
                if self._why or time.monotonic() - self._last_at > _SILENCE:
                    raise CameraError(self._why or f"no frame has come for {_SILENCE:g} s")
                if (left := end - time.monotonic()) <= 0:
                    return None
                self._changed.wait(min(left, 0.5))
            return self._newest

    def done(self, frame: Frame, usable: bool) -> None:
        """Nothing is to be done."""

    def close(self) -> None:
        """Stops reading, and lets go of the device."""
        with self._changed:
            self._ended = True
        if self._thread is not None:
            self._thread.join(_READ_MS / 1000 + 1.0)
            if self._thread.is_alive():
                self._capture = None  # its thread holds it; it is let go of when that comes back
        if self._capture is not None:
            self._capture.release()
        self._capture = self._thread = None

    def _drain(self) -> None:
        while not self._ended:
            try:
                frame = self._read()
                why = "" if frame else "the camera gives no more frames"
            except Exception as error:  # noqa: BLE001  (a driver raises anything)
                frame, why = None, f"{type(error).__name__}: {error}"
            with self._changed:
                if frame:
                    self._newest, self._last_at = frame, time.monotonic()
                self._why = why
                self._changed.notify_all()
            if why:
                return

    def _read(self) -> Frame | None:
        """Reads the next frame; None at the end."""
        import cv2

        capture = self._capture
        done, picture = capture.read()
        now = time.monotonic()
        if not done or picture is None:
            return None
        age = 0.0 if self._every_frame else self._lag.of(now, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 or -1.0)
        self._number += 1
        image = picture[:, :, ::-1].copy() if picture.ndim == 3 else picture.copy()
        at = datetime.fromtimestamp(time.time() - age, UTC)
        return Frame(self._number, at, now - age, image, source=self._device)


def _opened(device: str, username_file: str) -> Any:
    """A capture of a number, a file or an address. Raises CameraError."""
    import cv2

    if device.isdecimal():
        capture = cv2.VideoCapture(int(device))
    elif urlsplit(device).scheme in ("rtsp", "rtsps"):
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", _TCP)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]
        capture = cv2.VideoCapture(_with_login(device, username_file), cv2.CAP_FFMPEG, limits)
    else:
        capture = cv2.VideoCapture(device)
    if not capture.isOpened():
        capture.release()
        raise CameraError(f"{device}: expected a camera's number, a video file or an address; cannot open it")
    return capture


def _with_login(address: str, username_file: str) -> str:
    """The address with the name and the password of a file of two lines. Raises CameraError."""
    if not username_file:
        return address
    try:
        name, password = Path(username_file).read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise CameraError(f"username_file: expected two lines, name and password, in {username_file}") from error
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{quote(name, safe='')}:{quote(password, safe='')}@{rest}"
