"""Makes a line of its file, starts it, and stops it in the order in which nothing is lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from patchbank import PatchbankError, Runtime
from patchbank.line.answering import Answering
from patchbank.line.config import LineConfig, StationConfig
from patchbank.line.deadlines import Deadlines
from patchbank.line.grabber import Grabber
from patchbank.line.journal import Journal
from patchbank.line.journal_reader import JournalReader
from patchbank.line.models import ModelHost
from patchbank.line.parts import Answered
from patchbank.line.plc.protocol import Output, Plc, Shown
from patchbank.line.recorder import Recorder
from patchbank.line.station import Station
from patchbank.line.watchdog import Watchdog

logger = logging.getLogger("patchbank.line")
OPENING = 10.0  # seconds that a camera has at the start; then the station begins without it, in fault
STOPPING = 5.0


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


@dataclass(frozen=True, eq=False)
class StationView:
    """A station at one moment, for people. camera: what was found. failure: why there is none. last: the last answer
    that was sent."""

    name: str
    shown: Shown
    camera: str
    failure: str
    paused: bool
    model: str
    model_version: int
    last: Answered | None


@dataclass(frozen=True, eq=False)
class LineView:
    """A line at one moment. backlogs: by sink, what is owed and what was refused."""

    stations: tuple[StationView, ...]
    alarms: Mapping[str, str]
    backlogs: Mapping[str, tuple[int, int]]
    waiting: int


class Runner:
    """A line. `start` it, `stop` it; or use it as a context manager, which starts and stops it."""

    def __init__(self, config: LineConfig, *, runtime: Runtime | None = None, once: bool = False) -> None:
        """Opens the journal and loads the models, which prove themselves. once: each station ends when what is there is
        answered. Raises PatchbankError for whatever keeps the line from starting; then nothing is left open."""
        self.config, self.alarms = config, Alarms()
        self._undo: list[Callable[[], None]] = []
        self._stopped = False
        try:
            self._build(runtime or Runtime(), once)
        except BaseException:
            self._unwind()
            raise

    def _build(self, runtime: Runtime, once: bool) -> None:
        config, alarms = self.config, self.alarms
        self.journal = Journal(config.data, list(config.sinks), policy=config.policy, alarm=alarms)
        self._undo.append(self.journal.close)
        for sink in self.journal.backlogs().keys() - set(config.sinks):
            logger.warning("records wait for sink %s, which %s does not have any more", sink, config.path)
        paths = [path for each in config.stations for path in (each.model, *each.recipes.values())]
        self.models = ModelHost(paths, runtime, alarms)
        self._undo.append(self.models.close)
        self._recorder = Recorder(self.journal, config.options.site, config.options.line, alarms)
        self._undo.append(self._recorder.close)
        self._deadlines = Deadlines()
        self._undo.append(self._deadlines.close)
        self._plcs: dict[str, Plc] = {}
        self._outputs: list[Output] = []
        self.stations = tuple(self._station(each, once) for each in config.stations)

    def _station(self, config: StationConfig, once: bool) -> Station:
        plc: Plc | None = config.plc.make() if config.plc else None
        output: Output | None = config.output.make() if config.output else None
        if plc:
            self._plcs[config.name] = plc
        if output:
            self._outputs.append(output)
        answering = Answering(
            config.name,
            batch=config.options.batch,
            require_record=config.options.require_record,
            recorder=self._recorder,
            journal=self.journal,
            plc=plc,
            output=output,
            alarm=self.alarms,
        )
        more: dict[str, Any] = {}
        if config.camera.kind == "folder":
            more["known"] = lambda key: self.journal.knows_source(config.name, key)
        slots = {number: self.models.slots[path] for number, path in ((0, config.model), *config.recipes.items())}
        return Station(
            config,
            answering=answering,
            grabber=Grabber(config.name, lambda: config.camera.make(**more)),
            slots=slots,
            deadlines=self._deadlines,
            alarm=self.alarms,
            once=once,
        )

    def open(self) -> Mapping[str, str]:
        """Opens outputs, PLCs and cameras. Returns by station what its camera is. A camera that is not there is an
        alarm; it is tried again. Raises PatchbankError for a PLC or an output."""
        try:
            for output in self._outputs:
                output.open()
                self._undo.append(output.close)
            for station in self.stations:
                if plc := self._plcs.get(station.name):
                    plc.open(station)
                    self._undo.append(plc.close)
        except BaseException:
            self._unwind()
            raise
        found = {}
        for station in self.stations:
            try:
                found[station.name] = station.grabber.open(OPENING)
            except PatchbankError as error:
                found[station.name] = ""
                station.failure = str(error)
                self.alarms(f"{station.name}: camera", str(error))
        return found

    def start(self) -> None:
        """Takes parts from now on; `open` comes first."""
        for station in self.stations:
            station.start()
        watched = [(self._alive(each), self._plcs[each.name]) for each in self.stations if each.name in self._plcs]
        watchdog = Watchdog(watched)
        self._undo.append(watchdog.close)

    def wait(self, ending: threading.Event, timeout: float | None = None) -> bool:
        """Waits until the event is set, or all stations have ended by themselves (`once`). False if that takes longer
        than `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while not ending.wait(0.05):
            if not any(station.thread.is_alive() for station in self.stations):
                return True
            if end is not None and time.monotonic() > end:
                return False
        return True

    def stop(self) -> None:
        """Takes no more parts, answers and records those under way, moves their files, and lets go of everything. May
        be called twice."""
        if self._stopped:
            return
        self._stopped = True
        for station in self.stations:
            station.stop(STOPPING)
        self._recorder.close()
        self.journal.flush()
        for station in self.stations:
            station.grabber.close()
        self._unwind()

    def view(self) -> LineView:
        """The line at this moment."""
        stations = tuple(
            StationView(
                each.name,
                each.answering.shown,
                each.grabber.opened,
                each.failure,
                each.paused,
                each.loaded.name,
                each.loaded.model.made_by.version,
                each.answering.last,
            )
            for each in self.stations
        )
        return LineView(stations, self.alarms.now, self.journal.backlogs(), self.journal.waiting)

    def reader(self) -> JournalReader:
        """The journal, after the line was stopped; `close` it."""
        return JournalReader(self.config.data)

    def __enter__(self) -> Runner:
        self.open()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _alive(self, station: Station) -> Callable[[], bool]:
        return lambda: station.alive and self._deadlines.alive

    def _unwind(self) -> None:
        while self._undo:
            undo = self._undo.pop()
            try:
                undo()
            except Exception:
                logger.exception("something could not be closed")
