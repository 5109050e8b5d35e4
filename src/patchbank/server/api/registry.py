"""Models: what there is, what a version is, how two differ, what their thresholds are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Path, Query
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from patchbank import PatchCore
from patchbank.server.access import caller_of, needs
from patchbank.server.api.bodies import media_type
from patchbank.server.api.reading import cached, not_modified
from patchbank.server.api.routing import PREFIX, Text, Time, Told, router
from patchbank.server.api.shown import VersionTold, version_told
from patchbank.server.curve import Choice, choices, scores_of
from patchbank.server.edge import stream_body
from patchbank.server.problems import Problem, responses
from patchbank.server.service import service_of
from patchbank.server.uploading import SECONDS, upload
from patchbank.store import listing, models, streams, values
from patchbank.store.listing import Filter
from patchbank.store.models import ModelVersion
from patchbank.store.values import NAME

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from patchbank.store.models import Model as Row

routes = router("models")

ModelName = Annotated[str, Path(min_length=1, max_length=NAME)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
_MOST_LABELLED = 5  # pages of 200
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILE = {"requestBody": {"required": True, "content": {"application/octet-stream": _BINARY}}}
_KNOWN: dict[int | str, dict[str, Any]] = {200: {"model": VersionTold, "description": "The file was there before."}}


class Used(Told):
    """Where a version decides, or watches."""

    stream: str
    kind: str
    version: int


class ModelTold(Told):
    """A model. latest: its newest version; null: it has none."""

    name: str
    created_at: Time
    created_by: str
    archived_at: Time | None
    versions: int = Field(description="How many.")
    latest: VersionTold | None
    used: list[Used]


class DiffTold(Told):
    """How two versions differ. lineage: one was made from the other; then `changes` says what changed: images, vectors,
    and the calibration images' scores on both sides. null: they were fitted apart."""

    before: VersionTold
    after: VersionTold
    lineage: bool
    changes: dict[str, Any] | None


class ChoiceTold(Told):
    """A promise, and the threshold that keeps it."""

    max_false_alarms: float
    confidence: float = Field(description="0: on average.")
    threshold: float
    pixel_threshold: float
    satisfied: bool = Field(description="The images are enough; else the threshold is their largest score.")
    supported: float = Field(description="The smallest rate that they support.")
    needed: int | None = Field(description="Images that the promise needs; null: no number is enough.")
    guarantee: str
    defects_passed: int = Field(description="Of the labelled defects.")
    good_flagged: int = Field(description="Of the labelled good parts.")


class Thresholds(Told):
    """What thresholds a version's held-out good images support."""

    version: VersionTold
    images: int = Field(description="Held-out good images that count.")
    suspects: int = Field(description="Those that look defective, and do not count.")
    good_scores: list[float] = Field(description="Their scores, ascending; at most about 2 000.")
    labelled_defects: int
    labelled_good: int
    choices: list[ChoiceTold]


@routes.get("/models", summary="All models", response_model=list[ModelTold])
@needs("viewer", "read")
async def listed(request: Request, archived: Annotated[bool, Query()] = False) -> list[ModelTold]:
    """By name. archived: with those that nobody uses any more."""
    return await service_of(request).read(_all, archived)


@routes.post(
    "/models",
    summary="Upload a model file",
    status_code=201,
    response_model=VersionTold,
    responses=responses(409, 415) | _KNOWN,
    openapi_extra=_FILE,
)
@needs("engineer")
async def add(
    request: Request,
    name: Annotated[str, Query(min_length=1, max_length=NAME, description="Of the model; made if there is none.")],
    reason: Annotated[Text, Query()] = "",
) -> Response:
    """The body is a `.patchbank` file. It is opened with all limits, scores its own images once more, and becomes a
    candidate."""
    service = service_of(request)
    if (kind := media_type(request)) != "application/octet-stream":
        raise Problem(415, "media-type", f"expected a model file as application/octet-stream; got {kind!r}")
    name = values.name(name, "name")
    stream_body(request, service.settings.max_model, SECONDS)
    by = caller_of(request).actor
    version, is_new = await upload(service, request.stream(), name, by=by, reason=reason)
    told = await service.read(version_told, version)
    location = f"{PREFIX}/versions/{version.id}"
    return JSONResponse(told.model_dump(mode="json"), 201 if is_new else 200, {"Location": location})


@routes.get("/models/{model}", summary="A model", response_model=ModelTold)
@needs("viewer", "read")
async def get(request: Request, model: ModelName) -> ModelTold:
    """With its newest version, and where it is used."""
    return await service_of(request).read(_one, model)


@routes.get("/models/{model}/versions", summary="Its versions", response_model=list[VersionTold])
@needs("viewer", "read")
async def versions(request: Request, model: ModelName) -> list[VersionTold]:
    """The newest first."""
    return await service_of(request).read(_versions, model)


@routes.get(
    "/models/{model}/diff", summary="How two versions differ", response_model=DiffTold, responses=responses(409)
)
@needs("viewer", "read")
async def diff(
    request: Request,
    model: ModelName,
    before: Annotated[int, Query(alias="from", ge=1, le=2**31 - 1)],
    after: Annotated[int, Query(alias="to", ge=1, le=2**31 - 1)],
) -> DiffTold:
    """Numbers of versions."""
    service = service_of(request)
    old, new = await service.read(_numbered, model, before), await service.read(_numbered, model, after)
    earlier, later = await service.archive.whole(old.id), await service.archive.whole(new.id)
    changes = await run_in_threadpool(_changes, earlier, old.bank_version, later, new.bank_version)
    return DiffTold(before=old, after=new, lineage=changes is not None, changes=changes)


@routes.get(
    "/models/{model}/thresholds",
    summary="What its thresholds are worth",
    response_model=Thresholds,
    responses=responses(409),
)
@needs("viewer", "read")
async def thresholds(
    request: Request,
    model: ModelName,
    version: Annotated[
        int | None, Query(ge=1, le=2**31 - 1, description="Its number; the newest, if not given.")
    ] = None,
) -> Thresholds:
    """Rates of false alarms and confidences, with the threshold that each needs, whether the images are enough for it,
    and what it would have meant for the parts that people have labelled. 409: a model without calibration."""
    service = service_of(request)
    chosen = await service.read(_chosen, model, version)
    calibration = (await service.archive.at(chosen.id)).calibration
    if calibration is None:
        raise Problem(409, "no-calibration", "The model was fitted without calibration: it has no thresholds")
    defects, good = await service.read(_labelled, chosen.id)
    found = await run_in_threadpool(choices, calibration, defects, good)
    return Thresholds(
        version=chosen,
        images=calibration.support.n,
        suspects=len(calibration.images) - calibration.support.n,
        good_scores=scores_of(calibration),
        labelled_defects=len(defects),
        labelled_good=len(good),
        choices=[_choice(each) for each in found],
    )


@routes.get(
    "/models/{model}/versions/{number}/file",
    summary="The model file",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "The file."}},
)
@needs("viewer", "read")
async def file(request: Request, model: ModelName, number: Number) -> Response:
    """For lines. The ETag is the file's SHA-256: compare it with what has arrived."""
    service = service_of(request)
    version = await service.read(_numbered, model, number)
    if same := not_modified(request, version.file_sha256):
        return same
    path = service.store.models.path(version.file_sha256)
    if not await run_in_threadpool(path.is_file):
        raise Problem(404, "no-file", "The version's file is not there; restore it from a backup")
    headers = cached(version.file_sha256)
    name = f"{version.file_sha256[:16]}.patchbank"
    return FileResponse(path, media_type="application/octet-stream", filename=name, headers=headers)


def _all(connection: Connection, archived: bool) -> list[ModelTold]:
    current = streams.all_current(connection)
    return [_told(connection, each, current) for each in models.listed(connection, archived=archived)]


def _one(connection: Connection, name: str) -> ModelTold:
    return _told(connection, models.by_name(connection, name), streams.all_current(connection))


def _told(connection: Connection, model: Row, current: list[streams.Deployment]) -> ModelTold:
    found = models.versions(connection, model.id)
    numbers = {each.id: each.number for each in found}
    used = [
        Used(stream=streams.by_id(connection, each.stream_id).name, kind=each.kind, version=numbers[version_id])
        for each in current
        if (version_id := each.model_version_id) in numbers
    ]
    return ModelTold(
        name=model.name,
        created_at=model.created_at,
        created_by=model.created_by,
        archived_at=model.archived_at,
        versions=len(found),
        latest=version_told(connection, found[0]) if found else None,
        used=used,
    )


def _versions(connection: Connection, name: str) -> list[VersionTold]:
    found = models.versions(connection, models.by_name(connection, name).id)
    return [version_told(connection, each) for each in found]


def _numbered(connection: Connection, name: str, number: int) -> VersionTold:
    return version_told(connection, models.numbered(connection, models.by_name(connection, name).id, number))


def _chosen(connection: Connection, name: str, number: int | None) -> VersionTold:
    if number is not None:
        return _numbered(connection, name, number)
    found: list[ModelVersion] = models.versions(connection, models.by_name(connection, name).id)
    if not found:
        raise Problem(404, "no-version", f"Model {name!r} has no version yet")
    return version_told(connection, found[0])


def _labelled(connection: Connection, version_id: int) -> tuple[list[float], list[float]]:
    """The scores of the newest labelled defects and good parts that the version has inspected."""
    scores: dict[str, list[float]] = {"defect": [], "good": []}
    for label, found in scores.items():
        cursor = None
        for _ in range(_MOST_LABELLED):
            chosen = Filter(model_version_id=version_id, label=label)
            page = listing.page(connection, chosen, cursor=cursor, limit=200)
            found += [each.score for each in page.items if each.score is not None]
            if (cursor := page.next) is None:
                break
    return scores["defect"], scores["good"]


def _changes(earlier: PatchCore, before: int, later: PatchCore, after: int) -> dict[str, Any] | None:
    """What changed between two versions of one history, told by the file that holds both."""
    holder, other = (later, earlier) if len(later.versions) >= len(earlier.versions) else (earlier, later)
    known = [each.to_dict() for each in holder.versions[: len(other.versions)]]
    if known != [each.to_dict() for each in other.versions]:
        return None
    return holder.diff(before, after).to_dict()


def _choice(choice: Choice) -> ChoiceTold:
    return ChoiceTold.model_validate(choice)
