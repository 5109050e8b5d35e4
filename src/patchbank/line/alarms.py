"""What is wrong with a line now."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

logger = logging.getLogger("patchbank.line")


class Alarms:
    """What is wrong now, by what it is about. Told from any thread; each change is logged once."""

    def __init__(self) -> None:
        self._now: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, what: str, why: str | None) -> None:
        """Says that something is wrong, or (None) that it is well again."""
        with self._lock:
            before = self._now.get(what)
            if why is None:
                self._now.pop(what, None)
            else:
                self._now[what] = why
        if why is not None and before is None:
            logger.warning("alarm: %s: %s", what, why)
        elif why is None and before is not None:
            logger.warning("alarm is over: %s", what)

    @property
    def now(self) -> Mapping[str, str]:
        """A copy of what is wrong now."""
        with self._lock:
            return dict(self._now)
