"""A job: how far it is, what it has found, and its end before time. The page looks again by itself until it has
ended."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.access import access_of, caller_of
from patchbank.server.api import jobs as api
from patchbank.server.api import registry
from patchbank.server.api.routing import Id
from patchbank.server.problems import Problem
from patchbank.server.web.language import N_
from patchbank.server.web.rendering import page
from patchbank.server.web.routing import Refused, back, by_script, form, given, like, pages

routes = pages()
KINDS = {
    "fit": N_("Fit"),
    "update": N_("Learn more"),
    "threshold": N_("Another threshold"),
    "rollback": N_("Back to an earlier state"),
    "gate": N_("Gate"),
    "audit": N_("Look for bad images"),
    "import": N_("Read a folder"),
}


@routes.get("/train/jobs/{job_id}")
@like(api.get)
async def get(request: Request, job_id: Id) -> Response:
    """The page of a job; with htmx, what changes of it."""
    return await _show(request, job_id)


@routes.post("/train/jobs/{job_id}/cancel")
@like(api.cancel)
async def cancel(request: Request, job_id: Id) -> Response:
    """Ends a job."""
    try:
        await api.cancel(request, job_id, given(api.Cancelled, reason=(await form(request)).get("reason", "")))
    except Refused as error:
        return await _show(request, job_id, error)
    return back(f"/train/jobs/{job_id}", "job-cancelled")


async def _show(request: Request, job_id: int, problem: Exception | None = None) -> Response:
    job = await api.get(request, job_id)
    return await page(
        request,
        "job_now.html" if by_script(request) and problem is None else "job.html",
        problem=problem,
        job=job,
        kinds=KINDS,
        made=await _made(request, job),
        dataset_id=job.args.get("dataset_id"),
        may_cancel=access_of(api.cancel).admits(caller_of(request)),
    )


async def _made(request: Request, job: api.JobWhole) -> int | None:
    """The number of the version that the job has made, or looked at."""
    version_id = job.result.get("version_id") if isinstance(job.result, dict) else None
    if version_id is None or job.model is None:
        return None
    try:
        every = await registry.versions(request, job.model)
    except Problem:
        return None
    return next((each.number for each in every if each.id == version_id), None)
