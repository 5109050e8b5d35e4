"""What the endpoints work with: the options, the models, the numbers, and whether the service is ready or stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from starlette.requests import Request

from patchbank.server.metrics import Metrics
from patchbank.server.problems import busy
from patchbank.server.settings import Settings

if TYPE_CHECKING:
    from patchbank.server.models import ModelHost

BODIES = 8  # of the largest size that may be in memory at a time


class Service:
    """The service of one application."""

    def __init__(self, settings: Settings, models: ModelHost, metrics: Metrics) -> None:
        self.settings, self.models, self.metrics = settings, models, metrics
        self.started = self.stopping = False
        self._requests = self._held = 0
        self._stop = asyncio.Event()
        metrics.gauge("patchbank_requests_under_way", "Requests that are being answered", (), self._under_way)
        metrics.gauge("patchbank_ready", "1 if the service is ready", (), lambda: [((), float(self.ready))])

    @property
    def ready(self) -> bool:
        """Says whether the service takes work."""
        return self.started and not self.stopping

    def stop(self) -> None:
        """Makes the service not ready; streams of events end. Requests that come all the same are answered."""
        self.stopping = True
        self._stop.set()

    def close(self) -> None:
        """Lets go of everything. Images that wait get no result."""
        self.models.close()

    async def until_stop(self) -> None:
        """Waits until the service stops: for answers that have no end of their own."""
        await self._stop.wait()

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

    def _under_way(self) -> list[tuple[tuple[str, ...], float]]:
        return [((), float(self._requests))]


def service_of(request: Request) -> Service:
    """The service that answers the request."""
    return cast(Service, request.app.state.service)
