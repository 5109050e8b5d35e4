"""Why an inspection was judged as it was, and whether it would be again: its image, inspected once more by the very
version that decided."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from patchbank import Explanation, PatchCore
from patchbank.server.kept import heat_of
from patchbank.server.policy import Policy, decided, policy_of
from patchbank.server.problems import busy
from patchbank.store import heats, inspections, streams, values
from patchbank.store.inspections import Inspection

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from patchbank.server.archive import Archive
    from patchbank.store.engine import Store
    from patchbank.store.heats import Heat

REGIONS, NEIGHBOURS = 5, 3
_KEPT, _MOST_WAITING = 4, 8
_COMPARED = ("verdict", "score", "threshold", "p_value", "in_scene")


class Explanations:
    """Explains one inspection at a time, beside the line's work, and keeps the last ones: their pictures are asked for
    next."""

    def __init__(self, store: Store, archive: Archive) -> None:
        self._store, self._archive = store, archive
        self._kept: OrderedDict[UUID, Explanation] = OrderedDict()
        self._one = asyncio.Lock()
        self._waiting = 0

    async def of(self, row: Inspection, digest: str) -> Explanation:
        """The explanation of an inspection whose image is there. Raises Problem or ImageError."""
        async with self._turn():
            if row.id not in self._kept:
                model = await self._archive.at(row.model_version_id)
                self._kept[row.id] = await asyncio.to_thread(_explained, self._store, model, digest)
            self._kept.move_to_end(row.id)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[row.id]

    async def again(self, row: Inspection, digest: str) -> Replay:
        """What the version that decided says today. Raises Problem or ImageError."""
        heat, policy = await asyncio.wrap_future(self._store.query(_kept_of, row))
        async with self._turn():
            model = await self._archive.at(row.model_version_id)
            return await asyncio.to_thread(_replayed, self._store, model, row, digest, heat, policy)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._waiting >= _MOST_WAITING:
            raise busy("Too many explanations are wanted at the same time; try again in a few seconds", 5)
        self._waiting += 1
        try:
            async with self._one:
                yield
        finally:
            self._waiting -= 1


@dataclass(frozen=True, slots=True)
class Replay:
    """What an image is judged as today, by the version that decided. differences: the names of what is not as it was;
    none: it is identical, to the last bit, but for the map, which is kept as float16."""

    kept: dict[str, Any]
    now: dict[str, Any]
    differences: list[str]

    @property
    def identical(self) -> bool:
        """Says whether all is as it was."""
        return not self.differences


def _explained(store: Store, model: PatchCore, digest: str) -> Explanation:
    result = model.predict(store.blobs.get(digest))
    return model.explain(result, regions=REGIONS, neighbours=NEIGHBOURS)


def _kept_of(connection: Connection, row: Inspection) -> tuple[Heat | None, Policy]:
    """The grid, and what the deployment of that time made of results."""
    deployment = streams.that_decided(connection, row.stream_id, row.model_version_id, row.at)
    return inspections.heat_of(connection, row.id), policy_of(deployment)


def _replayed(
    store: Store, model: PatchCore, row: Inspection, digest: str, heat: Heat | None, policy: Policy
) -> Replay:
    result = model.predict(store.blobs.get(digest))
    kept = {name: getattr(row, name) for name in _COMPARED}
    now = {
        "verdict": decided(result, policy).verdict,
        "score": values.finite(result.score),
        "threshold": result.threshold,
        "p_value": result.p_value,
        "in_scene": result.in_distribution,
    }
    differences = [name for name in _COMPARED if kept[name] != now[name]]
    if heat is not None and not _same_map(heat, heat_of(result)):
        differences.append("map")
    return Replay(kept, now, differences)


def _same_map(kept: Heat, now: Heat | None) -> bool:
    if now is None or (kept.h, kept.w, kept.sigma) != (now.h, now.w, now.sigma):
        return False
    (before, counted), (after, counts) = heats.decode(kept), heats.decode(now)
    if counted is None or counts is None:
        return counted is counts and np.array_equal(before, after)
    return np.array_equal(before, after) and np.array_equal(counted, counts)
