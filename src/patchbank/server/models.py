"""The models that the service holds in memory, each under its name, and how an image gets to one: bounded, counted, and
with a named refusal where there is no result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchbank import ConfigError, ImageError, PatchCore, Result, Runtime
from patchbank.server.metrics import Metrics
from patchbank.server.pool import Busy, Pool
from patchbank.server.problems import Problem, busy
from patchbank.server.settings import Settings

_RETRY_S = 0.02


@dataclass(frozen=True, eq=False)
class Hosted:
    """A model that is in memory. version: the number of the bank's version, as text."""

    name: str
    model: PatchCore
    inspector: Pool

    @property
    def version(self) -> str:
        """Returns the version's number."""
        return str(self.model.made_by.version)


class ModelHost:
    """The models of a service."""

    def __init__(self, settings: Settings, runtime: Runtime, metrics: Metrics) -> None:
        self._settings, self._runtime, self._metrics = settings, runtime, metrics
        self._hosted: dict[str, Hosted] = {}
        self._waiting: dict[str, int] = {}
        metrics.gauge("patchbank_images_under_way", "Images that wait or are inspected", ("model",), self._lengths)

    @property
    def names(self) -> list[str]:
        """Returns the names of the models, in order."""
        return sorted(self._hosted)

    def load(self, path: str | Path) -> PatchCore:
        """Reads a model file. Raises ModelFileError or BackboneError."""
        return PatchCore.load(path, runtime=self._runtime)

    def serve(self, name: str, model: PatchCore) -> None:
        """Holds a model under a name. One that had the name ends what it has begun."""
        before = self._hosted.get(name)
        self._hosted[name] = Hosted(name, model, Pool(model, self._settings.workers, self._settings.queue))
        self._waiting.setdefault(name, 0)
        if before:
            before.inspector.close()

    def get(self, name: str, version: str | None = None) -> Hosted:
        """The model of that name. Raises Problem if there is none, or none of that version."""
        hosted = self._hosted.get(name)
        if hosted is None:
            raise Problem(404, "no-model", f"There is no model {name!r} here; there is {_listed(self.names)}")
        if version is not None and version != hosted.version:
            raise Problem(
                404, "no-version", f"Model {name!r} has no version {version!r} here; version {hosted.version} is in use"
            )
        return hosted

    def check_room(self, name: str) -> None:
        """Raises Problem if an image would be refused now: to be asked before its body is read."""
        if self._full(name):
            raise self._refusal(name)

    async def inspect(self, hosted: Hosted, image: Any, timeout: float | None = None) -> Result:
        """The result of an image. Raises Problem where there is none: busy, too slow; ImageError for what is none."""
        limit = min(timeout or self._settings.timeout, self._settings.timeout)
        start = time.perf_counter()
        try:
            future = hosted.inspector.submit(image)
        except Busy:
            raise self._refusal(hosted.name) from None
        self._waiting[hosted.name] += 1
        try:
            result = await asyncio.wait_for(asyncio.wrap_future(future), limit)
        except TimeoutError:
            self._metrics.refused.labels(hosted.name, "timeout").inc()
            raise busy(f"There was no result within {limit:g} s", 5, "timeout") from None
        except ImageError:
            self._metrics.refused.labels(hosted.name, "image").inc()
            raise
        finally:
            self._waiting[hosted.name] -= 1
        self._metrics.inspection_seconds.labels(hosted.name).observe(time.perf_counter() - start)
        self._metrics.inspections.labels(hosted.name, str(result.verdict)).inc()
        return result

    async def inspect_all(self, hosted: Hosted, images: Sequence[Any], timeout: float | None = None) -> list[Result]:
        """The results of a batch, in order. It is refused as one image is; then its images wait for room."""
        self.check_room(hosted.name)
        gate = asyncio.Semaphore(self._settings.workers)

        async def one(image: Any) -> Result:
            async with gate:
                while self._full(hosted.name):
                    await asyncio.sleep(_RETRY_S)
                return await self.inspect(hosted, image, timeout)

        tasks = [asyncio.create_task(one(image)) for image in images]
        try:
            async with asyncio.timeout(self._settings.timeout * len(images)):
                return list(await asyncio.gather(*tasks))
        except TimeoutError:
            raise self._refusal(hosted.name) from None
        finally:
            for task in tasks:
                task.cancel()

    def close(self) -> None:
        """Ends all work."""
        for hosted in self._hosted.values():
            hosted.inspector.close()

    def _full(self, name: str) -> bool:
        return self._waiting[name] >= self._settings.workers + self._settings.queue

    def _refusal(self, name: str) -> Problem:
        self._metrics.refused.labels(name, "busy").inc()
        waiting = self._settings.queue
        return busy(f"Model {name!r} is busy: {waiting} images wait already; try again in a second")

    def _lengths(self) -> list[tuple[tuple[str, ...], float]]:
        return [((name,), float(count)) for name, count in self._waiting.items()]


def name_of(path: str | Path) -> str:
    """The name that a model file given on the command line is served under: its stem. Raises ConfigError for one that
    is no name."""
    name = Path(path).stem
    if not 0 < len(name) <= 64 or not name[0].isalnum() or not all(char.isalnum() or char in "._- " for char in name):
        raise ConfigError(
            f"{path}: expected a file named with letters, digits, '.', '_', '-' and spaces, at most 64; the name is "
            "the model's"
        )
    return name


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "none"
