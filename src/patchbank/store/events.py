"""What was written, told to who listens: pages that show it as it happens.

A write function calls `tell(connection, kind, ...)`. Listeners hear of it after the commit, in every process that
shares the database: PostgreSQL's NOTIFY carries it there. An event is a hint to read, and may be lost while the
database is away: then listeners hear `missed`."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.engine import URL

from patchbank.store.types import json_text
from patchbank.store.writer import EVENTS

logger = logging.getLogger("patchbank.store")
CHANNEL = "patchbank"
MISSED = "missed"
_LONGEST = 7900  # bytes; PostgreSQL's limit is 8000


@dataclass(frozen=True)
class Event:
    """kind: inspection, review, job, deployment, stream, ... about: identifiers, as JSON values."""

    kind: str
    about: dict[str, Any] = field(default_factory=dict)


def tell(connection: Connection, kind: str, **about: Any) -> None:
    """Tells listeners once the transaction is committed."""
    if connection.dialect.name == "postgresql":
        payload = json_text({"kind": kind, "about": about})
        if len(payload.encode()) > _LONGEST:
            payload = json_text({"kind": kind, "about": {}})
        connection.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": CHANNEL, "payload": payload})
    else:
        connection.info.setdefault(EVENTS, []).append(Event(kind, about))


class Events:
    """Who listens. A listener is called in a thread of the store, must be quick, and may put things into a queue."""

    def __init__(self) -> None:
        """Nobody, at first."""
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Event], None]] = []

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Calls the listener with each event. Returns a function that ends that."""
        with self._lock:
            self._listeners = [*self._listeners, listener]

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = [each for each in self._listeners if each is not listener]

        return unsubscribe

    def publish(self, events: Iterable[Event]) -> None:
        """Tells all listeners; one that fails does not keep it from the others."""
        for event in events:
            for listener in self._listeners:
                try:
                    listener(event)
                except Exception:
                    logger.exception("a listener failed on %s", event.kind)


class Listener:
    """Hears what PostgreSQL tells, in a thread with a connection of its own, which is made anew when it breaks."""

    def __init__(self, url: URL, events: Events) -> None:
        """Begins at once."""
        self._url, self._events = url, events
        self._end = threading.Event()
        self._connected = threading.Event()
        self._thread = threading.Thread(target=self._run, name="patchbank-listener", daemon=True)
        self._thread.start()
        self._connected.wait(5)

    def close(self) -> None:
        """Ends the thread."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        import psycopg

        lost = False
        while not self._end.is_set():
            try:
                with psycopg.connect(_conninfo(self._url), autocommit=True, connect_timeout=5) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._connected.set()
                    if lost:
                        self._events.publish([Event(MISSED)])
                    lost = False
                    while not self._end.is_set():
                        for notice in connection.notifies(timeout=0.5):
                            self._hear(notice.payload)
            except psycopg.Error as error:
                if not lost:
                    logger.warning("cannot hear what other processes write: %s", error)
                lost = True
                self._end.wait(1)

    def _hear(self, payload: str) -> None:
        try:
            said = json.loads(payload)
            event = Event(str(said["kind"]), dict(said["about"]))
        except (ValueError, TypeError, KeyError):
            logger.warning("an event is unreadable, and left out")
            return
        self._events.publish([event])


def _conninfo(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
