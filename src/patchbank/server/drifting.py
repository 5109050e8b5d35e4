"""Drift, followed while parts come: for each stream and the version that decides there, a DriftMonitor whose state is
kept, so that a restart goes on where the last one ended.

The rows are read in their order, some at a time, a moment after they were written. So whoever writes them, also another
process, and also a line that delivers later, they are counted once. A part that is delivered after a later one of its
stream was counted is left out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from patchbank import ConfigError, DriftMonitor, PatchCore, Shift
from patchbank.errors import StoreError
from patchbank.server.logs import logger
from patchbank.store import events, statistics, values
from patchbank.store.events import MISSED, Event
from patchbank.store.statistics import Score
from patchbank.util.uuid7 import time_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from patchbank.server.stations import Station, Stations
    from patchbank.store.engine import Store

TOGETHER = 200  # rows that are counted in one step
PAUSE_S = 2.0  # between two steps, so that the line has the processors
SETTLED = timedelta(seconds=2)  # rows of that age are there in their order
_MOST_MARKS = 128
Pair = tuple[int, int]  # stream, version


@dataclass(eq=False)
class Followed:
    """A monitor with its place in the stream. last: the inspection that was counted last. findings: what pages show.
    marks: (number, inspection) of some, so that a number has a time; stride: of each so manieth."""

    monitor: DriftMonitor
    last: UUID | None = None
    findings: dict[str, Any] = field(default_factory=dict)
    marks: list[tuple[int, UUID]] = field(default_factory=list)
    stride: int = 1

    def take(self, rows: list[Score]) -> None:
        """Counts rows, the oldest first; those without a score count for nothing."""
        counted = [each for each in rows if each.score is not None]
        for number, each in enumerate(counted, start=self.monitor.images):
            if number % self.stride == 0:
                self.marks.append((number, each.id))
        while len(self.marks) > _MOST_MARKS:
            self.stride *= 2
            self.marks = [mark for mark in self.marks if mark[0] % self.stride == 0]
        self.last = rows[-1].id if rows else self.last
        found = self.monitor.extend((each.score, each.in_scene) for each in counted if each.score is not None)
        self.findings = {
            "images": found.images,
            "found": found.found,
            "tests": [self._told(each) for each in found.tests],
            "advice": list(found.advice),
        }

    def _told(self, test: Shift) -> dict[str, Any]:
        """A test with the times of its images, as near as they are remembered."""
        times = {f"{name}_at": self._time(getattr(test, name)) for name in ("detected", "start", "stop")}
        return test.to_dict() | times

    def _time(self, number: int | None) -> str | None:
        identifier = self._at(number)
        return None if identifier is None else time_of(identifier).isoformat()

    def _at(self, number: int | None) -> UUID | None:
        """The inspection of that number, or the nearest one before it that is remembered."""
        if number is None:
            return None
        before = [each for place, each in self.marks if place <= number]
        return before[-1] if before else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        marks = [[number, str(each)] for number, each in self.marks]
        last = None if self.last is None else str(self.last)
        about = {"last": last, "findings": self.findings, "marks": marks, "stride": self.stride}
        return {"monitor": self.monitor.to_dict(), **about}


def followed(model: PatchCore, state: Any) -> Followed | None:
    """A monitor that goes on from a state, or a new one; None for a model without calibration, which has nothing to
    compare with."""
    if model.calibration is None:
        return None
    if state is not None:
        try:
            monitor = DriftMonitor.from_dict(state["monitor"], model.calibration, scene=model.scene)
            marks = [(int(number), UUID(each)) for number, each in state["marks"]]
            last = None if state["last"] is None else UUID(state["last"])
            return Followed(monitor, last, dict(state["findings"]), marks, int(state["stride"]))
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            logger.warning("a state of drift cannot be read, and begins anew: %s", error)
    return Followed(DriftMonitor(model.calibration, scene=model.scene))


class Drifts:
    """Follows all streams, in one task, in bounded steps."""

    def __init__(self, store: Store, stations: Stations) -> None:
        self._store, self._stations = store, stations
        self._waiting: set[int] = set()  # streams
        self._changed = asyncio.Event()
        self._kept: dict[Pair, Followed] = {}
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begins, with what came while nobody followed."""
        loop = asyncio.get_running_loop()

        def told(event: Event) -> None:
            if event.kind in ("inspection", "deployment", MISSED):
                loop.call_soon_threadsafe(self._note, event.about.get("stream_id"))

        self._unsubscribe = self._store.events.subscribe(told)
        self._note(None)
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Ends. What was not counted yet is counted after the next start."""
        self._unsubscribe()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def step(self) -> bool:
        """Counts some rows of every stream that has new ones. Returns whether there may be more."""
        waiting, self._waiting = self._waiting, set()
        for stream_id in sorted(waiting):
            station = self._stations.by_id(stream_id)
            if station is not None and station.hosted is not None and await self._count(station):
                self._waiting.add(stream_id)
        used = {(each.stream.id, each.hosted.version_id) for each in self._stations.all() if each.hosted}
        self._kept = {pair: held for pair, held in self._kept.items() if pair in used}
        return bool(self._waiting)

    def _note(self, stream_id: object) -> None:
        known = {each.stream.id for each in self._stations.all()}
        self._waiting |= {stream_id} if isinstance(stream_id, int) else known
        self._changed.set()

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await asyncio.sleep(PAUSE_S + SETTLED.total_seconds())
            try:
                if await self.step():
                    self._changed.set()
            except StoreError as error:
                logger.warning("drift is not followed for a moment: %s", error)
                self._note(None)
            except Exception:  # noqa: BLE001  (whatever it is, the line goes on, and the log has it)
                logger.exception("drift could not be followed; it goes on with the next part")

    async def _count(self, station: Station) -> bool:
        assert station.hosted is not None
        pair, model = (station.stream.id, station.hosted.version_id), station.hosted.model
        state = await self._read(statistics.drift_of, *pair)
        held = self._kept.get(pair)
        if held is None or state is None or state["last"] != (held.last and str(held.last)):  # new, or another process
            held = followed(model, state)
            if held is None:
                return False
        before = values.now() - SETTLED
        rows = await self._read(statistics.scores_after, *pair, held.last, before, TOGETHER)
        if rows:
            known = held.findings.get("found", False)
            await asyncio.to_thread(held.take, rows)
            told = held.findings["found"] and not known
            await asyncio.wrap_future(self._store.submit(_keep, pair, held.to_dict(), told))
            self._kept[pair] = held
        newest = await self._read(statistics.scores, pair[0], limit=1)
        return len(rows) == TOGETHER or bool(newest and newest[-1].at > before)  # the newest are read a moment later

    async def _read(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        return await asyncio.wrap_future(self._store.query(function, *args, **named))


def _keep(connection: Connection, pair: Pair, state: dict[str, Any], is_new: bool) -> None:
    statistics.keep_drift(connection, *pair, state)
    if is_new:
        events.tell(connection, "drift", stream_id=pair[0], model_version_id=pair[1])
