"""Makes a line of its file, starts it, and stops it in the order in which nothing is lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from patchbank import PatchbankError, Runtime
from patchbank.line.alarms import Alarms
from patchbank.line.answering import Answering
from patchbank.line.config import LineConfig, StationConfig
from patchbank.line.deadlines import Deadlines
from patchbank.line.grabber import Grabber
from patchbank.line.journal import Journal
from patchbank.line.journal_reader import JournalReader
from patchbank.line.models import ModelHost
from patchbank.line.plc.protocol import Output, Plc
from patchbank.line.recorder import Recorder
from patchbank.line.relay import Relays
from patchbank.line.station import Station
from patchbank.line.telling import Telling
from patchbank.line.views import LineView, StationView
from patchbank.line.watchdog import Watchdog

logger = logging.getLogger("patchbank.line")
OPENING = 10.0  # seconds that a camera has at the start; then the station begins without it, in fault
STOPPING = 5.0
DELIVERING = 10.0  # seconds that sinks have at the end of `once`; what they are owed then waits for the next start


class Runner:
    """A line. `start` it, `stop` it; or use it as a context manager, which starts and stops it."""

    def __init__(self, config: LineConfig, *, runtime: Runtime | None = None, once: bool = False) -> None:
        """Opens the journal and loads the models, which prove themselves. once: each station ends when what is there is
        answered. Raises PatchbankError for whatever keeps the line from starting; then nothing is left open."""
        self.config, self.alarms = config, Alarms()
        self._undo: list[Callable[[], None]] = []
        self._stopped, self._once = False, once
        try:
            self._build(runtime or Runtime(), once)
            self._built = len(self._undo)
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
        sinks = [sink.make(name=name) for name, sink in config.sinks.items()]
        self.relays = Relays(sinks, self.journal, alarms)
        self._undo.append(self.relays.close)
        self.plcs: dict[str, Plc] = {}
        self._outputs: list[Output] = []
        self.stations = tuple(self._station(each, once) for each in config.stations)

    def _station(self, config: StationConfig, once: bool) -> Station:
        plc: Plc | None = config.plc.make(**self._alarming(config)) if config.plc else None
        output: Output | None = config.output.make() if config.output else None
        if plc:
            self.plcs[config.name] = plc
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

    def _alarming(self, config: StationConfig) -> dict[str, Any]:
        """What a PLC whose server is another process gets, too."""
        if config.plc is None or config.plc.kind != "opcua":
            return {}
        return {"alarm": lambda what, why: self.alarms(f"{config.name}: {what}", why)}

    def open(self) -> Mapping[str, str]:
        """Opens outputs, PLCs and cameras. Returns by station what its camera is. A camera that is not there is an
        alarm; it is tried again. Raises PatchbankError for a PLC or an output."""
        try:
            for output in self._outputs:
                output.open()
                self._undo.append(output.close)
            for station in self.stations:
                if plc := self.plcs.get(station.name):
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
        """Takes and delivers parts from now on; `open` comes first."""
        self.relays.start()
        for station in self.stations:
            station.start()
        telling = Telling(self.view, self.relays.tell, self.config.options.site, self.config.options.line)
        self._undo.append(telling.close)
        watched = [(self._alive(each), self.plcs[each.name]) for each in self.stations if each.name in self.plcs]
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
        self._unwind(self._built)  # PLCs and outputs: until then they get ERROR, which is recorded, too
        self._recorder.close()
        self.journal.flush()
        for station in self.stations:
            station.grabber.close()
        if self._once:
            self.relays.drain(DELIVERING)
        self._unwind()

    def view(self, *, backlogs: bool = False) -> LineView:
        """The line at this moment. backlogs: with what sinks are owed, which the journal has to count."""
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
        return LineView(stations, self.alarms.now, self.journal.backlogs() if backlogs else {}, self.journal.waiting)

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

    def _unwind(self, to: int = 0) -> None:
        """Undoes what was done, the last first, but for the first `to` things."""
        while len(self._undo) > to:
            undo = self._undo.pop()
            try:
                undo()
            except Exception:
                logger.exception("something could not be closed")
