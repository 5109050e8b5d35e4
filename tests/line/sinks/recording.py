"""A sink in memory that fails when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from patchbank.line.images import Images
from patchbank.line.record import Record
from patchbank.line.sinks.base import Outcome


class Recording:
    """Implements `Sink`. got: the ids, as they came. before: called with the records first; it may raise."""

    batch = 10

    def __init__(self, name: str) -> None:
        self.name = name
        self.got: list[str] = []
        self.refuse: Mapping[str, str] = {}
        self.before: Any = lambda records: None
        self.states: list[tuple[str, Mapping[str, Any]]] = []
        self.closed = threading.Event()

    def check(self) -> str:
        return "is there"

    def deliver(self, records: Sequence[Record], images: Images) -> Outcome:
        self.before(records)
        taken = [record.id for record in records if record.id not in self.refuse]
        self.got += taken
        return Outcome(taken, {record.id: self.refuse[record.id] for record in records if record.id in self.refuse})

    def state(self, station: str, state: Mapping[str, Any]) -> None:
        self.states.append((station, state))

    def close(self) -> None:
        self.closed.set()
