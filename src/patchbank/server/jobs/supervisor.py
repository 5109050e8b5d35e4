"""Takes jobs from the table, one at a time, and has a child process do each. Whatever happens to the child, the service
goes on; whatever happens to the service, the job does."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from patchbank import PatchbankError, Runtime
from patchbank.errors import StoreConflictError, StoreError
from patchbank.server.jobs import kinds
from patchbank.server.jobs.folder import JobFolder
from patchbank.server.jobs.kinds import KINDS, Bench
from patchbank.server.jobs.process import Child, started
from patchbank.server.logs import event, logger
from patchbank.server.settings import Settings
from patchbank.store import jobs
from patchbank.store.engine import Store
from patchbank.store.events import MISSED, Event
from patchbank.store.jobs import Job

_T = TypeVar("_T")
_LOOK_S, _LOST_S = 5.0, 15.0  # between two looks: for jobs that may begin; for those whose worker was killed
_SAY_S, _LIVE_S = 1.0, 10.0  # between two writes of progress: where there is some, and where there is none
_GRACE_S = 20.0  # that a child has to keep its state
_AGAIN_S = 5.0  # before the next attempt, times the attempts so far


class Supervisor:
    """The worker of a service. grace: seconds that a child has to keep its state when it must end."""

    def __init__(self, store: Store, settings: Settings, runtime: Runtime, *, grace: float = _GRACE_S) -> None:
        self._bench = Bench(store, settings, runtime)
        self._store, self._grace = store, grace
        self.name = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._child: Child | None = None
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Takes back what a killed service had, and begins to work."""
        self._changed, self._stopping = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def told(what: Event) -> None:
            if what.kind in ("job", MISSED):
                loop.call_soon_threadsafe(self._changed.set)

        self._unsubscribe = self._store.events.subscribe(told)
        await self._take_back(all_workers=self._store.is_embedded)
        await asyncio.to_thread(self._sweep)
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Ends the work; the job that is under way is given back, with its state."""
        self._unsubscribe()
        if self._task is not None:
            self._stopping.set()
            await asyncio.wait([self._task])

    @property
    def pid(self) -> int | None:
        """Returns the process of the child that works now."""
        child = self._child
        return None if child is None or child.process.returncode is not None else child.process.pid

    async def _work(self) -> None:
        looked = time.monotonic()
        while not self._stopping.is_set():
            self._changed.clear()
            try:
                job = await self._write(jobs.claim, self.name, list(KINDS))
                if job is not None:
                    await self._do(job)
                    continue
                if time.monotonic() - looked >= _LOST_S:
                    looked = time.monotonic()
                    await self._take_back()
            except StoreError as error:
                logger.warning("jobs cannot be read or written, and wait for a while: %s", error)
                await self._either(self._stopping, timeout=5.0)
                continue
            except Exception:  # noqa: BLE001  (a fault of ours: the next job may be another one's)
                logger.exception("a job was given up")
                await self._either(self._stopping, timeout=5.0)
                continue
            await self._either(self._stopping, self._changed, timeout=_LOOK_S)

    async def _do(self, job: Job) -> None:
        """Does a job, or gives it back."""
        folder, begun = self._folder(job.id), time.monotonic()
        event(logging.INFO, "job begins", job=job.id, kind=job.kind, attempt=job.attempts)
        try:
            await self._write(jobs.progress, job.id, self.name, stage="start")
            await asyncio.to_thread(kinds.prepared, self._bench, job, folder)
            self._child = await started(folder, threads=self._bench.settings.job_threads)
        except StoreError as error:
            if error.retry or isinstance(error, StoreConflictError):
                raise
            await self._failed(job, folder, str(error))
            return
        except (PatchbankError, OSError) as error:
            await self._failed(job, folder, str(error))
            return
        try:
            await self._attend(job, folder, self._child)
        except StoreConflictError:
            event(logging.WARNING, "a job was lost to another worker", job=job.id)
        finally:
            await self._child.kill()
            self._child = None
        event(logging.INFO, "job over", job=job.id, kind=job.kind, seconds=round(time.monotonic() - begun, 1))

    async def _attend(self, job: Job, folder: JobFolder, child: Child) -> None:
        """Listens to the child until it has ended, or must. Raises StoreConflictError if the job is another's."""
        wrote, said = time.monotonic(), ("", 0)
        while not child.ended.done():
            await self._either(self._stopping, self._changed, child.ended, child.news, timeout=_SAY_S)
            self._changed.clear()
            child.news.clear()
            if self._stopping.is_set():
                await child.stop(self._grace)
                await self._last_words(job, child)
                await self._write(jobs.give_back, job.id, self.name)
                return
            heard, now = child.heard, time.monotonic()
            fresh = (heard.stage, heard.done) != said or heard.log or heard.images
            pause = 0.0 if heard.stage != said[0] else _SAY_S if fresh else _LIVE_S
            if now - wrote < pause and not await self._is_cancelled(job):
                continue
            wrote, said = now, (heard.stage, heard.done)
            if await self._say(job, child):
                await child.stop(self._grace)
                await self._cancelled(job, folder, child)
                return
        await self._say(job, child)
        await self._take_result(job, folder, child, child.ended.result())

    async def _is_cancelled(self, job: Job) -> bool:
        return (await self._read(jobs.get, job.id)).cancel_at is not None

    async def _say(self, job: Job, child: Child) -> bool:
        """Writes what the child has said. Returns whether somebody asked for the job's end. A database that is away
        is no reason to end the child."""
        heard = child.heard
        log, images = heard.log, heard.images
        heard.log, heard.images = "", []
        about = {"stage": heard.stage, "done": heard.done, "total": heard.total, "eta": heard.eta}
        try:
            if images:
                await self._write(kinds.note_images, job, images)
            return await self._write(jobs.progress, job.id, self.name, log=log, **about)
        except StoreError as error:
            if not error.retry:
                raise
            heard.log, heard.images = log + heard.log, images + heard.images
            return False

    async def _take_result(self, job: Job, folder: JobFolder, child: Child, code: int) -> None:
        error = child.heard.error
        if code == 0 and not error:
            try:
                result = await asyncio.to_thread(kinds.kept, self._store, folder)
                await self._again_while_away(_finish, job, self.name, result)
            except StoreConflictError:
                raise
            except (PatchbankError, ValueError, OSError, KeyError, TypeError) as problem:
                await self._failed(job, folder, str(problem))
            else:
                await asyncio.to_thread(folder.remove)
        elif error:
            await self._failed(job, folder, error, child)
        else:
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            said = f"the job's process was ended {how}; too little memory, or somebody has ended it"
            await self._failed(job, folder, said, child, again=True)

    async def _failed(
        self, job: Job, folder: JobFolder, error: str, child: Child | None = None, *, again: bool = False
    ) -> None:
        """again: it was nobody's mistake, and the next attempt goes on from the state that was kept."""
        log = child.heard.log if child else ""
        after = timedelta(seconds=_AGAIN_S * job.attempts) if again else None
        now = await self._again_while_away(_fail, job, self.name, error, log, after)
        event(logging.WARNING, "a job has failed", job=job.id, kind=job.kind, state=now.state, error=error)
        if now.state == "failed":
            await asyncio.to_thread(folder.remove)

    async def _cancelled(self, job: Job, folder: JobFolder, child: Child) -> None:
        await self._again_while_away(_cancelled, job, self.name, child.heard.log)
        await asyncio.to_thread(folder.remove)

    async def _last_words(self, job: Job, child: Child) -> None:
        with suppress(StoreError):
            await self._say(job, child)

    async def _take_back(self, *, all_workers: bool = False) -> None:
        for job in await self._write(_take_back, all_workers):
            event(logging.WARNING, "a job's worker was lost", job=job.id, kind=job.kind, state=job.state)

    def _sweep(self) -> None:
        """Removes folders of jobs that have ended."""
        place = self._folder(0).path.parent
        if not place.is_dir() or not self._store.is_embedded:
            return
        open_jobs = {str(job.id) for job in self._store.read(jobs.under_way)}
        for path in place.iterdir():
            if path.name not in open_jobs:
                JobFolder(path).remove()

    def _folder(self, job_id: int) -> JobFolder:
        return JobFolder(self._store.folder.jobs / str(job_id))

    async def _again_while_away(self, function: Callable[..., _T], *args: Any) -> _T:
        """As `_write`, again and again while the database is away, unless the service stops."""
        while True:
            try:
                return await self._write(function, *args)
            except StoreError as error:
                if not error.retry or self._stopping.is_set():
                    raise
                await self._either(self._stopping, timeout=2.0)

    async def _write(self, function: Callable[..., _T], *args: Any, **named: Any) -> _T:
        return await asyncio.wrap_future(self._store.submit(function, *args, **named))

    async def _read(self, function: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.wrap_future(self._store.query(function, *args))

    async def _either(self, *any_of: asyncio.Event | asyncio.Future[int], timeout: float) -> None:
        """Waits until one of them happens, or for so many seconds."""
        tasks: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(each.wait()) for each in any_of if isinstance(each, asyncio.Event)
        ]
        others: list[asyncio.Future[Any]] = [each for each in any_of if isinstance(each, asyncio.Future)]
        try:
            await asyncio.wait(tasks + others, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()


def _finish(connection: Any, job: Job, worker: str, result: dict[str, Any]) -> Job:
    """The result and the end of the job are one transaction."""
    said = KINDS[job.kind].finish(connection, job, result)
    return jobs.finish(connection, job.id, worker, said)


def _fail(connection: Any, job: Job, worker: str, error: str, log: str, again_after: timedelta | None) -> Job:
    now = jobs.fail(connection, job.id, worker, error, log=log, again_after=again_after)
    kinds.ended(connection, now)
    return now


def _cancelled(connection: Any, job: Job, worker: str, log: str) -> None:
    kinds.ended(connection, jobs.cancelled(connection, job.id, worker, log=log))


def _take_back(connection: Any, all_workers: bool) -> list[Job]:
    found = jobs.take_back(connection, all_workers=all_workers)
    for job in found:
        kinds.ended(connection, job)
    return found
