"""Finished results that a line delivers: checked one by one, so that a bad one does not keep the others from being
kept."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from pydantic import ConfigDict, Field, ValidationError

from patchbank.errors import StoreConflictError, StoreNotFoundError, StoreValueError
from patchbank.server.api.routing import Given, Line, Name, Text
from patchbank.server.api.shown import Verdict
from patchbank.server.images import format_of
from patchbank.server.problems import Problem, as_problem, invalid
from patchbank.store import heats, inspections, models, streams, values
from patchbank.store.heats import Heat
from patchbank.store.inspections import MOST_REGIONS, NewInspection, Region
from patchbank.store.values import TEXT

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from patchbank.server.service import Service

MOST = inspections.MOST_TOGETHER
_AHEAD = timedelta(days=1)  # that a line's clock may be ahead of this one
_LARGEST = 2**31 - 1
Pixels = Annotated[int, Field(ge=0, le=_LARGEST)]
_SHA256 = "^[0-9a-f]{64}$"


class _Given(Given):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class RecordModel(_Given):
    """Which model decided: what `Result.made_by` says."""

    sha256: str = Field(pattern=_SHA256, description="Of the model's file.")
    version: int = Field(ge=1, le=_LARGEST, description="The bank's version in the file.")


class RecordImage(_Given):
    """The image. sha256: the name of the part that has its file; null: the line does not deliver it."""

    sha256: str | None = Field(None, pattern=_SHA256)
    width: int = Field(ge=1, le=_LARGEST)
    height: int = Field(ge=1, le=_LARGEST)


class RecordRegion(_Given):
    """A flagged region, in pixels of the image."""

    box: tuple[Pixels, Pixels, Pixels, Pixels] = Field(description="x, y, width, height.")
    area: Pixels
    peak: tuple[Pixels, Pixels] = Field(description="x, y.")
    peak_score: float
    contour: list[list[float]] | None = Field(None, description="Polygons: lists of x, y in turn.", max_length=10_000)


class RecordHeat(_Given):
    """The patch distances, `Result.distances`, of which the anomaly map is made."""

    h: int = Field(ge=1, le=heats.MOST_PATCHES, description="Rows of patches.")
    w: int = Field(ge=1, le=heats.MOST_PATCHES)
    input_h: int = Field(ge=1, le=65_536, description="Height to which the image was resized.")
    input_w: int = Field(ge=1, le=65_536)
    sigma: float = Field(ge=0, le=100, description="Smoothing of the map, in pixels of that.")
    grid: str = Field(description="Base64 of zlib of h x w float16, little-endian, row by row.")
    counted: str | None = Field(None, description="Base64 of zlib of h x w bits: the patches that count; null: all.")


class Record(_Given):
    """A finished result."""

    id: UUID = Field(description="UUID of version 7, of the time `at`; made by the line, once.")
    at: datetime = Field(description="When the image was inspected; with a time zone.")
    stream: Name | None = Field(None, description="Name of the stream; null: the token's.")
    serial: Name | None = None
    batch: Name | None = None
    source: Line = Field("line", description="Where the image came from.")
    verdict: Verdict
    reason: Text
    score: float | None = None
    threshold: float | None = None
    p_value: float | None = Field(None, ge=0, le=1)
    in_scene: bool | None = None
    scene: dict[str, Any] | None = None
    latency_ms: float | None = Field(None, ge=0)
    late: bool = Field(False, description="Came after the deadline: the PLC had ERROR.")
    model: RecordModel | None = None
    image: RecordImage | None = None
    regions: list[RecordRegion] = Field(default=[], max_length=MOST_REGIONS)
    heat: RecordHeat | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a record. id: as it was given; None if there is none."""

    id: str | None
    outcome: Literal["created", "known", "refused"]
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class _Delivered:
    """A record that is fit to be kept, as it came."""

    record: Record
    request_sha256: str


async def ingest(
    service: Service, given: Sequence[Any], images: Mapping[str, bytes], *, only: int | None
) -> list[Outcome]:
    """Keeps records, as JSON has them, with the images that were sent, by their digests. only: the stream that the
    caller may speak for; None = any. Returns what became of each, in order: it is on the disk. Raises StoreError if
    nothing could be kept."""
    checked = await asyncio.to_thread(lambda: [_checked(each, images) for each in given])
    wanted = {digest for each in checked if isinstance(each, _Delivered) and (digest := _digest_of(each.record))}
    await asyncio.to_thread(lambda: [service.store.blobs.put(images[digest]) for digest in sorted(wanted)])
    rate, review_ng = service.preference("review.sample_rate"), service.preference("review.ng")
    delivered = [each for each in checked if isinstance(each, _Delivered)]
    about = {digest: (format_of(images[digest]), len(images[digest])) for digest in wanted}
    outcomes, made = await service.write(_keep, delivered, about, only, rate, review_ng)
    for new in made:
        if new.image_sha256 is not None:
            service.shadows.offer(new.id, new.stream_id, new.image_sha256, new.verdict)
    kept = iter(outcomes)
    return [next(kept) if isinstance(each, _Delivered) else each for each in checked]


def _checked(given: Any, images: Mapping[str, bytes]) -> _Delivered | Outcome:
    """The record, or why it is refused."""
    name = given.get("id") if isinstance(given, dict) else None
    try:
        record = Record.model_validate(given)
        _check_time(record)
        _check_verdict(record)
        _check_image(record, images)
        heat_of(record)
    except ValidationError as error:
        return Outcome(_shown(name), "refused", invalid(error.errors(include_url=False, include_input=False)))
    except (Problem, StoreValueError) as error:
        return Outcome(_shown(name), "refused", as_problem(error))
    # What has its default is left out, so that a field that a later version adds changes no digest.
    written = json.dumps(record.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return _Delivered(record, hashlib.sha256(written.encode()).hexdigest())


def _keep(
    connection: Connection,
    delivered: Sequence[_Delivered],
    images: Mapping[str, tuple[str, int]],
    only: int | None,
    rate: float,
    review_ng: bool,
) -> tuple[list[Outcome], list[NewInspection]]:
    """What became of the records, and those that are new."""
    outcomes, made = [], []
    for each in delivered:
        name = str(each.record.id)
        try:
            with connection.begin_nested():
                new = _row(connection, each, images, only, rate, review_ng)
                kept = inspections.insert_one(connection, new)
        except (Problem, StoreValueError, StoreConflictError, StoreNotFoundError) as error:
            outcomes.append(Outcome(name, "refused", as_problem(error)))
        else:
            outcomes.append(Outcome(name, "created" if kept.outcome == "new" else "known"))
            if kept.outcome == "new":
                made.append(new)
    return outcomes, made


def _row(
    connection: Connection,
    delivered: _Delivered,
    images: Mapping[str, tuple[str, int]],
    only: int | None,
    rate: float,
    review_ng: bool,
) -> NewInspection:
    record = delivered.record
    version_id, remark = _version(connection, record.model)
    digest = _digest_of(record)
    format, size = images[digest] if digest else (None, None)
    # Chance chooses among those whose image a person can look at.
    sample = record.verdict == "ok" and digest is not None and inspections.is_sample(record.id, rate)
    return NewInspection(
        id=record.id,
        at=record.at,
        stream_id=_stream(connection, record.stream, only),
        model_version_id=version_id,
        serial=record.serial,
        batch=record.batch,
        source=record.source,
        verdict=record.verdict,
        reason=record.reason[: TEXT - len(remark)] + remark,
        score=record.score,
        threshold=record.threshold,
        p_value=record.p_value,
        in_scene=record.in_scene,
        scene_json=record.scene,
        latency_ms=record.latency_ms,
        late=record.late,
        image_sha256=digest,
        image_format=format,
        image_size=size,
        width=record.image.width if record.image else None,
        height=record.image.height if record.image else None,
        sample=sample,
        needs_review=record.verdict == "review" or sample or (record.verdict == "ng" and review_ng),
        request_sha256=delivered.request_sha256,
        heat=heat_of(record),
        regions=[
            Region(*each.box, each.area, *each.peak, each.peak_score, each.contour) for each in record.regions
        ],
    )  # fmt: skip


def _stream(connection: Connection, name: str | None, only: int | None) -> int:
    """The stream's id. Streams are not made here: a slip in a line's configuration would make one."""
    if name is None:
        if only is None:
            raise Problem(422, "which-stream", "stream: expected the name of a stream: the token is for all of them")
        return only
    try:
        stream = streams.by_name(connection, name)
    except StoreNotFoundError:
        raise Problem(
            404, "no-stream", f"There is no stream {name!r}; an engineer adds it, then deliver this again"
        ) from None
    if only not in (None, stream.id):
        raise Problem(403, "other-stream", "The token is for one stream, and this is another one")
    return stream.id


def _version(connection: Connection, made_by: RecordModel | None) -> tuple[int | None, str]:
    """The version that decided, and what to add to the reason where the registry does not have it."""
    if made_by is None:
        return None, ""
    found = models.that_made(connection, made_by.sha256, made_by.version)
    if found is not None:
        return found.id, ""
    return None, f" [by version {made_by.version} of the model file {made_by.sha256}, which is not registered here]"


def heat_of(record: Record) -> Heat | None:
    """The grid as it is kept, once it was decoded. Raises StoreValueError."""
    if (given := record.heat) is None:
        return None
    grid = _decoded(given.grid, "heat.grid")
    counted = None if given.counted is None else _decoded(given.counted, "heat.counted")
    return heats.checked(Heat(given.h, given.w, given.input_h, given.input_w, given.sigma, grid, counted))


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise StoreValueError(f"{what}: expected base64; {error}") from error


def _check_time(record: Record) -> None:
    if record.at.tzinfo is None:
        raise StoreValueError("at: expected a time with a time zone")
    if record.at > values.now() + _AHEAD:
        raise StoreValueError(f"at: {record.at.isoformat()} is in the future; set the line's clock")


def _check_verdict(record: Record) -> None:
    """Nothing is OK that its own numbers do not prove."""
    if record.verdict != "ok":
        return
    if record.score is None or record.threshold is None or record.p_value is None:
        raise StoreValueError("verdict: expected ok with score, threshold and p_value; one of them is missing")
    if not record.score <= record.threshold or record.in_scene is False or record.late:
        raise StoreValueError("verdict: ok, and the score is over the threshold, or it is out of scene, or late")


def _check_image(record: Record, images: Mapping[str, bytes]) -> None:
    digest = _digest_of(record)
    if digest is None:
        return
    if digest not in images:
        raise Problem(422, "missing-image", f"image: expected a part {digest}; got none")
    if hashlib.sha256(images[digest]).hexdigest() != digest:
        raise Problem(422, "damaged-image", f"image: the part {digest} has another digest than its name says")
    if format_of(images[digest]) == "unknown":
        raise Problem(422, "unusable-image", f"image: the part {digest} is not an image of a known format")


def _digest_of(record: Record) -> str | None:
    return record.image.sha256 if record.image else None


def _shown(name: object) -> str | None:
    return name[:100] if isinstance(name, str) else None
