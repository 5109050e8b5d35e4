"""One inspection: its image, why, what people said of it, what came before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.access import access_of, caller_of
from patchbank.server.api import looking, reading, reviews
from patchbank.server.web.language import N_
from patchbank.server.web.rendering import page
from patchbank.server.web.routing import back, by_script, form, given, like, pages

routes = pages()
# What the image check measures.
MEASURES = {
    "brightness": N_("Brightness"),
    "sharpness": N_("Sharpness"),
    "aspect_ratio": N_("Width by height"),
    "pixels": N_("Pixels"),
    "patch_distance": N_("Strangeness of most places"),
    "layout_distance": N_("Strangeness of the arrangement"),
}
_BAR = 100.0  # length of a measure's bar


@dataclass(frozen=True)
class Measure:
    """A measure of the image check, and its bar: begin and end of the normal range, and the value, 0 to 100."""

    name: str
    value: float
    low: float
    high: float
    reason: str
    begin: float
    end: float
    at: float

    @property
    def fits(self) -> bool:
        """Says whether the value is normal."""
        return not self.reason


@routes.get("/inspections/{inspection_id}")
@like(reading.get)
async def get(request: Request, inspection_id: UUID) -> Response:
    """The page of an inspection."""
    return await _page(request, inspection_id)


@routes.get("/inspections/{inspection_id}/why")
@like(looking.explain)
async def why(request: Request, inspection_id: UUID) -> Response:
    """What its odd places are compared with; with htmx, only that."""
    explained = await looking.explain(request, inspection_id)
    if by_script(request):
        return await page(request, "why.html", explained=explained)
    return await _page(request, inspection_id, explained=explained)


@routes.post("/inspections/{inspection_id}/replay")
@like(looking.replay)
async def replay(request: Request, inspection_id: UUID) -> Response:
    """Inspects the image again, and says whether the result is the same."""
    replayed = await looking.replay(request, inspection_id)
    if by_script(request):
        each = await reading.get(request, inspection_id)
        return await page(request, "replay.html", replayed=replayed, each=each)
    return await _page(request, inspection_id, replayed=replayed)


async def _page(request: Request, inspection_id: UUID, **values: Any) -> Response:
    whole = await reading.get(request, inspection_id)
    return await page(
        request,
        "inspection.html",
        each=whole,
        measures=measures_of(whole.scene),
        measure_names=MEASURES,
        may_label=access_of(reviews.add).admits(caller_of(request)),
        **{"explained": None, "replayed": None} | values,
    )


@routes.post("/inspections/{inspection_id}/reviews")
@like(reviews.add)
async def add(request: Request, inspection_id: UUID) -> Response:
    """Adds a review, unless somebody else has said something that this person has not seen."""
    await reviews.add(request, inspection_id, review_of(await form(request)))
    return back(f"/inspections/{inspection_id}", "review")


@routes.post("/inspections/{inspection_id}/reviews/undo")
@like(reviews.undo)
async def undo(request: Request, inspection_id: UUID) -> Response:
    """Takes the present review back."""
    await reviews.undo(request, inspection_id)
    return back(f"/inspections/{inspection_id}", "undone")


def review_of(fields: dict[str, str]) -> reviews.NewReview:
    """What a form says of a part. Raises RequestValidationError."""
    return given(
        reviews.NewReview,
        label=fields.get("label"),
        kind=fields.get("kind", "").strip(),
        comment=fields.get("comment", "").strip(),
        supersedes=fields.get("supersedes") or None,
        check=True,
    )


def measures_of(scene: Any) -> list[Measure]:
    """The image check, as it is drawn."""
    found = []
    for name, each in (scene or {}).items():
        value, low, high = float(each["value"]), float(each["low"]), float(each["high"])
        first, last = min(value, low), max(value, high)
        margin = 0.12 * (last - first) or 1.0
        first, last = first - margin, last + margin

        def place(number: float, first: float = first, last: float = last) -> float:
            return round(_BAR * (number - first) / (last - first), 1)

        found.append(Measure(name, value, low, high, each.get("reason") or "", place(low), place(high), place(value)))
    return found
