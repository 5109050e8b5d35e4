"""From an image to an inspection that is kept: inspect, put the image into its place, commit, and only then answer."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from patchbank.server.images import format_of
from patchbank.server.kept import heat_of, regions_of
from patchbank.server.policy import decided, policy_of
from patchbank.server.problems import Problem
from patchbank.server.stations import Station
from patchbank.store import inspections
from patchbank.store.inspections import Inspection, NewInspection
from patchbank.util.uuid7 import uuid7

if TYPE_CHECKING:
    from patchbank.server.models import Hosted, Inspected
    from patchbank.server.service import Service


@dataclass(frozen=True, slots=True)
class Part:
    """What is to be inspected. caller: who asks, for the key. key: the Idempotency-Key."""

    image: bytes
    caller: str
    serial: str | None = None
    batch: str | None = None
    key: str | None = None


async def inspect(service: Service, station: Station, hosted: Hosted, part: Part) -> tuple[Inspection, bool]:
    """The inspection of a part, kept, and whether it is new: a request with a key that was carried out is not carried
    out again. Raises Problem or ImageError; then nothing was kept."""
    if part.key is None:
        return await _inspect(service, station, hosted, part, None, None), True
    key = inspections.idempotency(part.caller, part.key)
    request = await asyncio.to_thread(_digest, station, part)
    with _under_way(service.keys_under_way, key):
        known = await service.read(inspections.replayed, key, request)
        if known is not None:
            return known, False
        return await _inspect(service, station, hosted, part, request, key), True


async def _inspect(
    service: Service, station: Station, hosted: Hosted, part: Part, request: str | None, key: str | None
) -> Inspection:
    inspected = await service.models.inspect(hosted, part.image)
    new = await asyncio.to_thread(_described, service, station, hosted, part, inspected)
    new = dataclasses.replace(new, request_sha256=request, idempotency_sha256=key)
    kept = await service.write(_insert, new)
    if kept.image_sha256 is not None:
        service.shadows.offer(kept.id, kept.stream_id, kept.image_sha256, kept.verdict)
    return kept


def _insert(connection: object, new: NewInspection) -> Inspection:
    kept = inspections.insert_one(connection, new)  # type: ignore[arg-type]  # the store's connection
    return inspections.get(connection, kept.id)  # type: ignore[arg-type]


def _described(service: Service, station: Station, hosted: Hosted, part: Part, inspected: Inspected) -> NewInspection:
    """The row; when this returns, the image is on the disk."""
    result = inspected.result
    said = decided(result, policy_of(station.deployment))
    at = datetime.fromisoformat(result.time)
    identifier = uuid7(at)
    verdict = said.verdict
    sample = verdict == "ok" and inspections.is_sample(identifier, service.preference("review.sample_rate"))
    return NewInspection(
        id=identifier,
        at=at,
        stream_id=station.stream.id,
        model_version_id=hosted.version_id,
        serial=part.serial,
        batch=part.batch,
        verdict=verdict,
        reason=said.reason,
        score=result.score,
        threshold=result.threshold,
        p_value=result.p_value,
        in_scene=result.in_distribution,
        scene_json=None if result.scene is None else {each.name: each.to_dict() for each in result.scene},
        latency_ms=1000 * inspected.seconds,
        image_sha256=service.store.blobs.put(part.image),
        image_format=format_of(part.image),
        image_size=len(part.image),
        width=result.image_size[1],
        height=result.image_size[0],
        sample=sample,
        needs_review=verdict == "review" or sample or (verdict == "ng" and service.preference("review.ng")),
        heat=heat_of(result),
        regions=regions_of(result),
    )


def _digest(station: Station, part: Part) -> str:
    """What is asked for, so that another request with the same key is known for one."""
    image = hashlib.sha256(part.image).hexdigest()
    return hashlib.sha256(json.dumps([station.stream.name, part.serial, part.batch, image]).encode()).hexdigest()


@contextmanager
def _under_way(keys: set[str], key: str) -> Iterator[None]:
    """While the block runs, a second request with the key is told to come again."""
    if key in keys:
        raise Problem(
            409,
            "in-flight",
            "A request with this Idempotency-Key is being carried out; ask again in a second",
            headers={"Retry-After": "1"},
        )
    keys.add(key)
    try:
        yield
    finally:
        keys.discard(key)
