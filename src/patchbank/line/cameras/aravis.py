"""GigE Vision and USB3 Vision cameras, through Aravis.

With `software`, the camera takes a picture when the station has a trigger. With `hardware`, its own input triggers it,
and each picture is a part, or belongs to the PLC's trigger. With `free`, it runs by itself, and a trigger gets the
first picture whose exposure began after it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime

import numpy as np

from patchbank import CameraError
from patchbank.line.cameras.aravis_library import Aravis, aravis
from patchbank.line.cameras.base import Frame
from patchbank.line.cameras.pixel_formats import image_of

_BUFFERS = 8
_CONTINUOUS = 0
_SLICE = 0.1  # seconds


class AravisCamera:
    """Implements `Camera`. The options are those of `AravisOptions`."""

    def __init__(
        self,
        device: str = "",
        trigger: str = "software",
        trigger_source: str = "Line1",
        exposure_us: float | None = None,
        gain: float | None = None,
        frame_rate: float | None = None,
        pixel_format: str = "",
    ) -> None:
        self.self_paced = trigger == "hardware"
        self._device, self._trigger, self._source = device, trigger, trigger_source
        self._exposure, self._gain, self._rate, self._format = exposure_us, gain, frame_rate, pixel_format
        self._library: Aravis | None = None
        self._camera: int | None = None
        self._stream: int | None = None
        self._number, self._name = 0, device or "aravis"
        self._gone = False  # the last call of the camera failed

    def open(self) -> str:
        """Connects, sets what is configured, and starts the camera."""
        library = self._library = aravis()
        self._camera = library.call("arv_camera_new", self._device.encode() or None)
        if not self._camera:
            raise CameraError(f"there is no camera {self._device or 'at all'}")
        vendor = library.call("arv_camera_get_vendor_name", self._camera) or b""
        model = library.call("arv_camera_get_model_name", self._camera) or b""
        self._set()
        self._stream = library.call("arv_camera_create_stream", self._camera, None, None)
        if not self._stream:
            raise CameraError("the camera gives no stream: another program may use it")
        size = library.call("arv_camera_get_payload", self._camera)
        for _ in range(_BUFFERS):
            library.sure("arv_stream_push_buffer", self._stream, library.sure("arv_buffer_new_allocate", size))
        library.call("arv_camera_start_acquisition", self._camera)
        return f"{vendor.decode(errors='replace')} {model.decode(errors='replace')}, {self._trigger} trigger"

    def grab(self, timeout: float) -> Frame | None:
        """The next picture. Raises CameraError if none comes after a trigger."""
        assert self._library is not None
        end, asked = time.monotonic() + timeout, time.monotonic()
        if not self.self_paced:
            self._drain()
        self._gone = True
        if self._trigger == "software":
            self._library.call("arv_camera_software_trigger", self._camera)
        while (left := end - time.monotonic()) > 0:
            wait = int(1e6 * min(left, _SLICE))
            buffer = self._library.sure("arv_stream_timeout_pop_buffer", self._stream, wait)
            if not buffer:
                continue
            try:
                frame = self._frame(buffer, asked)
            finally:
                self._library.sure("arv_stream_push_buffer", self._stream, buffer)
            if self.self_paced or frame.taken >= asked:
                self._gone = False
                return frame
        if self.self_paced:
            self._gone = False
            return None
        raise CameraError(f"no picture came within {timeout:.1f} s")

    def done(self, frame: Frame, usable: bool) -> None:
        """Nothing is to be done."""

    def close(self) -> None:
        """Stops the camera, and lets go of it."""
        if self._library is None:
            return
        if self._camera and self._stream and not self._gone:  # a camera that is gone is asked for 5 s
            with suppress(CameraError):
                self._library.call("arv_camera_stop_acquisition", self._camera)
        stream, camera = self._stream, self._camera
        self._stream = self._camera = None
        self._library.unref(stream)
        self._library.unref(camera)

    def _set(self) -> None:
        assert self._library is not None
        call = self._library.call
        if self._format:
            call("arv_camera_set_pixel_format_from_string", self._camera, self._format.encode())
        if self._exposure is not None:
            call("arv_camera_set_exposure_time", self._camera, self._exposure)
        if self._gain is not None:
            call("arv_camera_set_gain", self._camera, self._gain)
        call("arv_camera_set_acquisition_mode", self._camera, _CONTINUOUS)
        if self._trigger == "free":
            call("arv_camera_clear_triggers", self._camera)
            if self._rate is not None:
                call("arv_camera_set_frame_rate", self._camera, self._rate)
        else:
            source = "Software" if self._trigger == "software" else self._source
            call("arv_camera_set_trigger", self._camera, source.encode())

    def _drain(self) -> None:
        """Pictures of before are of no use."""
        assert self._library is not None
        while buffer := self._library.sure("arv_stream_try_pop_buffer", self._stream):
            self._library.sure("arv_stream_push_buffer", self._stream, buffer)

    def _frame(self, buffer: int, asked: float) -> Frame:
        """A buffer as a frame, copied. One that is not whole is a frame that says so."""
        assert self._library is not None
        sure = self._library.sure
        complete = sure("arv_buffer_get_status", buffer) == 0
        image, white = np.zeros((1, 1), np.uint8), None
        if complete:
            code = sure("arv_buffer_get_image_pixel_format", buffer)
            size = sure("arv_buffer_get_image_width", buffer), sure("arv_buffer_get_image_height", buffer)
            image, white = image_of(self._library.copied(buffer), code, *size)
        now = taken = time.monotonic()
        if self._trigger == "software":
            taken = asked
        elif stamp := sure("arv_buffer_get_system_timestamp", buffer):
            taken = now - max(0.0, time.time() - stamp / 1e9) - (self._exposure or 0.0) / 1e6
        self._number += 1
        at = datetime.fromtimestamp(time.time() - (now - taken), UTC)
        return Frame(self._number, at, taken, image, white=white, complete=complete, source=self._name)
