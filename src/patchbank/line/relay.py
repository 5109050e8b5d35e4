"""Brings records from the journal to the sinks: one thread for each, so that one that is down or slow holds up nobody.

A row leaves the outbox only when its sink has confirmed the record. What could not be delivered is tried again, after
0.5 s at first, then twice as long each time up to 30 s, a random part shorter. Nothing is dropped, and nothing here
slows a verdict down: the journal takes records whether a sink takes them or not.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from patchbank import OutputError, PatchbankError
from patchbank.line.journal import Alarm, Journal
from patchbank.line.journal_reader import Owed
from patchbank.line.sinks.base import Outcome, Sink, Unreachable

logger = logging.getLogger("patchbank.line")
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds
_LOOK = 5.0  # seconds after which the outbox is looked at without being woken
_LONGEST_ASKED = 300.0  # seconds that a sink may ask to be left alone for
_MOST_FAILURES = 5  # of one record whose delivery fails by an error that nobody foresaw; then it is set aside


@dataclass(frozen=True)
class RelayState:
    """Of one sink. pending: records that it is owed. refused: those that it will never take, set aside. delivered:
    since the start. error: why nothing goes, since when (UTC); None and None while all is well."""

    name: str
    pending: int
    refused: int
    delivered: int
    error: str | None
    since: datetime | None


class Relay:
    """One sink's thread. alarm: told under the sink's name what is wrong, and when it is over."""

    def __init__(
        self,
        sink: Sink,
        journal: Journal,
        alarm: Alarm,
        *,
        first_wait: float = FIRST_WAIT,
        longest_wait: float = LONGEST_WAIT,
    ) -> None:
        """first_wait, longest_wait: seconds between two tries."""
        self.sink = sink
        self._journal, self._alarm = journal, alarm
        self._first_wait, self._longest_wait = first_wait, longest_wait
        self._failures = 0  # in a row
        self._delivered = 0
        self._began = False
        self._trouble: tuple[str, datetime] | None = None
        self._confirmed: list[str] = []  # delivered, and not yet noted in the journal
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"patchbank-sink-{sink.name}", daemon=True)

    def start(self) -> None:
        """Begins to deliver."""
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Ends after the batch that is under way; what is left stays in the outbox for the next start."""
        self._ending.set()
        with self._journal.wake:
            self._journal.wake.notify_all()
        self.sink.close()
        if self._thread.ident:
            self._thread.join(timeout)

    @property
    def delivered(self) -> int:
        """Records that the sink has confirmed, since the start."""
        return self._delivered

    @property
    def trouble(self) -> tuple[str, datetime] | None:
        """Why nothing goes, and since when; None while all is well."""
        return self._trouble

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._step()
            except PatchbankError as error:
                self._failed(str(error), getattr(error, "retry_after", 0.0))
            except Exception as error:  # the thread of a sink never ends by itself
                logger.exception("sink %s", self.sink.name)
                self._failed(f"{type(error).__name__}: {error}")

    def _step(self) -> None:
        """Delivers one batch, or waits for one. What was set aside before this start is tried once more."""
        if not self._began:
            self._journal.retry(self.sink.name)
            self._began = True
        self._note()
        owed = self._journal.pending(self.sink.name, self.sink.batch)
        if not owed:
            with self._journal.wake:
                if not self._ending.is_set() and not self._journal.pending(self.sink.name, 1):
                    self._journal.wake.wait(_LOOK)
            return
        try:
            self._settle(self._deliver(owed))
        except PatchbankError:
            raise
        except Exception as error:
            self._blame(owed, error)
            raise

    def _deliver(self, owed: Sequence[Owed]) -> Outcome:
        """One record alone after an error that nobody foresaw: so that the others do not pay for it."""
        if any(each.attempts for each in owed):
            owed = owed[:1]
        return self.sink.deliver([each.record for each in owed], self._journal.images)

    def _settle(self, outcome: Outcome) -> None:
        self._confirmed = list(outcome.delivered)
        for id, reason in outcome.refused.items():
            self._set_aside(id, reason)
        if not outcome.delivered and not outcome.refused:
            raise Unreachable("nothing of it was confirmed")
        self._note()
        self._well()

    def _note(self) -> None:
        """Strikes out what the sink has confirmed. If the journal cannot be written, this is tried again before
        anything else is delivered: else the sink would get the same records again."""
        if self._confirmed:
            self._journal.delivered(self.sink.name, self._confirmed)
            self._delivered += len(self._confirmed)
            self._confirmed = []

    def _blame(self, owed: Sequence[Owed], error: Exception) -> None:
        """The first of the batch pays: after some failures of its own it is set aside."""
        first, reason = owed[0], f"{type(error).__name__}: {error}"
        if first.attempts + 1 >= _MOST_FAILURES:
            self._set_aside(first.record.id, reason)
        else:
            self._journal.failed(self.sink.name, first.record.id, reason)

    def _set_aside(self, id: str, reason: str) -> None:
        self._journal.failed(self.sink.name, id, reason, final=True)
        self._alarm(f"sink {self.sink.name}: refused", f"record {id} was refused, and is set aside: {reason}")

    def _failed(self, why: str, at_least: float = 0.0) -> None:
        """Says so, and waits: longer each time, not in step with other lines, and as long as the sink asks for."""
        if self._ending.is_set():
            return
        self._trouble = (why, self._trouble[1] if self._trouble else datetime.now(UTC))
        self._alarm(f"sink {self.sink.name}", why)
        wait = min(self._longest_wait, self._first_wait * 2 ** min(self._failures, 30))
        self._failures += 1
        wait = max(wait * random.uniform(0.5, 1.0), min(at_least, _LONGEST_ASKED))  # noqa: S311  (no secret)
        self._ending.wait(wait)

    def _well(self) -> None:
        self._failures = 0
        if self._trouble:
            self._trouble = None
            self._alarm(f"sink {self.sink.name}", None)


class Relays:
    """All sinks of a line. `start`, then `close`."""

    def __init__(self, sinks: Sequence[Sink], journal: Journal, alarm: Alarm) -> None:
        """journal: opened with the names of these sinks."""
        self._journal = journal
        self._relays = [Relay(sink, journal, alarm) for sink in sinks]

    def start(self) -> None:
        """Starts a thread for each sink."""
        for relay in self._relays:
            relay.start()

    def tell(self, station: str, state: Mapping[str, Any]) -> None:
        """A station's state, for the sinks that show it."""
        for relay in self._relays:
            try:
                relay.sink.state(station, state)
            except Exception:  # a sink harms nothing else
                logger.exception("sink %s", relay.sink.name)

    def states(self) -> list[RelayState]:
        """How each sink does. Reads the journal."""
        backlogs: dict[str, tuple[int, int]] = {}
        with suppress(OutputError):
            backlogs = self._journal.backlogs()
        states = []
        for relay in self._relays:
            pending, refused = backlogs.get(relay.sink.name, (0, 0))
            error, since = relay.trouble or (None, None)
            states.append(RelayState(relay.sink.name, pending, refused, relay.delivered, error, since))
        return states

    def drain(self, timeout: float) -> bool:
        """Waits until nothing is pending. False if that takes longer than `timeout` seconds. Raises OutputError if the
        journal cannot be read."""
        until = time.monotonic() + timeout
        while any(self._journal.pending(relay.sink.name, 1) for relay in self._relays):
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        return True

    def close(self, timeout: float = 5.0) -> None:
        """Ends all of them; what is left stays in the outbox."""
        threads = [threading.Thread(target=relay.close, args=(timeout,)) for relay in self._relays]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
