"""How old is a frame that a stream hands out now?

A stream says of each frame when it belongs into the stream, not how late it comes. But the frame that came with the
least delay of the last ones was live; so a frame is old by how much more delay it has than that one. After a stream has
stood still, its buffered frames come in a burst, and are told apart by that.
"""

from __future__ import annotations

from collections import deque

_FRAMES = 500  # that are remembered: clocks of cameras drift


class Lag:
    """Of one stream."""

    def __init__(self) -> None:
        self._delays: deque[float] = deque(maxlen=_FRAMES)

    def of(self, now: float, position: float) -> float:
        """Seconds that a frame is old. now: when it was handed out. position: its place in the
        stream, in seconds; less than 0 = not known, and then it counts as new."""
        if position < 0:
            return 0.0
        delay = now - position
        self._delays.append(delay)
        return delay - min(self._delays)
