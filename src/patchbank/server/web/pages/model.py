"""One model: its versions, what a threshold is worth, what a gate has found, who lets which version decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from patchbank.server.access import access_of, caller_of
from patchbank.server.api import registry, streams, training, versions
from patchbank.server.api.registry import ModelName, Number
from patchbank.server.api.routing import Name
from patchbank.server.api.shown import VersionTold
from patchbank.server.problems import Problem
from patchbank.server.web.gate import LISTS, gate_of
from patchbank.server.web.language import N_
from patchbank.server.web.pages.models import path_of
from patchbank.server.web.rendering import page
from patchbank.server.web.routing import Refused, back, form, given, like, pages
from patchbank.server.web.threshold_chart import chart_of, rows_of
from patchbank.store import values

routes = pages()
ACTIONS = {
    "upload": N_("uploaded"),
    "fit": N_("fitted"),
    "update": N_("has learned more"),
    "threshold": N_("another threshold"),
    "rollback": N_("back to an earlier state"),
}
CALIBRATED = {
    "exact": N_("measured on all training images"),
    "bound": N_("on the safe side: false alarms are rarer than promised"),
    "stale": N_("out of date: nothing is promised"),
    "none": N_("none: the model has no threshold"),
}
_MOST_NAMES = 50  # of images, in a difference
_VersionNumber = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


@dataclass(frozen=True)
class Use:
    """Where a version of the model decides, or watches. before: what decided there before it."""

    stream: str
    deployed: streams.Deployed
    before: streams.Deployed | None


@dataclass(frozen=True)
class Tried:
    """A form that was not carried out: it is shown again. action: which. fields: what was in it."""

    action: str
    fields: dict[str, str]
    problem: Exception


@routes.get("/models/{model}")
@like(registry.get)
async def get(
    request: Request,
    model: ModelName,
    version: _VersionNumber = None,
    other: Annotated[int | None, Query(alias="with", ge=1, le=2**31 - 1)] = None,
    stream: Annotated[Name | None, Query()] = None,
) -> Response:
    """The page of a model. version: the one that is looked at; the newest, if not given. with: it is compared with this
    one. stream: where it is about to be deployed."""
    return await _show(request, model, version, other, stream or "")


@routes.post("/models/{model}/versions/{number}/approve")
@like(versions.approve)
async def approve(request: Request, model: ModelName, number: Number) -> Response:
    """Lets a version decide."""
    fields = await form(request)
    try:
        await versions.approve(
            request, await _id_of(request, model, number), given(versions.Confirmed, **_sure(fields))
        )
    except Refused as error:
        return await _show(request, model, number, tried=Tried("approve", fields, error))
    return back(path_of(model), "approved", version=str(number))


@routes.post("/models/{model}/versions/{number}/retire")
@like(versions.retire)
async def retire(request: Request, model: ModelName, number: Number) -> Response:
    """Takes a version away."""
    fields = await form(request)
    try:
        await versions.retire(
            request, await _id_of(request, model, number), given(versions.Why, reason=_reason(fields))
        )
    except Refused as error:
        return await _show(request, model, number, tried=Tried("retire", fields, error))
    return back(path_of(model), "retired", version=str(number))


@routes.post("/models/{model}/versions/{number}/deploy")
@like(versions.deploy)
async def deploy(request: Request, model: ModelName, number: Number) -> Response:
    """Has a version decide on a stream, or watch."""
    fields = await form(request)
    try:
        new = given(
            versions.NewDeployment,
            version_id=await _id_of(request, model, number),
            kind=fields.get("kind"),
            review_rate=_share(fields.get("review_rate", "")),
            **_sure(fields),
        )
        await versions.deploy(request, fields.get("stream", ""), new)
    except Refused as error:
        return await _show(request, model, number, tried=Tried("deploy", fields, error))
    return back(path_of(model), "watches" if new.kind == "shadow" else "deployed", version=str(number))


@routes.post("/models/{model}/versions/{number}/gate")
@like(training.gate)
async def ask_gate(request: Request, model: ModelName, number: Number) -> Response:
    """Has all that people have labelled inspected by a version."""
    try:
        job = await training.gate(request, await _id_of(request, model, number), training.Why(reason=""))
    except Refused as error:
        return await _show(request, model, number, tried=Tried("gate", {}, error))
    return back(f"/train/jobs/{job.id}", "job-begun")


@routes.post("/models/{model}/versions/{number}/threshold")
@like(training.threshold)
async def promise(request: Request, model: ModelName, number: Number) -> Response:
    """Has a version made that promises something else."""
    fields = await form(request)
    try:
        wanted = given(
            training.Threshold,
            version_id=await _id_of(request, model, number),
            reason=_reason(fields),
            **{name: _share(fields.get(name, "")) for name in ("max_false_alarms", "confidence")},
        )
        job = await training.threshold(request, model, wanted)
    except Refused as error:
        return await _show(request, model, number, tried=Tried("threshold", fields, error))
    return back(f"/train/jobs/{job.id}", "job-begun")


@routes.post("/models/{model}/watching/end")
@like(versions.deploy)
async def end_watching(request: Request, model: ModelName) -> Response:
    """Has no version watch on a stream any more."""
    fields = await form(request)
    try:
        nothing = given(versions.NewDeployment, version_id=None, kind="shadow", **_sure(fields))
        await versions.deploy(request, fields.get("stream", ""), nothing)
    except Refused as error:
        return await _show(request, model, tried=Tried("end", fields, error))
    return back(path_of(model), "watches-no-more")


async def _show(
    request: Request,
    model: str,
    number: int | None = None,
    other: int | None = None,
    stream: str = "",
    *,
    tried: Tried | None = None,
) -> Response:
    """The page. tried: a form that is shown again, with what was in it."""
    told = await registry.get(request, model)
    every, everywhere = await registry.versions(request, model), await streams.listed(request)
    chosen = _chosen(every, number)
    caller, fields = caller_of(request), tried.fields if tried else {}
    thresholds, trouble = await _thresholds(request, model, chosen)
    confidences, rows = rows_of(thresholds) if thresholds else ([], [])
    return await page(
        request,
        "model.html",
        problem=tried.problem if tried else None,
        tried=tried.action if tried else "",
        fields={"stream": stream} | {name: value for name, value in fields.items() if name != "password"},
        model=told,
        path=path_of(told.name),
        versions=every,
        each=chosen,
        gate=gate_of(chosen.gate) if chosen else None,
        gate_lists=LISTS,
        uses=await _uses(request, told.name, everywhere),
        stream_options=[(each.name, each.name) for each in everywhere],
        thresholds=thresholds,
        trouble=trouble,
        confidences=confidences,
        rows=rows,
        chart=chart_of(thresholds) if thresholds else None,
        other=other,
        difference=await _difference(request, model, every, chosen, other),
        most_names=_MOST_NAMES,
        actions=ACTIONS,
        calibrated=CALIBRATED,
        may_change=access_of(versions.approve).admits(caller),
        asks_password=caller.kind == "person",
        longest_reason=values.TEXT,
    )


def _chosen(every: list[VersionTold], number: int | None) -> VersionTold | None:
    """The version that is looked at; None if the model has none. Raises Problem."""
    found = every[0] if every and number is None else next((each for each in every if each.number == number), None)
    if found is None and number is not None:
        raise Problem(404, "not-found", f"The model has no version {number}")
    return found


async def _id_of(request: Request, model: str, number: int) -> int:
    every = await registry.versions(request, model)
    found = _chosen(every, number)
    return found.id if found else 0


async def _thresholds(
    request: Request, model: str, version: VersionTold | None
) -> tuple[registry.Thresholds | None, Problem | None]:
    """What the thresholds are worth, or why that cannot be said."""
    if version is None or version.threshold is None:
        return None, None
    try:
        return await registry.thresholds(request, model, version.number), None
    except Problem as problem:
        return None, problem


async def _difference(
    request: Request, model: str, every: list[VersionTold], version: VersionTold | None, other: int | None
) -> registry.DiffTold | Problem | None:
    """How the version differs from another one, the older one first; None: nobody has asked."""
    if version is None or other is None or other == version.number:
        return None
    _chosen(every, other)
    try:
        return await registry.diff(request, model, *sorted((other, version.number)))
    except Problem as problem:
        return problem


async def _uses(request: Request, model: str, everywhere: list[streams.StreamTold]) -> list[Use]:
    """Where the model is used, with what decided there before: another version, which may decide again."""
    found = []
    for stream in everywhere:
        for now in (stream.active, stream.shadow):
            if now is None or now.model is None or now.model.name != model:
                continue
            before = None
            if now.kind == "active":
                history = (await streams.history(request, stream.name, now.id)).items
                others = (each for each in history if each.kind == "active" and each.version_id != now.version_id)
                before = next((each for each in others if each.model is not None), None)
            found.append(Use(stream.name, now, before))
    return found


def _sure(fields: dict[str, str]) -> dict[str, str | None]:
    """What a person does on purpose: with a reason and a password."""
    return {"reason": _reason(fields), "password": fields.get("password") or None}


def _reason(fields: dict[str, str]) -> str:
    return fields.get("reason", "").strip()


def _share(text: str) -> str | None:
    """A number of a form, also with a comma; None for nothing."""
    return text.replace(",", ".").strip() or None
