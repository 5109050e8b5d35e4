"""Which files were renamed into a folder: Linux tells (inotify). A file that was renamed in is whole."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from contextlib import suppress
from pathlib import Path

_MOVED_TO, _CLOSE_WRITE = 0x80, 0x08
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name
_FLAGS = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_MOST = 100_000  # names that are remembered


class Moves:
    """Watches one folder. Elsewhere than on Linux it knows of nothing, and `wait` sleeps."""

    def __init__(self, folder: Path) -> None:
        self._descriptor, self._names = -1, set[str]()
        with suppress(AttributeError, OSError):
            system = ctypes.CDLL(None, use_errno=True)
            self._descriptor = system.inotify_init1(_FLAGS)
            if system.inotify_add_watch(self._descriptor, os.fsencode(folder), _MOVED_TO | _CLOSE_WRITE) < 0:
                self.close()

    def take(self) -> set[str]:
        """Names that came since the last call."""
        self._read()
        names, self._names = self._names, set()
        return names

    def wait(self, seconds: float) -> None:
        """Returns when something has come, or after so many seconds."""
        if self._descriptor < 0:
            time.sleep(seconds)
        else:
            select.select([self._descriptor], [], [], seconds)

    def close(self) -> None:
        """Ends; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _read(self) -> None:
        while self._descriptor >= 0:
            try:
                data = os.read(self._descriptor, 65536)
            except OSError:  # nothing more
                return
            place = 0
            while place < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, place)
                place += _EVENT.size
                name = os.fsdecode(data[place : place + length].rstrip(b"\0"))
                place += length
                if mask & _MOVED_TO and len(self._names) < _MOST:
                    self._names.add(name)
