"""Versions that only watch: what they would have said of the parts that others decide.

They are asked when nobody waits for a verdict, one part at a time. What comes while too many wait is dropped and
counted: a shadow is a sample of the parts, and the line does not wait for it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from patchbank import PatchbankError
from patchbank.errors import StoreError
from patchbank.server.logs import logger
from patchbank.server.policy import decided, policy_of
from patchbank.store import statistics
from patchbank.store.statistics import ShadowResult

if TYPE_CHECKING:
    from patchbank.server.metrics import Metrics
    from patchbank.server.models import Hosted, ModelHost
    from patchbank.server.stations import Stations
    from patchbank.store.engine import Store

MOST_WAITING = 16
_PATIENCE_S = 30.0  # that a part waits for a quiet moment
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class _Part:
    """A part that was decided. digest: of its image, which is kept."""

    inspection_id: UUID
    stream_id: int
    digest: str
    verdict: str
    until: float


class Shadows:
    """Asks the watching versions, in one task."""

    def __init__(self, store: Store, stations: Stations, models: ModelHost, metrics: Metrics) -> None:
        self._store, self._stations, self._models, self._metrics = store, stations, models, metrics
        self._waiting: deque[_Part] = deque()
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Ends. What waits is dropped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def offer(self, inspection_id: UUID, stream_id: int, digest: str, verdict: str) -> None:
        """Hands over a part that was decided and is kept. It costs nothing where no version watches."""
        station = self._stations.by_id(stream_id)
        if station is None or station.shadow is None:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._count(station.shadow, "dropped")
            return
        self._waiting.append(_Part(inspection_id, stream_id, digest, verdict, time.monotonic() + _PATIENCE_S))
        self._some.set()

    async def _work(self) -> None:
        while True:
            await self._some.wait()
            while self._waiting:
                part = self._waiting[0]
                station = self._stations.by_id(part.stream_id)
                shadow = station.shadow if station else None
                if shadow is None:
                    self._waiting.popleft()
                elif time.monotonic() > part.until:
                    self._waiting.popleft()
                    self._count(shadow, "dropped")
                elif self._models.is_busy():
                    await asyncio.sleep(_POLL_S)
                else:
                    self._waiting.popleft()
                    self._count(shadow, await self._ask(part, shadow))
            self._some.clear()

    async def _ask(self, part: _Part, shadow: Hosted) -> str:
        station = self._stations.by_id(part.stream_id)
        try:
            image = await asyncio.to_thread(self._store.blobs.get, part.digest)
            result = await asyncio.wrap_future(shadow.inspector.submit(image))
            said = decided(result, policy_of(station.shadow_deployment if station else None))
            about = ShadowResult(
                part.inspection_id,
                shadow.version_id,
                said.verdict,
                result.score,
                result.threshold,
                result.p_value,
                said.verdict != part.verdict,
            )
            await asyncio.wrap_future(self._store.submit(statistics.keep_shadow, [about]))
        except (PatchbankError, StoreError) as error:
            logger.warning("a watching version said nothing of %s: %s", part.inspection_id, error)
            return "failed"
        except Exception:  # noqa: BLE001  (whatever it is, the line goes on, and the log has it)
            logger.exception("a watching version failed on %s", part.inspection_id)
            return "failed"
        return "done"

    def _count(self, shadow: Hosted, outcome: str) -> None:
        self._metrics.shadows.labels(shadow.name, outcome).inc()
