"""What happens, as it happens."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from patchbank.server.access import needs
from patchbank.server.api.routing import router
from patchbank.server.service import service_of
from patchbank.store.events import Event

routes = router("events")


@routes.get(
    "/events",
    summary="Server-Sent Events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events, until one of both hangs up."}},
)
@needs("viewer", "read")
async def events(
    request: Request,
    last_event_id: Annotated[str | None, Header(max_length=100)] = None,
    kind: Annotated[
        list[str], Query(max_length=20, description="Only these: inspection, review, job, deployment, stream, ...")
    ] = [],  # noqa: B006  (FastAPI copies it)
) -> Response:
    """An event says what was written, by identifiers; read the rest. `missed`: some are lost, read the lists again."""
    chosen = frozenset(kind)

    def wanted(event: Event) -> bool:
        return not chosen or event.kind in chosen

    lines = await service_of(request).hub.stream(last_event_id, wanted)
    return StreamingResponse(lines, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
