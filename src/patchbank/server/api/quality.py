"""What reviews of OK parts say: how many defects may pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Path, Query
from pydantic import Field
from starlette.requests import Request

from patchbank.server.access import needs
from patchbank.server.api.routing import Time, Told, router
from patchbank.server.escapes import upper_bound
from patchbank.server.problems import Problem
from patchbank.server.service import service_of
from patchbank.store import reviews, streams
from patchbank.store.values import NAME

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

routes = router("quality")


class Quality(Told):
    """What is known of the OK parts of a stream. Only parts that chance has chosen (`sample`) count; unsure ones do
    not."""

    since: Time | None = Field(description="null: from the beginning.")
    reviewed: int = Field(description="Sampled OK parts that people have called good or defective.")
    defects: int
    waiting: int = Field(description="Sampled parts that nobody has looked at yet.")
    confidence: float
    rate: float | None = Field(description="Share of defects among them; null: there are none.")
    bound: float = Field(description="At most this share of the OK parts is defective, with that confidence.")


@routes.get("/streams/{stream}/quality", summary="How many defects may pass", response_model=Quality)
@needs("viewer", "read")
async def get(
    request: Request,
    stream: Annotated[str, Path(min_length=1, max_length=NAME)],
    since: Annotated[
        Time | None, Query(description="With a time zone; null: since the present version was deployed.")
    ] = None,
    confidence: Annotated[float, Query(gt=0, lt=1)] = 0.95,
) -> Quality:
    """The bound of Clopper and Pearson. It holds if people look at all sampled parts, or at those that chance leaves:
    see `waiting`."""
    if since is not None and since.tzinfo is None:
        raise Problem(422, "invalid-request", "since: expected a time with a time zone")
    return await service_of(request).read(_quality, stream, since, confidence)


def _quality(connection: Connection, name: str, since: datetime | None, confidence: float) -> Quality:
    stream = streams.by_name(connection, name)
    active = streams.current(connection, stream.id)
    since = since or (active.from_at if active else None)
    found = reviews.sampled(connection, stream.id, since)
    return Quality(
        since=since,
        reviewed=found.reviewed,
        defects=found.defects,
        waiting=found.waiting,
        confidence=confidence,
        rate=found.defects / found.reviewed if found.reviewed else None,
        bound=upper_bound(found.reviewed, found.defects, confidence),
    )
