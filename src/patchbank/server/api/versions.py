"""Versions of models: who lets them decide, and where they do."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import Path
from pydantic import Field
from starlette.requests import Request

from patchbank.errors import StoreConflictError
from patchbank.server.access import caller_of, needs
from patchbank.server.api.routing import Given, Id, Reason, router
from patchbank.server.api.session import confirmed
from patchbank.server.api.shown import VersionTold, version_told
from patchbank.server.api.streams import Deployed, deployed
from patchbank.server.problems import Problem, responses
from patchbank.server.service import service_of
from patchbank.store import models, preferences, reviews, streams
from patchbank.store.passwords import LONGEST
from patchbank.store.values import NAME

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from patchbank.store.models import ModelVersion
    from patchbank.store.values import Actor

routes = router("versions")

StreamName = Annotated[str, Path(min_length=1, max_length=NAME)]


class Confirmed(Given):
    """What a person does on purpose."""

    reason: Reason
    password: str | None = Field(
        None, max_length=LONGEST, description="The person's own, once more. Programs on this machine have none."
    )


class Why(Given):
    """Why something is done."""

    reason: Reason


class PolicyGiven(Given):
    """What the stream makes of results that are neither OK nor over the threshold."""

    review: Literal["ng", "ok"] = Field("ng", description="The output of REVIEW.")
    out_of_scene: Literal["review", "ng"] = Field("review", description="The verdict about another scene.")


class NewDeployment(Confirmed):
    """What is to decide on a stream from now on, or to watch."""

    version_id: int | None = Field(ge=1, le=2**63 - 1, description="null: none.")
    kind: Literal["active", "shadow"] = Field("active", description="shadow: it only watches.")
    review_rate: float | None = Field(None, ge=0, le=1, description="null: the model's own.")
    policy: PolicyGiven | None = Field(None, description="null: parts that are not proven good do not pass.")


@routes.get("/versions/{version_id}", summary="A version of a model", response_model=VersionTold)
@needs("viewer", "read")
async def get(request: Request, version_id: Id) -> VersionTold:
    """With what its gate found."""
    return await service_of(request).read(_version, version_id)


@routes.post(
    "/versions/{version_id}:approve", summary="Let it decide", response_model=VersionTold, responses=responses(409, 429)
)
@needs("engineer")
async def approve(request: Request, version_id: Id, given: Confirmed) -> VersionTold:
    """A candidate may be deployed from now on. 409 if its gate was not passed, or has not been asked although people
    have labelled defects of the model; or, with the setting `approval.second_person`, for who has made the version."""
    service = service_of(request)
    await _confirm(request, given)
    return await service.write(_approve, version_id, given.reason, caller_of(request).actor)


@routes.post(
    "/versions/{version_id}:retire", summary="Take it away", response_model=VersionTold, responses=responses(409)
)
@needs("engineer")
async def retire(request: Request, version_id: Id, why: Why) -> VersionTold:
    """It cannot be deployed any more. 409 while it is."""
    return await service_of(request).write(_retire, version_id, why.reason, caller_of(request).actor)


@routes.post(
    "/streams/{stream}/deployments",
    summary="Choose what decides there",
    status_code=201,
    response_model=Deployed,
    responses=responses(409, 429),
)
@needs("engineer")
async def deploy(request: Request, stream: StreamName, new: NewDeployment) -> Deployed:
    """From the next part on this version decides, or watches. To go back is to deploy the version of before. Only an
    approved version may decide; a candidate may watch."""
    service = service_of(request)
    await _confirm(request, new)
    return await service.write(_deploy, stream, new, caller_of(request).actor)


async def _confirm(request: Request, given: Confirmed) -> None:
    if caller_of(request).kind == "person" and given.password is None:
        raise Problem(422, "password", "password: expected your password once more; got none")
    await confirmed(request, given.password or "")


def _version(connection: Connection, version_id: int) -> VersionTold:
    return version_told(connection, models.version(connection, version_id))


def _approve(connection: Connection, version_id: int, reason: str, by: Actor) -> VersionTold:
    found = models.version(connection, version_id)
    if why := _not_asked(connection, found):
        raise StoreConflictError(f"{why}; ask its gate (POST /versions/{version_id}:gate)")
    second = preferences.get(connection, "approval.second_person")
    return version_told(
        connection, models.approve(connection, version_id, by=by, reason=reason, second_person=bool(second))
    )


def _not_asked(connection: Connection, candidate: ModelVersion) -> str:
    """Why nothing is known of the candidate and the labelled defects; empty: it is."""
    gate = candidate.gate_json
    if gate is None and reviews.regression_set(connection, candidate.model_id, limit=1):
        return "people have labelled defects of this model, and nobody has looked whether the version still finds them"
    if (
        gate
        and "at" in gate
        and reviews.defects_since(connection, candidate.model_id, datetime.fromisoformat(gate["at"]))
    ):
        return "people have labelled further defects of this model since the version's gate was asked"
    return ""


def _retire(connection: Connection, version_id: int, reason: str, by: Actor) -> VersionTold:
    return version_told(connection, models.retire(connection, version_id, by=by, reason=reason))


def _deploy(connection: Connection, stream: str, new: NewDeployment, by: Actor) -> Deployed:
    made = streams.deploy(
        connection,
        streams.by_name(connection, stream).id,
        new.version_id,
        kind=new.kind,
        review_rate=new.review_rate,
        policy_json=new.policy.model_dump() if new.policy else None,
        by=by,
        reason=new.reason,
    )
    return deployed(connection, made)
