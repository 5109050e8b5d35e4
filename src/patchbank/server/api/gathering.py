"""What begins a job about a dataset: an audit, a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from patchbank import ConfigError
from patchbank.errors import StoreConflictError
from patchbank.server.access import caller_of, needs
from patchbank.server.api.datasets import Role
from patchbank.server.api.jobs import JobTold
from patchbank.server.api.routing import Given, Id, Line, Told, router
from patchbank.server.api.training import Options, added, checked_config
from patchbank.server.jobs.importing import below
from patchbank.server.problems import Problem, responses
from patchbank.server.service import service_of
from patchbank.store import datasets

if TYPE_CHECKING:
    from typing import Any

    from sqlalchemy import Connection

    from patchbank.store.values import Actor

routes = router("datasets")

_ACCEPTED = responses(404, 409)


class ServerFolder(Given):
    """A folder of the service's machine."""

    folder: Line
    role: Role = "train"


class Folders(Told):
    """Folders that may be read: the roots, or what is in one."""

    folders: list[str]


@routes.post(
    "/datasets/{dataset_id}:audit",
    summary="Look for bad images",
    status_code=202,
    response_model=JobTold,
    responses=_ACCEPTED,
)
@needs("engineer")
async def audit(request: Request, dataset_id: Id, given: Options) -> JobTold:
    """A job finds odd images among those that would be learned, the oddest first. Nothing is changed."""
    args = {"dataset_id": dataset_id, "config": checked_config(given)}
    return await service_of(request).write(_audit, args, caller_of(request).actor)


@routes.post(
    "/datasets/{dataset_id}/server-folder",
    summary="Take a folder's images",
    status_code=202,
    response_model=JobTold,
    responses=_ACCEPTED,
)
@needs("engineer")
async def server_folder(request: Request, dataset_id: Id, given: ServerFolder) -> JobTold:
    """A job reads the images of a folder of the service's machine, and of its folders: below one of `image_roots`."""
    service = service_of(request)
    folder = await _below(request, given.folder)
    args = {"dataset_id": dataset_id, "folder": folder, "role": given.role}
    return await service.write(_import, args, caller_of(request).actor)


@routes.get("/server-folders", summary="Folders that may be read", response_model=Folders)
@needs("engineer")
async def folders(
    request: Request, folder: Annotated[Line | None, Query(description="null: the roots.")] = None
) -> Folders:
    """The `image_roots`, or the folders in one of them."""
    if folder is None:
        return Folders(folders=service_of(request).settings.image_folders)
    where = await _below(request, folder)
    return Folders(folders=await run_in_threadpool(_inside, where))


async def _below(request: Request, folder: str) -> str:
    roots = service_of(request).settings.image_folders
    try:
        return str(await run_in_threadpool(below, folder, roots))
    except ConfigError as error:
        raise Problem(422, "folder", f"folder: {error}") from error


def _inside(where: str) -> list[str]:
    try:
        return sorted(str(each) for each in Path(where).iterdir() if each.is_dir() and not each.is_symlink())[:1000]
    except OSError as error:
        raise Problem(422, "folder", f"folder: cannot be read ({error.strerror})") from error


def _audit(connection: Connection, args: dict[str, Any], by: Actor) -> JobTold:
    datasets.by_id(connection, args["dataset_id"])
    return added(connection, "audit", args, by, "", None)


def _import(connection: Connection, args: dict[str, Any], by: Actor) -> JobTold:
    if datasets.by_id(connection, args["dataset_id"]).frozen_at is not None:
        raise StoreConflictError("the dataset is frozen: a model was made from it; make another one")
    return added(connection, "import", args, by, "", None)
