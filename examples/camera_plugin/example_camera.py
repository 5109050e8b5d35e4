"""A camera of your own for `patchbank run`: copy this file, and replace the class `_Sdk` by your vendor's library.

pip install .      and then, in line.toml:

[station.cap.camera]
kind = "example"
serial = "A1"
"""

import time
from datetime import UTC, datetime

import numpy as np

from patchbank import CameraError, ConfigError
from patchbank.line.cameras.base import Frame


class _Sdk:
    """Stands for a vendor's library: it fills the same buffer again and again."""

    def __init__(self, serial):
        self.serial, self._buffer = serial, np.empty((480, 640), np.uint8)

    def trigger_and_wait(self, seconds):  # noqa: ARG002
        """Returns the driver's own buffer, or None if no picture came in time."""
        self._buffer[:] = np.random.default_rng().integers(0, 256, self._buffer.shape)
        return self._buffer


class ExampleCamera:
    """Gets its table of line.toml, without `kind`."""

    self_paced = False  # True: pictures come by themselves (a hardware trigger), and each is a part

    def __init__(self, options):
        self._serial = options.pop("serial", None)
        if options or not self._serial:
            raise ConfigError(f"camera: expected one key, serial; got {sorted(options)}")
        self._sdk, self._number = None, 0

    def open(self):
        self._sdk = _Sdk(self._serial)
        return f"example camera {self._serial}"

    def grab(self, timeout):
        asked = time.monotonic()
        buffer = self._sdk.trigger_and_wait(timeout)
        if buffer is None:
            raise CameraError(f"no picture came within {timeout:.1f} s")
        self._number += 1
        # Copied: the driver will fill its buffer again. 12 bits in uint16? Then say white=4095.
        return Frame(self._number, datetime.now(UTC), asked, buffer.copy(), source=self._serial)

    def done(self, frame, usable):
        pass

    def close(self):
        self._sdk = None
