"""The line: for each station the newest verdict and what is around it, as it happens.

The page asks for a pulse every second, and hears of new parts by events. Two seconds without a pulse, and it says that
it knows nothing: an old verdict must not look like a present one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from patchbank.server.access import access_of, caller_of
from patchbank.server.api import drift, reading
from patchbank.server.api import streams as api
from patchbank.server.api.routing import Id
from patchbank.server.api.shown import Summary, summaries_of
from patchbank.server.service import Service, service_of
from patchbank.server.web import formats
from patchbank.server.web.language import language_of
from patchbank.server.web.rendering import page
from patchbank.server.web.routing import back, by_script, form, given, like, pages
from patchbank.store import listing, statistics, streams
from patchbank.store.inspections import Inspection
from patchbank.store.statistics import Hour

if TYPE_CHECKING:
    from sqlalchemy import Connection

routes = pages()
SILENT = timedelta(seconds=25)  # lines report every ten seconds
SHOWN, HOURS = 20, 12
_HEIGHT = 60.0  # of the highest bar


@dataclass(frozen=True)
class Bar:
    """An hour, and the heights of its stacked bar."""

    hour: Hour
    ok: float
    review: float
    ng: float

    @property
    def rejected(self) -> int:
        """Returns how many parts were NG or ERROR."""
        return self.hour.ng + self.hour.error


@dataclass(frozen=True)
class Station:
    """A stream as the page shows it. silent: its line has not reported for a while. waiting: images in the queue; None
    = this service does not inspect for it. strange: how many of the last parts were out of distribution."""

    stream: api.StreamTold
    latest: list[Summary]
    bars: list[Bar]
    waiting: int | None
    silent: bool
    drift: drift.Findings

    @property
    def newest(self) -> Summary | None:
        """Returns the newest inspection."""
        return self.latest[0] if self.latest else None

    @property
    def strange(self) -> int:
        """Returns how many of the last parts were out of distribution."""
        return sum(each.in_scene is False for each in self.latest)


@routes.get("/line")
@like(reading.listed)
async def line(request: Request) -> Response:
    """All stations."""
    found = [await _station(request, each) for each in await api.listed(request)]
    return await page(request, "line.html", stations=found, may_pause=access_of(api.pause).admits(caller_of(request)))


@routes.get("/line/pulse")
@like(reading.listed)
async def pulse(request: Request) -> Response:
    """What may have changed, and that the service is there."""
    service, language = service_of(request), language_of(request)
    found = await service.read(_pulses)
    return JSONResponse(
        {
            str(stream.id): {
                "newest": str(newest) if newest else "",
                "state": "paused" if stream.state == "paused" else "silent" if _silent(stream.last_seen_at) else "",
                "seen": formats.ago(stream.last_seen_at, language) if stream.last_seen_at else "",
                "waiting": _in_queue(service, stream.id),
            }
            for stream, newest in found
        }
    )


@routes.get("/line/{stream_id}")
@like(reading.listed)
async def station(request: Request, stream_id: Id) -> Response:
    """One station; with htmx, what changes of it."""
    service = service_of(request)
    told = await api.get(request, (await service.read(streams.by_id, stream_id)).name)
    if not by_script(request):
        return back("/line")
    return await page(request, "line_station.html", station=await _station(request, told))


@routes.post("/line/{stream_id}/pause")
@like(api.pause)
async def pause(request: Request, stream_id: Id) -> Response:
    """No part is inspected until somebody says so."""
    await api.pause(request, await _name(request, stream_id), await _why(request))
    return back("/line", "paused")


@routes.post("/line/{stream_id}/resume")
@like(api.resume)
async def resume(request: Request, stream_id: Id) -> Response:
    """Ends a pause."""
    await api.resume(request, await _name(request, stream_id), await _why(request))
    return back("/line", "resumed")


async def _name(request: Request, stream_id: int) -> str:
    return (await service_of(request).read(streams.by_id, stream_id)).name


async def _why(request: Request) -> api.Why:
    return given(api.Why, reason=(await form(request)).get("reason", "").strip())


async def _station(request: Request, stream: api.StreamTold) -> Station:
    service = service_of(request)
    since = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)
    latest, hours = await service.read(_recent, stream.id, since)
    return Station(
        stream,
        await summaries_of(service, latest),
        bars_of(hours, since),
        _in_queue(service, stream.id),
        _silent(stream.last_seen_at),
        await drift.findings(request, stream.name),
    )


def bars_of(hours: list[Hour], since: datetime, count: int = HOURS) -> list[Bar]:
    """One bar for each hour from `since` on, the empty ones too."""
    known = {each.at: each for each in hours}
    filled = [
        known.get(at, Hour(at, 0, 0, 0, 0)) for at in (since + timedelta(hours=number) for number in range(count))
    ]
    unit = _HEIGHT / max([1, *(each.ok + each.review + each.ng + each.error for each in filled)])
    return [Bar(each, each.ok * unit, each.review * unit, (each.ng + each.error) * unit) for each in filled]


def _recent(connection: Connection, stream_id: int, since: datetime) -> tuple[list[Inspection], list[Hour]]:
    return (
        listing.latest(connection, stream_id, SHOWN),
        statistics.by_hour(connection, since, stream_id=stream_id),
    )


def _pulses(connection: Connection) -> list[tuple[streams.Stream, Any]]:
    found = []
    for stream in streams.listed(connection):
        newest = listing.latest(connection, stream.id, 1)
        found.append((stream, newest[0].id if newest else None))
    return found


def _in_queue(service: Service, stream_id: int) -> int | None:
    station = service.stations.by_id(stream_id)
    return station.hosted.waiting if station and station.hosted else None


def _silent(seen: datetime | None) -> bool:
    return seen is not None and datetime.now(UTC) - seen > SILENT
