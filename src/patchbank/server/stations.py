"""Which model decides where: every stream with the version that is deployed there, in memory and ready.

Deployments are rows; this is their copy in memory. It is made anew at the start and whenever a deployment is told of,
also by another process that shares the database. A version is loaded beside the one in use, its file's digest is
compared with its row, and the streams change over between two images."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from patchbank import PatchbankError, PatchCore
from patchbank.errors import StoreError
from patchbank.server.logs import event, logger
from patchbank.server.models import Hosted, ModelHost
from patchbank.server.problems import Problem, busy
from patchbank.store import models, streams
from patchbank.store.engine import Store
from patchbank.store.events import MISSED, Event
from patchbank.store.models import Model, ModelVersion
from patchbank.store.streams import Deployment, Stream

if TYPE_CHECKING:
    from sqlalchemy import Connection

_TOLD_OF = ("deployment", "stream", MISSED)


@dataclass(frozen=True, eq=False)
class Station:
    """A stream with what is deployed on it. hosted: the version in memory; None: nothing is deployed, or `failure` says
    why it cannot be used. shadow: the version that only watches, by `shadow_deployment`."""

    stream: Stream
    deployment: Deployment | None = None
    hosted: Hosted | None = None
    failure: str = ""
    shadow: Hosted | None = None
    shadow_deployment: Deployment | None = None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the database says."""

    streams: list[Stream]
    deployments: list[Deployment]
    versions: dict[int, tuple[Model, ModelVersion]]


class Stations:
    """All streams. `refresh` copies the database; the rest reads the copy."""

    def __init__(self, store: Store, host: ModelHost) -> None:
        self._store, self._host = store, host
        self._by_name: dict[str, Station] = {}
        self._failures: dict[int, str] = {}
        self._refreshing = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    # --- asking ---

    def all(self) -> list[Station]:
        """All streams, by name."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    def by_id(self, stream_id: int) -> Station | None:
        """The stream of this id."""
        return next((each for each in self._by_name.values() if each.stream.id == stream_id), None)

    def for_images(self, name: str | None, only_stream_id: int | None) -> tuple[Station, Hosted]:
        """Where an image goes. name: the stream that was named; None: the only one, or that of the token
        (`only_stream_id`). Raises Problem if there is none, or none that can decide."""
        station = self._named(name, only_stream_id)
        if station.stream.state == "paused":
            raise busy(f"Stream {station.stream.name!r} is paused: no part is inspected", 5, "paused")
        if station.failure:
            raise busy(f"The model of stream {station.stream.name!r} cannot be used: {station.failure}", 30, "model")
        if station.hosted is None:
            raise Problem(409, "no-model", f"No model is deployed on stream {station.stream.name!r}; deploy one first")
        return station, station.hosted

    def models(self) -> list[Hosted]:
        """The versions that decide somewhere, by name and number."""
        found = {each.hosted.version_id: each.hosted for each in self._by_name.values() if each.hosted}
        return sorted(found.values(), key=lambda hosted: (hosted.name, hosted.number))

    def model(self, name: str, version: str | None = None) -> Hosted:
        """The version that decides somewhere, by the name of its model; the newest one, unless it is named. Raises
        Problem."""
        found = [each for each in self.models() if each.name == name]
        if not found:
            names = sorted({each.name for each in self.models()})
            raise Problem(404, "no-model", f"There is no model {name!r} in use; there is {_listed(names)}")
        if version is None:
            return found[-1]
        chosen = [each for each in found if str(each.number) == version]
        if not chosen:
            numbers = _listed([str(each.number) for each in found])
            raise Problem(404, "no-version", f"Version {version!r} of model {name!r} is not in use; {numbers} is")
        return chosen[0]

    def _named(self, name: str | None, only_stream_id: int | None) -> Station:
        if only_stream_id is not None:
            own = self.by_id(only_stream_id)
            if own is None or name not in (None, own.stream.name):
                raise Problem(403, "other-stream", "The token is for one stream, and this is another one")
            return own
        if name is not None:
            if name not in self._by_name:
                raise Problem(
                    404, "no-stream", f"There is no stream {name!r}; there is {_listed(sorted(self._by_name))}"
                )
            return self._by_name[name]
        decided = [each for each in self._by_name.values() if each.hosted or each.failure]
        if len(decided) != 1:
            names = _listed(sorted(self._by_name))
            raise Problem(422, "which-stream", f"X-Stream: expected the name of a stream, one of {names}; got none")
        return decided[0]

    # --- following the database ---

    async def start(self) -> None:
        """Copies the database, and follows it until `stop`."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def told(what: Event) -> None:
            if what.kind in _TOLD_OF:
                loop.call_soon_threadsafe(changed.set)

        self._unsubscribe = self._store.events.subscribe(told)
        await self.refresh()
        self._following = asyncio.create_task(self._follow(changed))

    async def stop(self) -> None:
        """Ends the following."""
        self._unsubscribe()
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])

    async def refresh(self) -> None:
        """Makes the copy anew: loads what is missing, changes over, lets go of what is no longer needed."""
        async with self._refreshing:
            wanted = await asyncio.wrap_future(self._store.query(_wanted))
            for model, version in wanted.versions.values():
                await self._load(model, version)
            self._by_name = {each.name: self._station(each, wanted.deployments) for each in wanted.streams}
            for gone in self._host.drop_all_but(set(wanted.versions)):
                event(logging.INFO, "model out of use", model=gone.name, version=gone.number)
                await asyncio.to_thread(gone.inspector.close)

    async def _follow(self, changed: asyncio.Event) -> None:
        while True:
            await changed.wait()
            changed.clear()
            try:
                await self.refresh()
            except StoreError as error:
                logger.warning("deployments cannot be read, and stay as they are for a second: %s", error)
                await asyncio.sleep(1)
                changed.set()

    async def _load(self, model: Model, version: ModelVersion) -> None:
        if self._host.get(version.id) is not None:
            return
        try:
            loaded = await asyncio.to_thread(self._read, version)
        except PatchbankError as error:
            self._failures[version.id] = str(error)
            logger.error("model %s, version %d cannot be used: %s", model.name, version.number, error)
            return
        self._failures.pop(version.id, None)
        self._host.hold(model.name, version.id, version.number, loaded)
        event(logging.INFO, "model in use", model=model.name, version=version.number, sha256=version.file_sha256)

    def _read(self, version: ModelVersion) -> PatchCore:
        loaded = PatchCore.load(self._store.models.path(version.file_sha256), runtime=self._host.runtime)
        if loaded.made_by.sha256 != version.file_sha256:
            raise StoreError("the file is damaged: its digest is another one; restore it from a backup")
        prove(loaded)
        return loaded

    def _station(self, stream: Stream, deployments: Sequence[Deployment]) -> Station:
        kinds = {each.kind: each for each in deployments if each.stream_id == stream.id}
        active, shadow = kinds.get("active"), kinds.get("shadow")
        failure = self._failures.get(active.model_version_id or 0, "") if active else ""
        return Station(stream, active, self._in_memory(active), failure, self._in_memory(shadow), shadow)

    def _in_memory(self, deployment: Deployment | None) -> Hosted | None:
        if deployment is None or deployment.model_version_id is None:
            return None
        return self._host.get(deployment.model_version_id)


def prove(model: PatchCore) -> None:
    """Has the model score its own images once more. Raises SelfTestError if this machine scores them otherwise; a file
    of an earlier patchbank has none, which is said."""
    if model.self_test_images:
        model.run_self_test()
    else:
        logger.warning("the model has no images to test itself with: update it, or fit it again")


def _wanted(connection: Connection) -> _Wanted:
    """Streams and deployments that hold now, with the versions that they name."""
    found = streams.listed(connection)
    ids = {each.id for each in found}
    deployments = [each for each in streams.all_current(connection) if each.stream_id in ids]
    versions = {}
    for each in deployments:
        if each.model_version_id is not None and each.model_version_id not in versions:
            version = models.version(connection, each.model_version_id)
            versions[version.id] = (models.by_id(connection, version.model_id), version)
    return _Wanted(found, deployments, versions)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "none"
