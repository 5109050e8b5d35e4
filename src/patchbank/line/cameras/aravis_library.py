"""The functions of Aravis 0.8 that a camera needs, called through ctypes: no package to install, and none to compile.

Every function that may fail takes a place for its error at the end; `Aravis.call` raises it as CameraError."""

from __future__ import annotations

import ctypes
import ctypes.util
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Any

from patchbank import CameraError, MissingExtraError


class _GError(ctypes.Structure):
    _fields_ = (("domain", c_uint32), ("code", c_int), ("message", c_char_p))


_FAILING: dict[str, tuple[Any, ...]] = {  # the result's type, then the arguments', without the error's
    "arv_camera_new": (c_void_p, c_char_p),
    "arv_camera_create_stream": (c_void_p, c_void_p, c_void_p, c_void_p),
    "arv_camera_get_payload": (c_uint, c_void_p),
    "arv_camera_get_vendor_name": (c_char_p, c_void_p),
    "arv_camera_get_model_name": (c_char_p, c_void_p),
    "arv_camera_get_exposure_time": (c_double, c_void_p),
    "arv_camera_set_exposure_time": (None, c_void_p, c_double),
    "arv_camera_set_gain": (None, c_void_p, c_double),
    "arv_camera_set_frame_rate": (None, c_void_p, c_double),
    "arv_camera_set_pixel_format_from_string": (None, c_void_p, c_char_p),
    "arv_camera_set_trigger": (None, c_void_p, c_char_p),
    "arv_camera_clear_triggers": (None, c_void_p),
    "arv_camera_set_acquisition_mode": (None, c_void_p, c_int),
    "arv_camera_software_trigger": (None, c_void_p),
    "arv_camera_start_acquisition": (None, c_void_p),
    "arv_camera_stop_acquisition": (None, c_void_p),
}
_SURE: dict[str, tuple[Any, ...]] = {
    "arv_buffer_new_allocate": (c_void_p, c_size_t),
    "arv_stream_push_buffer": (None, c_void_p, c_void_p),
    "arv_stream_timeout_pop_buffer": (c_void_p, c_void_p, c_uint64),
    "arv_stream_try_pop_buffer": (c_void_p, c_void_p),
    "arv_buffer_get_status": (c_int, c_void_p),
    "arv_buffer_get_data": (c_void_p, c_void_p, POINTER(c_size_t)),
    "arv_buffer_get_image_pixel_format": (c_uint32, c_void_p),
    "arv_buffer_get_image_width": (c_int, c_void_p),
    "arv_buffer_get_image_height": (c_int, c_void_p),
    "arv_buffer_get_system_timestamp": (c_uint64, c_void_p),
}


class Aravis:
    """The library. Raises MissingExtraError where it is not installed."""

    def __init__(self) -> None:
        """Loads the library."""
        try:
            self._library = ctypes.CDLL(ctypes.util.find_library("aravis-0.8") or "libaravis-0.8.so.0")
            self._objects = ctypes.CDLL(ctypes.util.find_library("gobject-2.0") or "libgobject-2.0.so.0")
            self._glib = ctypes.CDLL(ctypes.util.find_library("glib-2.0") or "libglib-2.0.so.0")
        except OSError as error:
            raise MissingExtraError(
                "GigE Vision and USB3 Vision cameras need Aravis 0.8, which is not installed; on Debian: "
                "apt install libaravis-0.8-0"
            ) from error
        for name, (result, *arguments) in _FAILING.items():
            self._typed(name, result, [*arguments, POINTER(POINTER(_GError))])
        for name, (result, *arguments) in _SURE.items():
            self._typed(name, result, arguments)
        self._objects.g_object_unref.argtypes = [c_void_p]
        self._glib.g_error_free.argtypes = [c_void_p]

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a function that may fail. Raises CameraError with its message."""
        error = POINTER(_GError)()
        result = getattr(self._library, name)(*arguments, byref(error))
        if error:
            text = (error.contents.message or b"").decode(errors="replace")
            self._glib.g_error_free(ctypes.cast(error, c_void_p))
            raise CameraError(f"{name.removeprefix('arv_camera_').replace('_', ' ')}: {text}")
        return result

    def sure(self, name: str, *arguments: Any) -> Any:
        """Calls a function that has no error."""
        return getattr(self._library, name)(*arguments)

    def copied(self, buffer: int) -> bytes:
        """The content of a buffer, copied."""
        size = c_size_t()
        data = self._library.arv_buffer_get_data(buffer, byref(size))
        return ctypes.string_at(data, size.value) if data else b""

    def unref(self, thing: int | None) -> None:
        """Lets go of an object."""
        if thing:
            self._objects.g_object_unref(thing)

    def _typed(self, name: str, result: Any, arguments: list[Any]) -> None:
        function = getattr(self._library, name)
        function.restype, function.argtypes = result, arguments


@cache
def aravis() -> Aravis:
    """The library, loaded once."""
    return Aravis()
