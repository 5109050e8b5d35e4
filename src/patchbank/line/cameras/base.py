"""What a camera is: something that is opened, gives numbered pictures with their times, and is closed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from patchbank import CameraError as CameraError


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture, which nobody changes any more: copied out of the driver's buffer.

    number: counts up with each picture; gaps are lost ones. at: when it was taken, UTC. taken: the same as
    `time.monotonic()`. image: (H, W) or (H, W, 3) RGB, uint8 or uint16; None if `content` holds it. content: an image
    file's bytes. white: the value of full brightness in `image`, as 4095 for 12 bits; None = the type's own. complete:
    False if the driver says that a part is missing. source: what records call it: a file's name, a device. key: tells a
    file from another one of its name. part_id: the part's name, if the camera knows one.
    """

    number: int
    at: datetime
    taken: float
    image: Any = field(default=None, repr=False)
    content: bytes | None = field(default=None, repr=False)
    white: int | None = None
    complete: bool = True
    source: str = ""
    key: str | None = None
    part_id: str = ""


class Camera(Protocol):
    """A source of pictures. All methods but `done` are called by one thread. Whatever a method raises is answered with
    ERROR; the camera is then closed, and opened again.

    self_paced: True if pictures come by themselves and each is a part (files, a hardware trigger); False if a trigger
    asks for one.
    """

    self_paced: bool

    def open(self) -> str:
        """Connects. Returns what was found, in words, for people. Raises CameraError, also if no camera is there."""
        ...

    def grab(self, timeout: float) -> Frame | None:
        """The next picture. With `self_paced`: the next one that has come. Else: one that is taken now, after the call.
        None if there is none within so many seconds. Raises CameraError."""
        ...

    def done(self, frame: Frame, usable: bool) -> None:
        """The record of a part is on the disk: what belongs to the picture (a file) may go. usable: False if it could
        not be inspected. Called from any thread; returns at once."""
        ...

    def close(self) -> None:
        """Ends; may be called twice, and on a camera that is not open."""
        ...
