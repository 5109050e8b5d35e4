"""One dataset: its images, what an audit has found among them, and a model that is made of them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.access import access_of, caller_of
from patchbank.server.api import datasets as api
from patchbank.server.api import gathering, jobs, registry, training
from patchbank.server.api.routing import Id
from patchbank.server.edge import allow_body
from patchbank.server.service import service_of
from patchbank.server.web import options_form
from patchbank.server.web.language import N_
from patchbank.server.web.rendering import page
from patchbank.server.web.routing import Refused, back, choices, form, given, like, pages
from patchbank.store import datasets, values

routes = pages()
ROLES = {"train": N_("to learn"), "good": N_("good, to test with"), "defect": N_("defects, to test with")}
_SHOWN = 60
_LOOKED_THROUGH = 200  # newest jobs, for the last audit
_After = Annotated[str | None, Query(pattern="^[0-9a-f]{64}$")]


@routes.get("/train/datasets/{dataset_id}")
@like(api.images)
async def get(request: Request, dataset_id: Id, after: _After = None) -> Response:
    """The page of a dataset."""
    return await _show(request, dataset_id, after)


@routes.post("/train/datasets/{dataset_id}/images")
@like(api.upload)
async def upload(request: Request, dataset_id: Id) -> Response:
    """Adds images."""
    allow_body(request, service_of(request).settings.max_body)
    try:
        await api.upload(request, dataset_id, "", "train")
    except Refused as error:
        return await _show(request, dataset_id, problem=error)
    return back(f"/train/datasets/{dataset_id}", "images-added")


@routes.post("/train/datasets/{dataset_id}/leave-out")
@like(api.leave_out)
async def leave_out(request: Request, dataset_id: Id) -> Response:
    """Leaves the marked images out, or has them learned again."""
    fields, marked = await form(request), await choices(request, "image")
    out = fields.get("do") != "learn"
    try:
        await api.leave_out(request, dataset_id, given(api.Chosen, sha256=marked, left_out=out))
    except Refused as error:
        return await _show(request, dataset_id, problem=error)
    return back(f"/train/datasets/{dataset_id}", "left-out" if out else "learned-again")


@routes.post("/train/datasets/{dataset_id}/folder")
@like(gathering.server_folder)
async def read_folder(request: Request, dataset_id: Id) -> Response:
    """Has the images of a folder of the service's machine read."""
    fields = await form(request)
    try:
        wanted = given(gathering.ServerFolder, folder=fields.get("folder", ""), role=fields.get("role"))
        job = await gathering.server_folder(request, dataset_id, wanted)
    except Refused as error:
        return await _show(request, dataset_id, problem=error, fields=fields)
    return back(f"/train/jobs/{job.id}", "job-begun")


@routes.post("/train/datasets/{dataset_id}/audit")
@like(gathering.audit)
async def audit(request: Request, dataset_id: Id) -> Response:
    """Looks for bad images."""
    fields = await form(request)
    try:
        job = await gathering.audit(request, dataset_id, given(training.Options, **_options(fields)))
    except Refused as error:
        return await _show(request, dataset_id, problem=error, fields=fields)
    return back(f"/train/jobs/{job.id}", "job-begun")


@routes.post("/train/datasets/{dataset_id}/fit")
@like(training.fit)
async def fit(request: Request, dataset_id: Id) -> Response:
    """Makes a model."""
    fields = await form(request)
    try:
        name = values.name(fields.get("model", "").strip(), "model")
        about = {each: fields.get(each, "").strip() for each in ("note", "reason")}
        job = await training.fit(request, name, given(training.Fit, dataset_id=dataset_id, **about, **_options(fields)))
    except Refused as error:
        return await _show(request, dataset_id, problem=error, fields=fields)
    return back(f"/train/jobs/{job.id}", "job-begun")


@routes.post("/train/datasets/{dataset_id}/remove")
@like(api.remove)
async def remove(request: Request, dataset_id: Id) -> Response:
    """Removes a dataset of which no model was made."""
    reason = (await form(request)).get("reason", "").strip()
    try:
        await api.remove(request, dataset_id, values.reason(reason))
    except Refused as error:
        return await _show(request, dataset_id, problem=error)
    return back("/train", "dataset-removed")


async def _show(
    request: Request,
    dataset_id: int,
    after: str | None = None,
    *,
    problem: Exception | None = None,
    fields: dict[str, str] | None = None,
) -> Response:
    dataset = await api.get(request, dataset_id)
    found = await api.images(request, dataset_id, after, _SHOWN)
    every = await service_of(request).read(datasets.all_images, dataset_id)
    may_train = access_of(training.fit).admits(caller_of(request))
    audited = await _last_audit(request, dataset_id)
    return await page(
        request,
        "dataset.html",
        problem=problem,
        fields=fields or {},
        dataset=dataset,
        path=f"/train/datasets/{dataset_id}",
        images=found.items,
        after=after,
        following=found.next,
        counts={role: sum(each.role == role and not each.left_out for each in every) for role in ROLES},
        left_out={each.sha256 for each in every if each.left_out},
        roles=ROLES,
        role_options=list(ROLES.items()),
        folders=(await gathering.folders(request)).folders if may_train else [],
        audit=audited,
        models=[each.name for each in await registry.listed(request)],
        presets=[(each, each) for each in options_form.presets()],
        groups=options_form.groups(),
        may_train=may_train,
        most_files=api.MOST_FILES,
        largest=service_of(request).settings.max_body,
        longest_name=values.NAME,
        longest_reason=values.TEXT,
    )


async def _last_audit(request: Request, dataset_id: int) -> jobs.JobTold | None:
    """The newest audit of the dataset that is done."""
    newest = (await jobs.listed(request, None, None, _LOOKED_THROUGH)).items
    return next(
        (each for each in newest if each.kind == "audit" and _is_about(each, dataset_id) and each.state == "done"), None
    )


def _is_about(job: jobs.JobTold, dataset_id: int) -> bool:
    return isinstance(job.args, dict) and job.args.get("dataset_id") == dataset_id


def _options(fields: dict[str, str]) -> dict[str, Any]:
    return {"preset": fields.get("preset") or None, "config": options_form.chosen(fields)}
