"""Training: jobs, datasets, and what each model could learn from people's reviews."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote
from uuid import UUID

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.access import access_of, caller_of
from patchbank.server.api import datasets, jobs, registry, training
from patchbank.server.api.registry import ModelName
from patchbank.server.api.shown import Summary
from patchbank.server.web.pages.jobs import KINDS
from patchbank.server.web.rendering import page
from patchbank.server.web.routing import Refused, back, by_script, choices, form, given, like, pages
from patchbank.store import values

routes = pages()
_JOBS = 12
_MOST_SHOWN = 200  # parts of a basket


@dataclass(frozen=True)
class Basket:
    """What a model could learn. more: there are more parts than `parts`."""

    model: str
    parts: list[Summary]
    more: bool


@routes.get("/train")
@like(datasets.listed)
async def show(request: Request) -> Response:
    """The page; with htmx, only its jobs."""
    if by_script(request):
        return await page(request, "train_jobs.html", jobs=await _jobs(request), kinds=KINDS)
    return await _show(request)


@routes.post("/train/datasets")
@like(datasets.add)
async def add_dataset(request: Request) -> Response:
    """Makes a dataset."""
    fields = await form(request)
    try:
        made = await datasets.add(request, given(datasets.NewDataset, name=fields.get("name", "").strip()))
    except Refused as error:
        return await _show(request, problem=error)
    return back(f"/train/datasets/{made.id}", "dataset-added")


@routes.get("/train/models/{model}")
@like(training.basket)
async def basket(request: Request, model: ModelName, after: Annotated[UUID | None, Query()] = None) -> Response:
    """What a model could learn: parts that it flagged and people call good."""
    return await _show_basket(request, model, after)


@routes.post("/train/models/{model}/update")
@like(training.update)
async def update(request: Request, model: ModelName) -> Response:
    """Has a model learn the parts that are marked."""
    fields = await form(request)
    marked = await choices(request, "part")
    try:
        wanted = given(
            training.Update,
            inspections=marked,  # none is not all
            note=fields.get("note", "").strip(),
            reason=fields.get("reason", "").strip(),
        )
        job = await training.update(request, model, wanted)
    except Refused as error:
        return await _show_basket(request, model, None, error, fields)
    return back(f"/train/jobs/{job.id}", "job-begun")


async def _show(request: Request, problem: Exception | None = None) -> Response:
    names = [each.name for each in await registry.listed(request)]
    baskets = [await _basket(request, name) for name in names]
    return await page(
        request,
        "train.html",
        problem=problem,
        jobs=await _jobs(request),
        kinds=KINDS,
        datasets=await datasets.listed(request),
        baskets=[each for each in baskets if each.parts],
        may_train=access_of(training.fit).admits(caller_of(request)),
        longest_name=values.NAME,
    )


async def _show_basket(
    request: Request,
    model: str,
    after: UUID | None,
    problem: Exception | None = None,
    fields: dict[str, str] | None = None,
) -> Response:
    found = await training.basket(request, model, after, _MOST_SHOWN)
    return await page(
        request,
        "basket.html",
        problem=problem,
        model=model,
        parts=found.items,
        path=f"/train/models/{quote(model, safe='')}",
        after=after,
        following=found.next,
        fields=fields or {},
        may_train=access_of(training.update).admits(caller_of(request)),
        longest_reason=values.TEXT,
    )


async def _basket(request: Request, model: str) -> Basket:
    found = await training.basket(request, model, None, 50)
    return Basket(model, list(found.items), found.next is not None)


async def _jobs(request: Request) -> list[jobs.JobTold]:
    return (await jobs.listed(request, None, None, _JOBS)).items
