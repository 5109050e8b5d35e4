"""Is it alive, is it ready, how is it doing: for systemd, load balancers and Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.access import EVERYBODY, GuardedRoute, needs
from patchbank.server.problems import busy, responses
from patchbank.server.service import service_of

router = APIRouter(route_class=GuardedRoute, tags=["operation"])


@router.get("/healthz", summary="Is the process alive?")
@needs(access=EVERYBODY)
async def healthz() -> dict[str, str]:
    """200 as long as the process answers at all."""
    return {"status": "ok"}


@router.get("/readyz", summary="Does it take work?", responses=responses(503))
@needs(access=EVERYBODY)
async def readyz(request: Request) -> dict[str, bool]:
    """200, or 503 while it starts or stops."""
    service = service_of(request)
    if not service.ready:
        reason = "stopping" if service.stopping else "starting"
        raise busy(f"The service is {reason}", kind="not-ready")
    return {"ready": True}


@router.get("/metrics", summary="Numbers for Prometheus", response_class=Response, responses=responses(401, 403))
@needs("admin", "metrics", local=True)
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    body, media_type = service_of(request).metrics.exposition()
    return Response(body, headers={"Content-Type": media_type})
