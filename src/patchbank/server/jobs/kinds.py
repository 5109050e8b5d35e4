"""Kinds of jobs, on the service's side: what the child is given, and what becomes of its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from patchbank import PatchbankError, Runtime
from patchbank.server.jobs.folder import JobFolder, unique_names
from patchbank.server.policy import policy_of
from patchbank.server.settings import Settings
from patchbank.store import datasets, jobs, models, reviews, streams
from patchbank.store.datasets import DatasetImage
from patchbank.store.engine import Store
from patchbank.store.inspections import Inspection
from patchbank.store.jobs import Job
from patchbank.store.models import ModelVersion, NewVersion
from patchbank.store.types import time_text
from patchbank.store.values import Actor

if TYPE_CHECKING:
    from sqlalchemy import Connection

Args = dict[str, Any]
_PAGE = 500


@dataclass(frozen=True)
class Bench:
    """What jobs are prepared with."""

    store: Store
    settings: Settings
    runtime: Runtime


@dataclass(frozen=True)
class Kind:
    """A kind of job. prepare: what the child gets beside what all get; in a thread. finish: what becomes of the child's
    result, in the transaction that ends the job; returns what the job's row says."""

    prepare: Callable[[Bench, Job, JobFolder], Args]
    finish: Callable[[Connection, Job, Args], Any]


def prepared(bench: Bench, job: Job, folder: JobFolder) -> None:
    """Writes what the child needs into the job's folder. Raises PatchbankError."""
    runtime = replace(bench.runtime, memory=str(bench.settings.job_bytes // 2), threads=bench.settings.job_threads)
    common = {
        "kind": job.kind,
        "memory": bench.settings.job_bytes,
        "runtime": asdict(runtime),
        "author": job.by,
        "note": job.args.get("note", ""),
        "time": time_text(job.created_at),
    }
    folder.write_args(common | KINDS[job.kind].prepare(bench, job, folder))


def kept(store: Store, folder: JobFolder) -> Args:
    """The child's result; the model that it has made is in its place. Raises PatchbankError or ValueError."""
    result = folder.read_result()
    if version := result.get("version"):
        digest = store.models.put_file(folder.model)
        if digest != version["file_sha256"]:
            raise PatchbankError("the model file is not the one that the job has made; start the job again")
    return result


def note_images(connection: Connection, job: Job, images: list[Args]) -> None:
    """Images that the child has kept join the dataset."""
    role = job.args["role"]
    new = [datasets.NewImage(each["sha256"], each["name"], role, each["size"]) for each in images]
    datasets.add_images(connection, job.args["dataset_id"], new)


def ended(connection: Connection, job: Job) -> None:
    """Undoes what a job that made no version has taken for it: its dataset may change again, and parts of an update
    are in the basket again."""
    if job.state not in ("failed", "cancelled") or job.kind not in ("fit", "update"):
        return
    dataset_id = job.args["dataset_id"]
    if any(other.args.get("dataset_id") == dataset_id for other in jobs.under_way(connection) if other.id != job.id):
        return
    thawed = datasets.thaw(connection, dataset_id)
    if job.kind == "update" and thawed:
        datasets.remove(connection, dataset_id, by=actor_of(job), reason=f"job {job.id} has {job.state}")


def actor_of(job: Job) -> Actor:
    """Who wanted the job."""
    return Actor(job.by, job.args.get("user_id"))


# --- what the child gets ---


def _fit(bench: Bench, job: Job, folder: JobFolder) -> Args:
    images = bench.store.read(datasets.all_images, job.args["dataset_id"])
    files = _files(bench.store, images)
    base = bench.store.read(newest_approved, job.model_id)
    return {
        "config": job.args["config"],
        "images": folder.link("images", files),
        **_to_compare(bench, job, base, [each for each in images if each.role != "train" and not each.left_out]),
    }


def _update(bench: Bench, job: Job, folder: JobFolder) -> Args:
    base = bench.store.read(models.version, job.args["version_id"])
    added = bench.store.read(datasets.all_images, job.args["dataset_id"])
    training: dict[str, str] = {}
    for dataset_id in bench.store.read(datasets_of, base):
        files = _files(bench.store, bench.store.read(datasets.all_images, dataset_id))
        paths = folder.link(f"training-{dataset_id}", files)
        training |= dict(zip(files, paths, strict=True))
    return {
        "images": folder.link("images", _files(bench.store, added)),
        "training": training,
        "random_sample": job.args["random_sample"],
        **_changing(bench, job, base),
    }


def _threshold(bench: Bench, job: Job, _: JobFolder) -> Args:
    base = bench.store.read(models.version, job.args["version_id"])
    return {"options": job.args["options"], **_changing(bench, job, base)}


def _rollback(bench: Bench, job: Job, _: JobFolder) -> Args:
    base = bench.store.read(models.version, job.args["version_id"])
    return {"to": job.args["to"], **_changing(bench, job, base)}


def _gate(bench: Bench, job: Job, _: JobFolder) -> Args:
    version = bench.store.read(models.version, job.args["version_id"])
    base = bench.store.read(_before, version)
    return {"model": _file(bench.store, version), **_to_compare(bench, job, base, [])}


def _audit(bench: Bench, job: Job, folder: JobFolder) -> Args:
    files = _files(bench.store, bench.store.read(datasets.all_images, job.args["dataset_id"]))
    return {
        "config": job.args["config"],
        "images": folder.link("images", files),
        "digests": {name: path.name for name, path in files.items()},
    }


def _import(bench: Bench, job: Job, _: JobFolder) -> Args:
    return {
        "folder": job.args["folder"],
        "roots": bench.settings.image_folders,
        "blobs": str(bench.store.blobs.root),
    }


def _changing(bench: Bench, job: Job, base: ModelVersion) -> Args:
    return {"model": _file(bench.store, base), **_to_compare(bench, job, base, [])}


def _to_compare(bench: Bench, job: Job, base: ModelVersion | None, known: list[DatasetImage]) -> Args:
    """For the gate: the version before, and what people have labelled. known: images of the dataset that the model
    should judge rightly."""
    store, now = bench.store, datetime.now(UTC)
    inspected = [_labelled(store, row) for row in store.read(_all_labelled, job.model_id)]
    others = [
        {"id": each.name, "path": str(store.blobs.path(each.sha256)), "label": each.role, "verdict": ""}
        for each in known
    ]
    return {
        "base": base and _file(store, base),
        "base_version_id": base and base.id,
        "labelled": inspected + others,
        "labelled_at": time_text(now),
        **store.read(_rule, job.model_id),
    }


def _labelled(store: Store, row: Inspection) -> Args:
    path = store.blobs.path(row.image_sha256 or "")
    return {"id": str(row.id), "path": str(path), "label": row.label, "verdict": row.verdict}


def _rule(connection: Connection, model_id: int | None) -> Args:
    """What the streams where the model decides let pass, at most: the lowest review rate (None: its own), and whether
    REVIEW passes anywhere. A defect that only goes to review is lost where nothing does, or where REVIEW passes."""
    ids = set() if model_id is None else {each.id for each in models.versions(connection, model_id)}
    here = [
        policy_of(each)
        for each in streams.all_current(connection)
        if each.kind == "active" and each.model_version_id in ids
    ]
    rates = [each.review_rate for each in here if each.review_rate is not None]
    return {"review_rate": min(rates, default=None), "review_passes": any(each.review == "ok" for each in here)}


def _all_labelled(connection: Connection, model_id: int | None) -> list[Inspection]:
    """Defects first."""
    if model_id is None:
        return []
    defects = _pages(lambda after: reviews.regression_set(connection, model_id, after=after, limit=_PAGE))
    goods = _pages(lambda after: reviews.good_set(connection, model_id, after=after, limit=_PAGE))
    return [*defects, *goods]


def _pages(page: Callable[[UUID | None], list[Inspection]]) -> Iterator[Inspection]:
    after = None
    while found := page(after):
        yield from found
        after = found[-1].id


def _files(store: Store, images: list[DatasetImage]) -> dict[str, Any]:
    """The files of the images that are learned, by names of their own."""
    names = unique_names((each.name, each.sha256) for each in images if each.role == "train" and not each.left_out)
    return {name: store.blobs.path(digest) for name, digest in names.items()}


def _file(store: Store, version: ModelVersion) -> str:
    return str(store.models.path(version.file_sha256))


def newest_approved(connection: Connection, model_id: int | None) -> ModelVersion | None:
    """The version that a new one is compared with; None if none was approved yet."""
    if model_id is None:
        return None
    return next((each for each in models.versions(connection, model_id) if each.status == "approved"), None)


def _before(connection: Connection, version: ModelVersion) -> ModelVersion | None:
    """The version that a version follows: the one that it was made from, or the newest one that was approved."""
    if version.parent_id is not None:
        return models.version(connection, version.parent_id)
    base = newest_approved(connection, version.model_id)
    return None if base is None or base.id == version.id else base


def datasets_of(connection: Connection, version: ModelVersion) -> list[int]:
    """The datasets that a version has learned, itself or by those that it was made from."""
    found = []
    while True:
        if version.dataset_id is not None and version.dataset_id not in found:
            found.append(version.dataset_id)
        if version.parent_id is None:
            return found
        version = models.version(connection, version.parent_id)


# --- what becomes of the result ---


def _register(connection: Connection, job: Job, result: Args) -> Any:
    """The model is a candidate from now on."""
    row = result["version"] | {"time": datetime.fromisoformat(result["version"]["time"])}
    row |= {"dataset_id": job.args.get("dataset_id"), "parent_id": job.args.get("version_id")}
    if job.model_id is None:
        raise PatchbankError(f"job {job.id} belongs to no model")
    made = models.add_version(connection, job.model_id, NewVersion(**row), by=actor_of(job), reason=job.reason)
    if made.status == "candidate":
        models.set_gate(connection, made.id, result["gate"])
    return {"version_id": made.id, "number": made.number, "passed": result["gate"]["passed"]}


def _keep_gate(connection: Connection, job: Job, result: Args) -> Any:
    models.set_gate(connection, job.args["version_id"], result["gate"])
    return {"version_id": job.args["version_id"], "passed": result["gate"]["passed"]}


def _as_it_is(_: Connection, __: Job, result: Args) -> Any:
    return result


KINDS: dict[str, Kind] = {
    "fit": Kind(_fit, _register),
    "update": Kind(_update, _register),
    "threshold": Kind(_threshold, _register),
    "rollback": Kind(_rollback, _register),
    "gate": Kind(_gate, _keep_gate),
    "audit": Kind(_audit, _as_it_is),
    "import": Kind(_import, _as_it_is),
}
