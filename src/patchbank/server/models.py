"""The models that the service holds in memory, and how an image gets to one: bounded, counted, and with a named refusal
where there is no result. Which of them decides where, `stations.py` knows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from patchbank import Busy, ImageError, Inspector, PatchCore, Result, Runtime
from patchbank.server.metrics import Metrics
from patchbank.server.problems import Problem, busy
from patchbank.server.settings import Settings

_RETRY_S = 0.02


@dataclass(eq=False)
class Hosted:
    """A version of a model, in memory. version_id: its row; number: what people call it. waiting: images that wait or
    are inspected."""

    name: str
    version_id: int
    number: int
    model: PatchCore
    inspector: Inspector
    waiting: int = 0


@dataclass(frozen=True, eq=False)
class Inspected:
    """A result, and how long it took from the image's hand-over, in seconds."""

    result: Result
    seconds: float


class ModelHost:
    """Inspects images with models in memory."""

    def __init__(self, settings: Settings, runtime: Runtime, metrics: Metrics) -> None:
        self._settings, self._metrics, self.runtime = settings, metrics, runtime
        self._hosted: dict[int, Hosted] = {}
        metrics.gauge("patchbank_images_under_way", "Images that wait or are inspected", ("model",), self._lengths)

    def get(self, version_id: int) -> Hosted | None:
        """The version, if it is in memory."""
        return self._hosted.get(version_id)

    def hold(self, name: str, version_id: int, number: int, model: PatchCore) -> Hosted:
        """Takes a version into use."""
        inspector = model.inspector(workers=self._settings.workers, queue=self._settings.queue)
        hosted = self._hosted[version_id] = Hosted(name, version_id, number, model, inspector)
        return hosted

    def drop_all_but(self, version_ids: set[int]) -> list[Hosted]:
        """Takes the others out of use. Returns them: `close` waits for the images that they have begun."""
        return [self._hosted.pop(each) for each in set(self._hosted) - version_ids]

    def is_busy(self) -> bool:
        """Says whether somebody waits for a result."""
        return any(hosted.waiting for hosted in self._hosted.values())

    def check_room(self, hosted: Hosted) -> None:
        """Raises Problem if an image would be refused now: to be asked before its body is read."""
        if self._full(hosted):
            raise self._refusal(hosted)

    async def inspect(self, hosted: Hosted, image: Any, timeout: float | None = None) -> Inspected:
        """The result of an image. Raises Problem where there is none: busy, too slow; ImageError for what is none."""
        limit = min(timeout or self._settings.timeout, self._settings.timeout)
        start = time.perf_counter()
        try:
            future = hosted.inspector.submit(image)
        except Busy:
            raise self._refusal(hosted) from None
        hosted.waiting += 1
        try:
            result = await asyncio.wait_for(asyncio.wrap_future(future), limit)
        except TimeoutError:
            self._metrics.refused.labels(hosted.name, "timeout").inc()
            raise busy(f"There was no result within {limit:g} s", 5, "timeout") from None
        except ImageError:
            self._metrics.refused.labels(hosted.name, "image").inc()
            raise
        finally:
            hosted.waiting -= 1
        seconds = time.perf_counter() - start
        self._metrics.inspection_seconds.labels(hosted.name).observe(seconds)
        self._metrics.inspections.labels(hosted.name, str(result.verdict)).inc()
        return Inspected(result, seconds)

    async def inspect_all(self, hosted: Hosted, images: Sequence[Any], timeout: float | None = None) -> list[Result]:
        """The results of a batch, in order. It is refused as one image is; then its images wait for room."""
        self.check_room(hosted)
        gate = asyncio.Semaphore(self._settings.workers)

        async def one(image: Any) -> Result:
            async with gate:
                while self._full(hosted):
                    await asyncio.sleep(_RETRY_S)
                return (await self.inspect(hosted, image, timeout)).result

        tasks = [asyncio.create_task(one(image)) for image in images]
        try:
            async with asyncio.timeout(self._settings.timeout * len(images)):
                return list(await asyncio.gather(*tasks))
        except TimeoutError:
            raise self._refusal(hosted) from None
        finally:
            for task in tasks:
                task.cancel()

    def close(self) -> None:
        """Ends all work."""
        for hosted in self.drop_all_but(set()):
            hosted.inspector.close(cancel=True)

    def _full(self, hosted: Hosted) -> bool:
        return hosted.waiting >= self._settings.workers + self._settings.queue

    def _refusal(self, hosted: Hosted) -> Problem:
        self._metrics.refused.labels(hosted.name, "busy").inc()
        waiting = self._settings.queue
        return busy(f"Model {hosted.name!r} is busy: {waiting} images wait already; try again in a second")

    def _lengths(self) -> list[tuple[tuple[str, ...], float]]:
        counts: dict[str, int] = {}
        for hosted in self._hosted.values():
            counts[hosted.name] = counts.get(hosted.name, 0) + hosted.waiting
        return [((name,), float(count)) for name, count in counts.items()]
