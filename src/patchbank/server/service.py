"""What the endpoints work with: the options, the models, the numbers, and whether the service is ready or stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from starlette.requests import Request

from patchbank.errors import StoreError
from patchbank.server.archive import Archive
from patchbank.server.backups import Backups
from patchbank.server.drifting import Drifts
from patchbank.server.events import Hub
from patchbank.server.explaining import Explanations
from patchbank.server.housekeeping import Housekeeping
from patchbank.server.jobs.supervisor import Supervisor
from patchbank.server.logins import Attempts
from patchbank.server.logs import logger
from patchbank.server.metrics import Metrics
from patchbank.server.problems import busy
from patchbank.server.settings import Settings
from patchbank.server.shadowing import Shadows
from patchbank.server.stations import Stations
from patchbank.store import preferences
from patchbank.store.blobs import free_bytes
from patchbank.store.engine import Store
from patchbank.store.events import MISSED, Event

if TYPE_CHECKING:
    from patchbank.server.models import ModelHost

_T = TypeVar("_T")
_SETTINGS = ("setting", MISSED)
_DECODED_AT_ONCE = 2  # uploads that are checked: each may take 225 MB
BODIES = 8  # of the largest size that may be in memory at a time


class Service:
    """The service of one application."""

    def __init__(self, settings: Settings, store: Store, models: ModelHost, metrics: Metrics) -> None:
        self.settings, self.store, self.models, self.metrics = settings, store, models, metrics
        self.attempts = Attempts()
        self.has_admin = False
        self.sessions_extended: dict[str, float] = {}
        self.keys_under_way: set[str] = set()
        self.stations = Stations(store, models)
        self.archive = Archive(store, models)
        self.shadows = Shadows(store, self.stations, models, metrics)
        self.drifts = Drifts(store, self.stations)
        self.uploading = asyncio.Lock()
        self.explanations = Explanations(store, self.archive)
        self.decoding = asyncio.Semaphore(_DECODED_AT_ONCE)
        self.supervisor = Supervisor(store, settings, models.runtime)
        self.hub = Hub()
        self.backups = Backups(store)
        self._housekeeping = Housekeeping(store)
        self._preferences: dict[str, Any] = {}
        self.started = self.stopping = False
        self._requests = self._held = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsubscribe: Callable[[], object] = lambda: None
        metrics.gauge("patchbank_requests_under_way", "Requests that are being answered", (), self._under_way)
        metrics.gauge("patchbank_disk_free_bytes", "Free space on the disk of the data folder", (), self._free)
        metrics.gauge("patchbank_ready", "1 if the service is ready", (), lambda: [((), float(self.ready))])

    @property
    def ready(self) -> bool:
        """Says whether the service takes work."""
        return self.started and not self.stopping

    def stop(self) -> None:
        """Makes the service not ready; streams of events end. Requests that come all the same are answered."""
        self.stopping = True
        self.hub.end()

    async def start(self) -> None:
        """Makes the service ready: loads what is deployed, and follows what is written."""
        await self._read_preferences()
        loop = asyncio.get_running_loop()

        def told(event: Event) -> None:
            if event.kind in _SETTINGS:
                loop.call_soon_threadsafe(self._preferences_changed)

        unsubscribe, unfollow = self.store.events.subscribe(told), self.hub.follow(self.store.events)
        self._unsubscribe = lambda: (unsubscribe(), unfollow())
        await self.stations.start()
        self.drifts.start()
        self.shadows.start()
        self._housekeeping.start()
        await self.supervisor.start()
        self.started = True

    async def end(self) -> None:
        """Lets go of everything. Images that wait get no result; what waits to be written is written."""
        self.stop()
        self._unsubscribe()
        await self.backups.stop()
        await self._housekeeping.stop()
        await self.supervisor.stop()
        await self.drifts.stop()
        await self.shadows.stop()
        await self.stations.stop()
        await asyncio.to_thread(self.models.close)
        await asyncio.to_thread(self.store.close)

    def preference(self, key: str) -> Any:
        """A setting of the pages, as it is now."""
        return self._preferences[key]

    async def read(self, function: Callable[..., _T], *args: Any, **named: Any) -> _T:
        """Calls function(connection, ...) in a thread of the store, and waits for it."""
        return await asyncio.wrap_future(self.store.query(function, *args, **named))

    async def write(self, function: Callable[..., _T], *args: Any, **named: Any) -> _T:
        """Calls function(connection, ...) in the writing thread, and waits until the change is on the disk."""
        return await asyncio.wrap_future(self.store.submit(function, *args, **named))

    def write_aside(self, function: Callable[..., Any], *args: Any) -> None:
        """Has something written that nobody waits for, and that may be lost."""
        try:
            self.store.submit(function, *args).add_done_callback(_log_failure)
        except StoreError as error:
            logger.warning("%s was not noted: %s", function.__name__, error)

    def hold(self, size: int) -> None:
        """Counts bytes of bodies that are in memory, or no longer are (below 0). Raises Problem if it were too many."""
        if size > 0 and self._held + size > BODIES * self.settings.max_body:
            raise busy("Too many large bodies arrive at the same time; try again in a second")
        self._held += size

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Counts a request while it is answered."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def _read_preferences(self) -> None:
        found = await self.read(preferences.all_now)
        self._preferences = {each.preference.key: each.value for each in found}

    def _preferences_changed(self) -> None:
        task = asyncio.create_task(self._read_preferences())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _under_way(self) -> list[tuple[tuple[str, ...], float]]:
        return [((), float(self._requests))]

    def _free(self) -> list[tuple[tuple[str, ...], float]]:
        return [((), float(free_bytes(self.store.folder.path)))]


def _log_failure(future: Future[Any]) -> None:
    if error := future.exception():
        logger.warning("something that nobody waits for was not noted: %s", error)


def service_of(request: Request) -> Service:
    """The service that answers the request."""
    return cast(Service, request.app.state.service)
