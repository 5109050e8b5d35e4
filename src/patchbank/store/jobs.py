"""Work that takes long: fits, updates, backups. A table is the queue; a worker that takes a job has a lease on it.

A worker says that it lives (`progress`) before its lease ends. If it was killed, others take the job when the lease is
over (`take_back`), until the job has been tried `most_attempts` times. Several processes take different jobs (SKIP
LOCKED)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, func, insert, or_, select, update

from patchbank.errors import StoreConflictError
from patchbank.store import audit_log, events, values
from patchbank.store.schema import OPEN, jobs
from patchbank.store.values import Actor

LEASE = timedelta(seconds=60)
_LONGEST_LOG = 200_000  # characters; the beginning is cut off
_ERROR = 10_000


@dataclass(frozen=True, slots=True)
class Job:
    """A job. state: queued, running, done, failed, cancelled. done, total: of the stage; total 0 = not known. eta:
    seconds to go, None = not known. cancel_at: somebody asked for its end."""

    id: int
    kind: str
    args: Any
    model_id: int | None
    state: str
    stage: str
    done: int
    total: int
    eta: float | None
    worker: str | None
    lease_until: datetime | None
    attempts: int
    most_attempts: int
    not_before: datetime | None
    cancel_at: datetime | None
    result: Any
    error: str | None
    log: str
    by: str
    reason: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


def add(
    connection: Connection,
    kind: str,
    args: dict[str, Any],
    *,
    by: Actor,
    reason: str = "",
    model_id: int | None = None,
    most_attempts: int = 3,
) -> Job:
    """A new job at the end of the queue."""
    row = {
        "kind": values.text(kind, "kind", values.NAME),
        "args": values.json(args, "args"),
        "model_id": model_id,
        "state": "queued",
        "stage": "",
        "done": 0,
        "total": 0,
        "attempts": 0,
        "most_attempts": most_attempts,
        "log": "",
        "by": by.name,
        "reason": values.text(reason, "reason", values.TEXT),
        "created_at": values.now(),
    }
    made = connection.execute(insert(jobs).values(row).returning(jobs.c.id)).scalar_one()
    about = {"kind": kind, "args": args}
    audit_log.append(connection, by, "job.add", f"job/{made}", new=about, reason=reason)
    events.tell(connection, "job", id=made, state="queued")
    return get(connection, made)


def get(connection: Connection, job_id: int) -> Job:
    """The job. Raises StoreNotFoundError."""
    return values.found(values.one_of(connection, Job, _all().where(jobs.c.id == job_id)), f"job {job_id}")


def listed(
    connection: Connection, *, model_id: int | None = None, before: int | None = None, limit: int = 50
) -> list[Job]:
    """Jobs, the newest first. model_id: about this model. before: only those with a smaller id."""
    query = _all().order_by(jobs.c.id.desc()).limit(limit)
    if model_id is not None:
        query = query.where(jobs.c.model_id == model_id)
    return values.all_of(connection, Job, query if before is None else query.where(jobs.c.id < before))


def under_way(connection: Connection) -> list[Job]:
    """Jobs that are queued or running, in order."""
    return values.all_of(connection, Job, _all().where(OPEN).order_by(jobs.c.id))


def claim(connection: Connection, worker: str, kinds: Collection[str], lease: timedelta = LEASE) -> Job | None:
    """Takes the oldest queued job of these kinds; None if there is none. worker: a name that no other one has."""
    now = values.now()
    ready = or_(jobs.c.not_before.is_(None), jobs.c.not_before <= now)
    waiting = select(jobs.c.id).where(OPEN, jobs.c.state == "queued", jobs.c.kind.in_(kinds), ready)
    found = connection.execute(waiting.order_by(jobs.c.id).limit(1).with_for_update(skip_locked=True)).scalar()
    if found is None:
        return None
    changes = {
        "state": "running",
        "worker": worker,
        "lease_until": now + lease,
        "attempts": jobs.c.attempts + 1,
        "started_at": func.coalesce(jobs.c.started_at, now, type_=jobs.c.started_at.type),
        "error": None,
    }
    connection.execute(update(jobs).where(jobs.c.id == found).values(changes))
    events.tell(connection, "job", id=found, state="running")
    return get(connection, found)


def progress(
    connection: Connection,
    job_id: int,
    worker: str,
    *,
    stage: str = "",
    done: int = 0,
    total: int = 0,
    eta: float | None = None,
    log: str = "",
    lease: timedelta = LEASE,
) -> bool:
    """The worker lives, and has come so far. Returns whether somebody asked for the job's end. log: is added to the
    job's.

    Raises StoreConflictError if the worker has lost the job: its lease was over, and it must stop.
    """
    job = _mine(connection, job_id, worker)
    changes: dict[str, Any] = {
        "lease_until": values.now() + lease,
        "stage": values.text(stage, "stage"),
        "done": done,
        "total": total,
        "eta": values.finite(eta),
    }
    if log:
        changes["log"] = _longer(job.log, log)
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(changes))
    events.tell(connection, "job", id=job_id, state="running", stage=stage, done=done, total=total, eta=eta)
    return job.cancel_at is not None


def finish(connection: Connection, job_id: int, worker: str, result: Any = None, *, log: str = "") -> Job:
    """The job is done. Raises StoreConflictError if the worker has lost it."""
    job = _mine(connection, job_id, worker)
    changes = {"result": values.json(result, "result"), "log": _longer(job.log, log), "eta": 0.0}
    return _end(connection, job_id, "done", changes)


def fail(
    connection: Connection, job_id: int, worker: str, error: str, *, log: str = "", again_after: timedelta | None = None
) -> Job:
    """The job has failed; with `again_after` it is tried again later, unless it was often enough. Raises
    StoreConflictError if the worker has lost it."""
    job = _mine(connection, job_id, worker)
    changes = {"error": error[:_ERROR].replace("\0", ""), "log": _longer(job.log, log)}
    if again_after is None or job.attempts >= job.most_attempts:
        return _end(connection, job_id, "failed", changes)
    return _requeue(connection, job_id, {**changes, "not_before": values.now() + again_after})


def cancelled(connection: Connection, job_id: int, worker: str, *, log: str = "") -> Job:
    """The worker has stopped, as it was asked to. Raises StoreConflictError if it has lost the job."""
    job = _mine(connection, job_id, worker)
    return _end(connection, job_id, "cancelled", {"log": _longer(job.log, log)})


def give_back(connection: Connection, job_id: int, worker: str) -> Job:
    """The worker stops, because the service does, and the job goes on later. It is no attempt that failed."""
    job = _mine(connection, job_id, worker)
    return _requeue(connection, job_id, {"attempts": max(0, job.attempts - 1)})


def cancel(connection: Connection, job_id: int, *, by: Actor, reason: str = "") -> Job:
    """Asks for the job's end. A queued one ends now, a running one when its worker hears of it. Raises
    StoreConflictError for one that has ended."""
    query = _all().where(jobs.c.id == job_id).with_for_update()
    job = values.found(values.one_of(connection, Job, query), f"job {job_id}")
    if job.state not in ("queued", "running"):
        raise StoreConflictError(f"the job has ended already: {job.state}")
    audit_log.append(connection, by, "job.cancel", f"job/{job_id}", reason=reason)
    if job.state == "queued":
        return _end(connection, job_id, "cancelled", {"cancel_at": values.now()})
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(cancel_at=values.now()))
    events.tell(connection, "job", id=job_id, state="running", cancel=True)
    return get(connection, job_id)


def take_back(connection: Connection, *, all_workers: bool = False) -> list[Job]:
    """Puts jobs whose worker was killed into the queue again, or ends them: those that were tried often enough, and
    those that somebody wanted to end. all_workers: all that run, when a service starts whose database nobody else
    uses."""
    lost = select(jobs.c.id).where(OPEN, jobs.c.state == "running")
    if not all_workers:
        lost = lost.where(jobs.c.lease_until < values.now())
    ended = []
    for job_id in connection.execute(lost.order_by(jobs.c.id).with_for_update(skip_locked=True)).scalars().all():
        job = get(connection, job_id)
        if job.cancel_at is not None:
            ended.append(_end(connection, job_id, "cancelled", {}))
        elif job.attempts >= job.most_attempts:
            said = f"its worker was lost {job.attempts} times; the log has its last words"
            ended.append(_end(connection, job_id, "failed", {"error": said}))
        else:
            ended.append(_requeue(connection, job_id, {}))
    return ended


def _mine(connection: Connection, job_id: int, worker: str) -> Job:
    job = values.found(
        values.one_of(connection, Job, _all().where(jobs.c.id == job_id).with_for_update()), f"job {job_id}"
    )
    if job.state != "running" or job.worker != worker:
        raise StoreConflictError(f"job {job_id} belongs to somebody else now; stop")
    return job


def _end(connection: Connection, job_id: int, state: str, changes: dict[str, Any]) -> Job:
    changes = {**changes, "state": state, "ended_at": values.now(), "worker": None, "lease_until": None}
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(changes))
    events.tell(connection, "job", id=job_id, state=state)
    return get(connection, job_id)


def _requeue(connection: Connection, job_id: int, changes: dict[str, Any]) -> Job:
    changes = {**changes, "state": "queued", "worker": None, "lease_until": None, "eta": None}
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(changes))
    events.tell(connection, "job", id=job_id, state="queued")
    return get(connection, job_id)


def _longer(log: str, more: str) -> str:
    return (log + more.replace("\0", ""))[-_LONGEST_LOG:] if more else log


def _all() -> Select[Any]:
    return select(*values.columns(Job, jobs))
