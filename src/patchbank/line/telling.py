"""Tells the sinks the states of the stations, when they change, twice a second at most."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from patchbank.line.views import LineView

logger = logging.getLogger("patchbank.line")
_EACH = 0.5  # seconds


class Telling:
    """A thread that looks at the line. `close` it."""

    def __init__(
        self, look: Callable[[], LineView], tell: Callable[[str, Mapping[str, Any]], None], site: str, line: str
    ) -> None:
        """look: the line now. tell: gets a station's name and state."""
        self._look, self._tell, self._where = look, tell, {"site": site, "line": line}
        self._told: dict[str, Mapping[str, Any]] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="patchbank-telling", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tells the last state, and ends."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(_EACH):
            self._once()
        self._once()

    def _once(self) -> None:
        try:
            view = self._look()
            for station in view.stations:
                others = tuple(f"{each.name}: " for each in view.stations if each is not station)
                alarms = {what: why for what, why in view.alarms.items() if not what.startswith(others)}
                state = {**self._where, **station.to_dict(), "alarms": alarms}
                if self._told.get(station.name) != state:
                    self._told[station.name] = state
                    self._tell(station.name, state)
        except Exception:
            logger.exception("states cannot be told")
