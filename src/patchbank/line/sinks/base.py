"""What a sink is: it gets records until it has confirmed them, by whatever it counts as its acknowledgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from patchbank import PatchbankError
from patchbank.line.images import Images
from patchbank.line.record import Record


class Unreachable(PatchbankError):  # noqa: N818  (what a sink says; the record is kept and tried again)
    """The sink takes nothing at the moment: it is down, slow, full, or refuses this client. The same records are
    brought again later, for as long as it takes. retry_after: seconds that it wants to be left alone for."""

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Outcome:
    """What became of a batch. delivered: ids that the sink has confirmed. refused: ids that it will never take, each
    with the reason; they are set aside. Ids in neither come again."""

    delivered: Sequence[str] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


class Sink(Protocol):
    """Called by one relay thread only, but for `check`, `state` and `close`. Every wait inside it has a limit. A record
    may come twice, with the same id, when a program was killed between its delivery and the note of it."""

    name: str  # of the sink in the line's configuration and its outbox
    batch: int  # records at most in one call of `deliver`

    def check(self) -> str:
        """Tries the sink and says in one line what it found. Raises PatchbankError."""
        ...

    def deliver(self, records: Sequence[Record], images: Images) -> Outcome:
        """Hands the records over, oldest first. Raises Unreachable if none of them could be."""
        ...

    def state(self, station: str, state: Mapping[str, Any]) -> None:
        """A station's state has changed: the newest is worth telling, older ones are not. Returns at once, and raises
        nothing. Most sinks do nothing with it."""
        ...

    def close(self) -> None:
        """Lets go of connections and files. May be called twice, and from another thread, to end a wait."""
        ...
