"""What was written, sent to pages and programs as it happens (Server-Sent Events).

The hub keeps the last events, so that who was away for a moment (Last-Event-ID) misses nothing. Who was away for
longer, or is too slow, gets an event `missed`: then it reads the lists again.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from patchbank.server.problems import busy
from patchbank.store.events import MISSED, Event, Events

KEPT, MOST_LISTENERS, MOST_WAITING = 1000, 100, 200
PING_S = 15.0


@dataclass(frozen=True, slots=True)
class Numbered:
    """An event with its number since the start of the service."""

    number: int
    event: Event


class Hub:
    """Hands the store's events to many listeners in the event loop."""

    def __init__(self) -> None:
        self.start_id = secrets.token_hex(4)  # numbers of another start mean nothing here
        self._number = 0
        self._last: deque[Numbered] = deque(maxlen=KEPT)
        self._listeners: set[asyncio.Queue[Numbered | None]] = set()

    def follow(self, events: Events) -> Callable[[], None]:
        """Hears what the store tells. Returns a function that ends that."""
        loop = asyncio.get_running_loop()

        def told(event: Event) -> None:
            loop.call_soon_threadsafe(self.hear, event)

        return events.subscribe(told)

    def hear(self, event: Event) -> None:
        """Takes an event, and hands it on."""
        self._number += 1
        numbered = Numbered(self._number, event)
        self._last.append(numbered)
        for queue in self._listeners:
            if queue.qsize() < MOST_WAITING:
                queue.put_nowait(numbered)
            else:  # the reader is too slow: it reads the lists again, from here
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(Numbered(self._number, Event(MISSED)))

    def end(self) -> None:
        """Ends all streams."""
        for queue in self._listeners:
            queue.put_nowait(None)

    @property
    def listeners(self) -> int:
        """Returns how many listen."""
        return len(self._listeners)

    async def stream(self, last_id: str | None, wanted: Callable[[Event], bool]) -> AsyncIterator[bytes]:
        """The lines for one listener, without an end. last_id: the id of the last event that it has. Raises Problem if
        too many listen already."""
        if len(self._listeners) >= MOST_LISTENERS:
            raise busy(f"{MOST_LISTENERS} programs and pages listen already", 5)
        queue: asyncio.Queue[Numbered | None] = asyncio.Queue()
        for numbered in self._since(last_id):
            queue.put_nowait(numbered)
        self._listeners.add(queue)
        return self._lines(queue, wanted)

    async def _lines(
        self, queue: asyncio.Queue[Numbered | None], wanted: Callable[[Event], bool]
    ) -> AsyncIterator[bytes]:
        try:
            yield b"retry: 2000\n\n"
            while True:
                try:
                    numbered = await asyncio.wait_for(queue.get(), PING_S)
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                if numbered is None:
                    return
                if numbered.event.kind == MISSED or wanted(numbered.event):
                    yield self._line(numbered)
        finally:
            self._listeners.discard(queue)

    def _since(self, last_id: str | None) -> list[Numbered]:
        """What a listener has missed: these events, or that it has missed some."""
        if last_id is None:
            return []
        start, _, number = last_id.partition("-")
        if start != self.start_id or not number.isdecimal() or len(number) > 18:
            return [Numbered(self._number, Event(MISSED))]
        missed = [each for each in self._last if each.number > int(number)]
        complete = not missed or missed[0].number == int(number) + 1
        return missed if complete else [Numbered(self._number, Event(MISSED))]

    def _line(self, numbered: Numbered) -> bytes:
        data = json.dumps(numbered.event.about)
        return f"id: {self.start_id}-{numbered.number}\nevent: {numbered.event.kind}\ndata: {data}\n\n".encode()
