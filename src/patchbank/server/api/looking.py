"""Looking closer at an inspection: its heat map, why it was judged so, and whether it would be again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, cast
from uuid import UUID

from fastapi import Path, Query
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from patchbank import Explanation
from patchbank.config import ImageFormat
from patchbank.imaging.images import encode_png, read_image, shown
from patchbank.imaging.roi import Roi
from patchbank.reports.explanation_pictures import inspected_crop, normal_crop, region_crop
from patchbank.server.access import needs
from patchbank.server.api.reading import cached, format_of, not_modified, row_with_image
from patchbank.server.api.routing import PREFIX, Told, router
from patchbank.server.api.shown import Model, summaries_of
from patchbank.server.explaining import NEIGHBOURS, REGIONS, Replay
from patchbank.server.heat_picture import Colours, Look, Only, heat_png
from patchbank.server.problems import Problem, responses
from patchbank.server.service import Service, service_of
from patchbank.store import inspections, models
from patchbank.store.heats import Heat
from patchbank.store.inspections import Inspection, Region

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from sqlalchemy import Connection

routes = router("inspections")

_PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}, "description": "A PNG."}}
Finding = Annotated[int, Path(ge=0, lt=REGIONS, description="Its place in `findings`.")]


class Explained(Told):
    """Why an inspection was judged as it was: what its most anomalous patches are compared with."""

    model: Model
    score: float
    threshold: float | None
    image_size: list[int] = Field(description="Height, width.")
    good_images: dict[str, int] | None = Field(description="How many left-out good images score at least as high.")
    regions: int
    findings: list[dict[str, Any]] = Field(
        description="For each region, or the most anomalous patch: the closest normal patches; addresses of pictures."
    )
    notes: list[str]


class Replayed(Told):
    """What the version that decided says today. differences: what is not as it was."""

    identical: bool
    kept: dict[str, Any]
    now: dict[str, Any]
    differences: list[str]


@routes.get("/inspections/{inspection_id}/heat.png", summary="The heat map", response_class=Response, responses=_PNG)
@needs("viewer", "read")
async def heat(
    request: Request,
    inspection_id: UUID,
    opacity: Annotated[float, Query(ge=0, le=1)] = 1.0,
    contours: Annotated[bool, Query(description="Outlines of the regions.")] = True,
    size: Annotated[int, Query(ge=16, le=4096, description="The longer side has at most so many pixels.")] = 1200,
    colours: Annotated[Colours, Query()] = "orange",
    only: Annotated[
        Only | None, Query(description="map: without the image. layer: transparent, to lay over it.")
    ] = None,
) -> Response:
    """Over the image; alone, if that is gone. Colours mean multiples of the version's pixel threshold."""
    service = service_of(request)
    look = Look(opacity, contours, size, colours, only)
    row, grid, areas, threshold = await service.read(_drawn, inspection_id)
    if grid is None:
        raise Problem(404, "no-heat", "No heat map was kept of the inspection")
    over = row.has_image and only is None
    tag = f"{inspection_id}-h{over:d}-{opacity:g}-{contours:d}-{size}-{colours}-{only}"
    if same := not_modified(request, tag):
        return same
    roi = await _roi(service, row) if grid.counted else None
    known = (row.height or grid.input_h, row.width or grid.input_w)

    def draw() -> bytes:
        return heat_png(grid, _picture(service, row) if over else None, known, threshold, areas, roi, look)

    async with service.decoding:
        data = await run_in_threadpool(draw)
    return Response(data, media_type="image/png", headers=cached(tag))


@routes.get(
    "/inspections/{inspection_id}/explain",
    summary="Why",
    response_model=Explained,
    responses=responses(409, 410),
)
@needs("viewer", "read")
async def explain(request: Request, inspection_id: UUID) -> Explained:
    """The nearest normal patches, by the very version that decided. 410: retention removed the image."""
    row, explanation = await _explained(request, inspection_id)
    (summary,) = await summaries_of(service_of(request), [row])
    told = explanation.to_dict()
    here = f"{PREFIX}/inspections/{inspection_id}/explain"
    for number, (finding, about) in enumerate(zip(explanation.findings, told["findings"], strict=True)):
        wider = region_crop(explanation, finding) is not None
        about["pictures"] = {
            "part": f"{here}/{number}/part.png",
            "region": f"{here}/{number}/region.png" if wider else None,
        }
        for rank, (patch, normal) in enumerate(zip(finding.neighbours, about["nearest_normal"], strict=True)):
            normal["picture"] = f"{here}/{number}/normal/{rank}.png" if patch.thumbnail else None
    return Explained(
        model=cast(Model, summary.model), **{name: told[name] for name in Explained.model_fields if name in told}
    )


@routes.get(
    "/inspections/{inspection_id}/explain/{finding}/part.png",
    summary="The patch, close",
    response_class=Response,
    responses=_PNG | responses(409, 410),
)
@needs("viewer", "read")
async def part(request: Request, inspection_id: UUID, finding: Finding) -> Response:
    """The surroundings of a finding's patch in the inspected image."""

    def draw(explanation: Explanation) -> npt.NDArray[np.uint8] | None:
        return inspected_crop(explanation, explanation.findings[finding])

    return await _crop(request, inspection_id, finding, draw)


@routes.get(
    "/inspections/{inspection_id}/explain/{finding}/region.png",
    summary="The region",
    response_class=Response,
    responses=_PNG | responses(409, 410),
)
@needs("viewer", "read")
async def region(request: Request, inspection_id: UUID, finding: Finding) -> Response:
    """The region of a finding; 404 where the patch's picture shows as much."""

    def draw(explanation: Explanation) -> npt.NDArray[np.uint8] | None:
        return region_crop(explanation, explanation.findings[finding])

    return await _crop(request, inspection_id, finding, draw)


@routes.get(
    "/inspections/{inspection_id}/explain/{finding}/normal/{rank}.png",
    summary="A normal patch",
    response_class=Response,
    responses=_PNG | responses(409, 410),
)
@needs("viewer", "read")
async def normal(
    request: Request, inspection_id: UUID, finding: Finding, rank: Annotated[int, Path(ge=0, lt=NEIGHBOURS)]
) -> Response:
    """The surroundings of one of the closest normal patches, in its training image."""

    def draw(explanation: Explanation) -> npt.NDArray[np.uint8] | None:
        found = explanation.findings[finding].neighbours[rank : rank + 1]
        return normal_crop(found[0]) if found else None

    return await _crop(request, inspection_id, finding, draw)


@routes.post(
    "/inspections/{inspection_id}:replay",
    summary="Inspect it again",
    response_model=Replayed,
    responses=responses(409, 410),
)
@needs("operator")
async def replay(request: Request, inspection_id: UUID) -> Replay:
    """Inspects the kept image once more with the version that decided, and compares. Nothing is kept of it."""
    row, digest = await row_with_image(request, inspection_id)
    return await service_of(request).explanations.again(row, digest)


async def _explained(request: Request, inspection_id: UUID) -> tuple[Inspection, Explanation]:
    row, digest = await row_with_image(request, inspection_id)
    return row, await service_of(request).explanations.of(row, digest)


async def _crop(
    request: Request,
    inspection_id: UUID,
    finding: int,
    draw: Callable[[Explanation], npt.NDArray[np.uint8] | None],
) -> Response:
    tag = f"{inspection_id}{request.url.path.rpartition('explain')[2].replace('/', '-')}"
    if same := not_modified(request, tag):
        return same
    _, explanation = await _explained(request, inspection_id)
    picture = await run_in_threadpool(draw, explanation) if finding < len(explanation.findings) else None
    if picture is None:
        raise Problem(404, "no-picture", "The explanation has no such picture")
    return Response(await run_in_threadpool(encode_png, picture), media_type="image/png", headers=cached(tag))


def _drawn(connection: Connection, inspection_id: UUID) -> tuple[Inspection, Heat | None, list[Region], float | None]:
    row = inspections.get(connection, inspection_id)
    version = None if row.model_version_id is None else models.version(connection, row.model_version_id)
    areas = inspections.regions_of(connection, inspection_id)
    threshold = version.pixel_threshold if version else None
    return row, inspections.heat_of(connection, inspection_id), areas, threshold


async def _roi(service: Service, row: Inspection) -> Roi | None:
    """The region of interest of the version that decided. Without its file the map is a little wider, and is shown."""
    try:
        return (await service.archive.at(row.model_version_id)).roi
    except Problem:
        return None


def _picture(service: Service, row: Inspection) -> npt.NDArray[np.uint8]:
    assert row.image_sha256 is not None
    return shown(read_image(service.store.blobs.get(row.image_sha256), format_of(service, row) or ImageFormat()))
