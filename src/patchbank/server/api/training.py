"""What begins a job that makes a version, or asks its gate."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from fastapi import Path, Query
from pydantic import Field
from starlette.requests import Request

from patchbank import ConfigError
from patchbank.config import Config
from patchbank.errors import StoreConflictError, StoreValueError
from patchbank.server.access import caller_of, needs
from patchbank.server.api.jobs import JobTold, told
from patchbank.server.api.reading import Page
from patchbank.server.api.routing import Given, Id, Limit, Reason, Text, router
from patchbank.server.api.shown import summaries_of
from patchbank.server.jobs.kinds import newest_approved
from patchbank.server.problems import Problem, responses
from patchbank.server.service import service_of
from patchbank.store import datasets, inspections, jobs, models, reviews, values
from patchbank.store.inspections import Inspection
from patchbank.store.models import ModelVersion
from patchbank.store.schema import ACTIONS
from patchbank.store.values import NAME, Actor
from patchbank.validation import parse_polygons

if TYPE_CHECKING:
    from sqlalchemy import Connection

routes = router("training")

ModelName = Annotated[str, Path(min_length=1, max_length=NAME)]
MOST_ADDED = 1000
_FEWEST = 2  # images of a fit
_ACCEPTED = responses(404, 409)


class Options(Given):
    """Options of a model."""

    preset: Literal["fast", "balanced", "accurate"] | None = Field(None, description="What config does not say.")
    config: dict[str, Any] = Field(
        default_factory=dict, description="Options by name: docs/reference/configuration.md#config."
    )


class Fit(Options):
    """A model that is to be made of a dataset."""

    dataset_id: int = Field(ge=1, le=2**63 - 1)
    note: Text = ""
    reason: Reason


class Change(Given):
    """A version that is to follow another one."""

    version_id: int | None = Field(
        None, ge=1, le=2**63 - 1, description="The one that it follows; null: the newest one that was approved."
    )
    note: Text = Field("", description="Kept in the version.")
    reason: Reason


class Update(Change):
    """What is to be learned."""

    inspections: list[UUID] | None = Field(
        None, min_length=1, max_length=MOST_ADDED, description="Parts that people call good; null: the whole basket."
    )
    random_sample: bool = Field(
        False,
        description="They join the calibration: only for OK parts that chance has chosen (`sample`), all of them.",
    )


class Threshold(Change):
    """Another promise; null keeps what it is."""

    max_false_alarms: float | None = None
    confidence: float | None = None
    review_rate: float | None = None
    calibrate_on_suspects: bool | None = None


class Rollback(Change):
    """The way back within a model's file."""

    to: int | None = Field(None, ge=1, le=2**31 - 1, description="`bank_version`; null: the one before.")


class Why(Given):
    """Why something is done."""

    reason: Text = ""


@routes.post(
    "/models/{model}/fit", summary="Make a model", status_code=202, response_model=JobTold, responses=_ACCEPTED
)
@needs("engineer")
async def fit(request: Request, model: ModelName, given: Fit) -> JobTold:
    """A job makes a candidate of the dataset's images, which is frozen. The model is added if there is none of the
    name."""
    config = checked_config(given)
    by = caller_of(request).actor
    return await service_of(request).write(_fit, model, given, config, by)


@routes.post(
    "/models/{model}/update", summary="Learn good parts", status_code=202, response_model=JobTold, responses=_ACCEPTED
)
@needs("engineer")
async def update(request: Request, model: ModelName, given: Update) -> JobTold:
    """A job makes a candidate that has learned parts which people call good, and asks its gate."""
    return await service_of(request).write(_update, model, given, caller_of(request).actor)


@routes.post(
    "/models/{model}/threshold",
    summary="Promise something else",
    status_code=202,
    response_model=JobTold,
    responses=_ACCEPTED,
)
@needs("engineer")
async def threshold(request: Request, model: ModelName, given: Threshold) -> JobTold:
    """A job makes a candidate with another threshold, and asks its gate."""
    names = ("max_false_alarms", "confidence", "review_rate", "calibrate_on_suspects")
    options = {name: value for name in names if (value := getattr(given, name)) is not None}
    if not options:
        raise Problem(422, "invalid-request", f"expected at least one of {', '.join(names)}; got none")
    _config(options)
    args = {"options": options}
    return await service_of(request).write(_change, model, "threshold", given, args, caller_of(request).actor)


@routes.post(
    "/models/{model}/rollback",
    summary="Be as an earlier version",
    status_code=202,
    response_model=JobTold,
    responses=_ACCEPTED,
)
@needs("engineer")
async def rollback(request: Request, model: ModelName, given: Rollback) -> JobTold:
    """A job makes a candidate with the bank and threshold that a version's file had before. To deploy a version that
    was approved once is quicker: POST /streams/NAME/deployments."""
    args = {"to": given.to}
    return await service_of(request).write(_change, model, "rollback", given, args, caller_of(request).actor)


@routes.post(
    "/versions/{version_id}:gate", summary="Ask its gate", status_code=202, response_model=JobTold, responses=_ACCEPTED
)
@needs("engineer")
async def gate(request: Request, version_id: Id, why: Why) -> JobTold:
    """A job inspects all that people have labelled with a candidate, and with the version before."""
    return await service_of(request).write(_ask_gate, version_id, why.reason, caller_of(request).actor)


@routes.get("/models/{model}/basket", summary="What it could learn", response_model=Page, responses=responses(404))
@needs("viewer", "read")
async def basket(
    request: Request,
    model: ModelName,
    after: Annotated[UUID | None, Query(description="`next` of the page before.")] = None,
    limit: Limit = 50,
) -> Page:
    """Parts that the model flagged and people call good, the oldest first."""
    service = service_of(request)
    found = await service.read(_basket, model, after, limit)
    following = str(found[-1].id) if len(found) == limit else None
    return Page(items=await summaries_of(service, found), next=following)


def checked_config(given: Options) -> dict[str, Any]:
    """The options as plain values. Raises Problem for what is none. Paths are for the command line only: who may train
    must not have any file of the machine read."""
    chosen = given.config if given.preset is None else {"preset": given.preset, **given.config}
    config = _config(chosen)
    if not config.backbone.replace("_", "").isalnum():
        raise Problem(422, "invalid-config", "backbone: expected the name of a zoo backbone; got a path")
    for name in ("include", "ignore"):
        area = getattr(config, name)
        if area is not None and not parse_polygons(area):
            raise Problem(422, "invalid-config", f"{name}: expected polygons; a mask's file is for the command line")
    return config.to_dict()


def _config(options: dict[str, Any]) -> Config:
    try:
        return Config.from_dict(options)
    except ConfigError as error:
        raise Problem(422, "invalid-config", str(error)) from error


def _fit(connection: Connection, name: str, given: Fit, config: dict[str, Any], by: Actor) -> JobTold:
    model = models.ensure(connection, name, by=by)
    dataset = datasets.by_id(connection, given.dataset_id)
    learned = [each for each in datasets.all_images(connection, dataset.id) if each.role == "train"]
    if sum(not each.left_out for each in learned) < _FEWEST:
        raise StoreValueError(f"dataset_id: expected a dataset with at least {_FEWEST} images to learn")
    datasets.freeze(connection, dataset.id)
    args = {"dataset_id": dataset.id, "config": config, "note": given.note}
    return added(connection, "fit", args, by, given.reason, model.id)


def _update(connection: Connection, name: str, given: Update, by: Actor) -> JobTold:
    model = models.by_name(connection, name)
    version = _followed(connection, model.id, given.version_id)
    parts = _parts(connection, model.id, given)
    at = datetime.now(UTC).strftime("%Y-%m-%d %H.%M.%S.%f")
    dataset = datasets.add(connection, f"{name[:100]} update {at}", by=by)
    new = [
        datasets.NewImage(
            each.image_sha256 or "", f"{each.id}.{each.image_format}", "train", each.image_size or 0, each.id
        )
        for each in parts
    ]
    datasets.add_images(connection, dataset.id, new)
    datasets.freeze(connection, dataset.id)
    args = {
        "dataset_id": dataset.id,
        "version_id": version.id,
        "random_sample": given.random_sample,
        "note": given.note,
    }
    return added(connection, "update", args, by, given.reason, model.id)


def _parts(connection: Connection, model_id: int, given: Update) -> list[Inspection]:
    """The parts that are to be learned. Raises StoreValueError for those that must not be."""
    if given.inspections is None and given.random_sample:
        raise StoreValueError("inspections: expected the sampled parts; the basket holds flagged ones")
    if given.inspections is None:
        found = reviews.basket(connection, model_id, limit=MOST_ADDED)
        if not found:
            raise StoreConflictError(
                "the basket is empty: no flagged part is labelled good, or all are learned already"
            )
        return found
    versions = {each.id for each in models.versions(connection, model_id)}
    found = []
    for identifier in dict.fromkeys(given.inspections):
        part = inspections.get(connection, identifier)
        if part.label != "good" or part.model_version_id not in versions:
            raise StoreValueError(
                f"inspections: expected parts of this model that people call good; {identifier} is not"
            )
        if part.image_sha256 is None or part.image_gone_at is not None:
            raise StoreValueError(f"inspections: the image of {identifier} is gone")
        if given.random_sample and not part.sample:
            raise StoreValueError(
                f"random_sample: expected parts that chance has chosen; {identifier} was flagged, or sent to review"
            )
        found.append(part)
    return found


def _change(connection: Connection, name: str, kind: str, given: Change, args: dict[str, Any], by: Actor) -> JobTold:
    model = models.by_name(connection, name)
    version = _followed(connection, model.id, given.version_id)
    args = {**args, "version_id": version.id, "note": given.note}
    return added(connection, kind, args, by, given.reason, model.id)


def _ask_gate(connection: Connection, version_id: int, reason: str, by: Actor) -> JobTold:
    version = models.version(connection, version_id)
    if version.status != "candidate":
        raise StoreConflictError(f"the version is {version.status}; only a candidate has a gate before it")
    return added(connection, "gate", {"version_id": version_id}, by, reason, version.model_id)


def added(
    connection: Connection, kind: str, args: dict[str, Any], by: Actor, reason: str, model_id: int | None
) -> JobTold:
    """A new job, told. Raises StoreValueError if it changes a model without a reason."""
    if kind in ACTIONS:
        values.reason(reason)
    args = {**args, "user_id": by.user_id}
    return told(connection, jobs.add(connection, kind, args, by=by, reason=reason, model_id=model_id))


def _followed(connection: Connection, model_id: int, version_id: int | None) -> ModelVersion:
    """The version that a new one is to follow."""
    if version_id is None:
        found = newest_approved(connection, model_id)
        if found is None:
            raise StoreConflictError("no version of the model was approved yet; name one (version_id)")
        return found
    version = models.version(connection, version_id)
    if version.model_id != model_id:
        raise StoreValueError("version_id: expected a version of this model")
    return version


def _basket(connection: Connection, name: str, after: UUID | None, limit: int) -> list[Inspection]:
    return reviews.basket(connection, models.by_name(connection, name).id, after=after, limit=limit)
