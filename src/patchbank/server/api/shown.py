"""How inspections are told: rows with names in place of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pydantic import Field

from patchbank.server.api.routing import Time, Told
from patchbank.server.service import Service
from patchbank.store import inspections, models, streams
from patchbank.store.inspections import Inspection, Region
from patchbank.store.models import ModelVersion
from patchbank.store.reviews import Review

if TYPE_CHECKING:
    from sqlalchemy import Connection

Verdict = Literal["ok", "review", "ng", "error"]
Label = Literal["good", "defect", "unsure"]


class Model(Told):
    """The version of a model that has decided."""

    name: str
    version: int


class Image(Told):
    """The image's file. gone_at: when retention removed it."""

    sha256: str
    format: str | None
    size: int | None = Field(description="Bytes.")
    width: int | None
    height: int | None
    gone_at: Time | None


class Summary(Told):
    """An inspection."""

    id: UUID
    at: Time
    received_at: Time
    stream: str
    model: Model | None
    serial: str | None
    batch: str | None
    source: str
    verdict: Verdict
    reason: str
    score: float | None = Field(description="Higher = more anomalous.")
    threshold: float | None
    p_value: float | None = Field(description="Share of good images that look at least this odd.")
    in_scene: bool | None = Field(description="In distribution; null: not checked.")
    scene: Any
    latency_ms: float | None
    late: bool
    image: Image | None
    sample: bool
    needs_review: bool
    label: Label | None


class Area(Told):
    """A flagged region, in pixels of the image."""

    box: list[int] = Field(description="x, y, width, height.")
    area: int
    peak: list[int] = Field(description="x, y.")
    peak_score: float
    contour: list[list[float]] | None = Field(description="Polygons: lists of x, y in turn.")


class Detail(Summary):
    """An inspection with its regions, the worst first."""

    regions: list[Area]


class Said(Told):
    """What a person said of an inspection. withdrawn: what was said before was a mistake."""

    id: int
    label: Literal["good", "defect", "unsure", "withdrawn"]
    kind: str
    comment: str
    by: str
    at: Time
    supersedes_id: int | None


class VersionTold(Told):
    """A version of a model. number: within the model. bank_version: its number in the file's history."""

    id: int
    model: str
    number: int
    status: Literal["candidate", "approved", "retired"]
    status_at: Time
    status_by: str
    action: Literal["upload", "fit", "update", "threshold", "rollback"]
    calibrated: Literal["exact", "bound", "stale", "none"]
    threshold: float | None
    pixel_threshold: float | None
    max_false_alarms: float | None
    confidence: float | None
    images: int = Field(description="Training images.")
    size: int = Field(description="Vectors in the memory bank.")
    author: str
    note: str
    time: Time
    file_sha256: str
    file_size: int = Field(description="Bytes.")
    bank_version: int
    dataset_id: int | None
    parent_id: int | None = Field(description="The version that it was made from.")
    gate: Any = Field(description="What the gate found; null: it was not asked.")


class _Names(Told):
    streams: dict[int, str]
    versions: dict[int, Model]


async def summaries_of(service: Service, found: Sequence[Inspection]) -> list[Summary]:
    """The inspections, told."""
    names = await service.read(_names_of, found)
    return [Summary(**_told(each, names)) for each in found]


async def details_of(service: Service, found: Sequence[Inspection]) -> list[Detail]:
    """The inspections with their regions, told."""
    names, regions = await service.read(_names_and_regions_of, found)
    return [
        Detail(**_told(each, names), regions=[_area(region) for region in areas])
        for each, areas in zip(found, regions, strict=True)
    ]


def said_of(review: Review) -> Said:
    """A review, told."""
    return Said.model_validate(review)


def version_told(connection: Connection, version: ModelVersion) -> VersionTold:
    """A version, told."""
    row = {name: value for name, value in asdict(version).items() if name in VersionTold.model_fields}
    return VersionTold(**row, model=models.by_id(connection, version.model_id).name, gate=version.gate_json)


def _names_of(connection: Connection, found: Sequence[Inspection]) -> _Names:
    versions = {}
    for version_id in {each.model_version_id for each in found}:
        if version_id is not None:
            version = models.version(connection, version_id)
            name = models.by_id(connection, version.model_id).name
            versions[version_id] = Model(name=name, version=version.number)
    ids = {each.stream_id for each in found}
    return _Names(streams={each: streams.by_id(connection, each).name for each in ids}, versions=versions)


def _names_and_regions_of(connection: Connection, found: Sequence[Inspection]) -> tuple[_Names, list[list[Region]]]:
    return _names_of(connection, found), [inspections.regions_of(connection, each.id) for each in found]


def _told(row: Inspection, names: _Names) -> dict[str, Any]:
    values = {name: value for name, value in asdict(row).items() if name in Summary.model_fields}
    image = None
    if row.image_sha256 is not None:
        image = Image(
            sha256=row.image_sha256,
            format=row.image_format,
            size=row.image_size,
            width=row.width,
            height=row.height,
            gone_at=row.image_gone_at,
        )
    return values | {
        "stream": names.streams[row.stream_id],
        "model": None if row.model_version_id is None else names.versions[row.model_version_id],
        "scene": row.scene_json,
        "image": image,
    }


def _area(region: Region) -> Area:
    return Area(
        box=[region.x, region.y, region.w, region.h],
        area=region.area,
        peak=[region.peak_x, region.peak_y],
        peak_score=region.peak_score,
        contour=region.contour,
    )
