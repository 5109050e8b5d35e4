"""The registry of models: each version is a file by its digest, with what the file says of itself, and whether it may
decide.

candidate -> approved -> retired. Only an approved version decides on a stream; what the gate found is kept with it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select, update

from patchbank.errors import StoreConflictError
from patchbank.store import audit_log, events, streams, values
from patchbank.store.schema import ACTIONS, model_versions, models
from patchbank.store.values import SYSTEM, Actor

CALIBRATED = ("exact", "bound", "stale", "none")


@dataclass(frozen=True, slots=True)
class Model:
    """A model by its name."""

    id: int
    name: str
    created_at: datetime
    created_by: str
    archived_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """A version that is to be registered. file_sha256: the file was put into the models' blobs before. bank_version:
    its number in the file's history; the rest is what that says of it. parent_id: the version that it was made from."""

    file_sha256: str
    file_size: int
    bank_version: int
    action: str
    calibrated: str
    images: int
    size: int
    time: datetime
    threshold: float | None = None
    pixel_threshold: float | None = None
    max_false_alarms: float | None = None
    confidence: float | None = None
    author: str = ""
    note: str = ""
    dataset_id: int | None = None
    parent_id: int | None = None


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a model; schema.py says what each column means. number: within the model, from 1."""

    id: int
    model_id: int
    number: int
    file_sha256: str
    file_size: int
    bank_version: int
    action: str
    calibrated: str
    threshold: float | None
    pixel_threshold: float | None
    max_false_alarms: float | None
    confidence: float | None
    images: int
    size: int
    author: str
    note: str
    time: datetime
    status: str
    status_at: datetime
    status_by: str
    gate_json: Any
    dataset_id: int | None
    parent_id: int | None


def add(connection: Connection, name: str, *, by: Actor = SYSTEM) -> Model:
    """A new model, without versions. Raises StoreConflictError if the name is taken."""
    row = {"name": values.name(name, "model"), "created_at": values.now(), "created_by": by.name}
    if not values.insert_new(connection, models, row):
        raise StoreConflictError(f"there is a model {name} already; choose another name, or add a version to that one")
    audit_log.append(connection, by, "model.add", f"model/{name}")
    return by_name(connection, name)


def ensure(connection: Connection, name: str, *, by: Actor = SYSTEM) -> Model:
    """The model of this name; a new one if there is none."""
    found = values.one_of(connection, Model, _models().where(models.c.name == name))
    return found or add(connection, name, by=by)


def by_name(connection: Connection, name: str) -> Model:
    """The model. Raises StoreNotFoundError."""
    return values.found(values.one_of(connection, Model, _models().where(models.c.name == name)), f"model {name!r}")


def by_id(connection: Connection, model_id: int) -> Model:
    """The model. Raises StoreNotFoundError."""
    return values.found(values.one_of(connection, Model, _models().where(models.c.id == model_id)), f"model {model_id}")


def listed(connection: Connection, *, archived: bool = False) -> list[Model]:
    """The models by name; with `archived` those too that nobody uses any more."""
    query = _models().order_by(models.c.name)
    return values.all_of(connection, Model, query if archived else query.where(models.c.archived_at.is_(None)))


def archive(connection: Connection, model_id: int, *, by: Actor, reason: str) -> None:
    """The model leaves the lists. Raises StoreConflictError while one of its versions is deployed."""
    model = by_id(connection, model_id)
    used = {each.model_version_id for each in streams.all_current(connection)}
    if used & {each.id for each in versions(connection, model_id)}:
        raise StoreConflictError(f"a version of {model.name} is deployed; deploy another one first")
    connection.execute(update(models).where(models.c.id == model_id).values(archived_at=values.now()))
    audit_log.append(connection, by, "model.archive", f"model/{model.name}", reason=values.reason(reason))


def add_version(connection: Connection, model_id: int, new: NewVersion, *, by: Actor, reason: str = "") -> ModelVersion:
    """Registers a version as a candidate. The same file again is the version that it was before."""
    model = by_id(connection, model_id)
    if connection.dialect.name == "postgresql":  # two at once must not have the same number
        connection.execute(select(models.c.id).where(models.c.id == model_id).with_for_update())
    same = _versions().where(model_versions.c.model_id == model_id, model_versions.c.file_sha256 == new.file_sha256)
    if known := values.one_of(connection, ModelVersion, same.where(model_versions.c.bank_version == new.bank_version)):
        return known
    last = select(func.max(model_versions.c.number)).where(model_versions.c.model_id == model_id)
    row = _checked(new) | {
        "model_id": model_id,
        "number": (connection.execute(last).scalar() or 0) + 1,
        "status": "candidate",
        "status_at": values.now(),
        "status_by": by.name,
    }
    made = connection.execute(insert(model_versions).values(row).returning(model_versions.c.id)).scalar_one()
    what = {"sha256": new.file_sha256, "action": new.action, "note": new.note}
    audit_log.append(connection, by, "model.version", f"model/{model.name}/{row['number']}", new=what, reason=reason)
    events.tell(connection, "version", model_id=model_id, model_version_id=made)
    return version(connection, made)


def version(connection: Connection, version_id: int) -> ModelVersion:
    """The version. Raises StoreNotFoundError."""
    query = _versions().where(model_versions.c.id == version_id)
    return values.found(values.one_of(connection, ModelVersion, query), f"model version {version_id}")


def numbered(connection: Connection, model_id: int, number: int) -> ModelVersion:
    """The version of this number. Raises StoreNotFoundError."""
    query = _versions().where(model_versions.c.model_id == model_id, model_versions.c.number == number)
    return values.found(values.one_of(connection, ModelVersion, query), f"version {number} of the model")


def versions(connection: Connection, model_id: int) -> list[ModelVersion]:
    """All versions of a model, the newest first."""
    query = _versions().where(model_versions.c.model_id == model_id).order_by(model_versions.c.number.desc())
    return values.all_of(connection, ModelVersion, query)


def that_made(connection: Connection, file_sha256: str, bank_version: int) -> ModelVersion | None:
    """The version that a result names (`Result.made_by`); None if it is not registered. The newest, if it is more than
    once."""
    query = _versions().where(
        model_versions.c.file_sha256 == file_sha256, model_versions.c.bank_version == bank_version
    )
    return values.one_of(connection, ModelVersion, query.order_by(model_versions.c.id.desc()).limit(1))


def set_gate(connection: Connection, version_id: int, gate: dict[str, Any]) -> None:
    """Keeps what the gate found. gate["passed"]: False blocks the approval. Raises StoreConflictError for a version
    that is no candidate: what it was approved by stays."""
    if version(connection, version_id).status != "candidate":
        raise StoreConflictError("the version is no candidate any more; what its gate found stays as it is")
    changes = {"gate_json": values.json(gate, "gate")}
    connection.execute(update(model_versions).where(model_versions.c.id == version_id).values(changes))


def approve(
    connection: Connection, version_id: int, *, by: Actor, reason: str, second_person: bool = False
) -> ModelVersion:
    """The version may decide from now on. second_person: not by who has made it.

    Raises StoreConflictError for a version that is no candidate, whose gate was not passed, or by the wrong person.
    """
    found = version(connection, version_id)
    if found.status != "candidate":
        raise StoreConflictError(f"the version is {found.status}; only a candidate can be approved")
    if isinstance(found.gate_json, dict) and not found.gate_json.get("passed", False):
        raise StoreConflictError("the gate was not passed: the version loses a defect that people have labelled")
    if second_person and by.name == found.status_by:
        raise StoreConflictError("who has made a version does not approve it; ask a second person")
    return _set_status(connection, found, "approved", by, reason)


def retire(connection: Connection, version_id: int, *, by: Actor, reason: str) -> ModelVersion:
    """The version may not be deployed any more. Raises StoreConflictError while it is."""
    if streams.where_deployed(connection, version_id):
        raise StoreConflictError("the version is deployed; deploy another one first")
    return _set_status(connection, version(connection, version_id), "retired", by, reason)


def file_digests(connection: Connection) -> set[str]:
    """The digests of all model files that versions name."""
    return set(connection.execute(select(model_versions.c.file_sha256)).scalars())


def _set_status(connection: Connection, found: ModelVersion, status: str, by: Actor, reason: str) -> ModelVersion:
    changes = {"status": status, "status_at": values.now(), "status_by": by.name}
    connection.execute(update(model_versions).where(model_versions.c.id == found.id).values(changes))
    about = f"model/{by_id(connection, found.model_id).name}/{found.number}"
    action = {"approved": "model.approve", "retired": "model.retire"}[status]
    values.reason(reason)
    audit_log.append(connection, by, action, about, old=found.status, new=status, reason=reason)
    events.tell(connection, "version", model_id=found.model_id, model_version_id=found.id)
    return version(connection, found.id)


def _checked(new: NewVersion) -> dict[str, Any]:
    values.sha256(new.file_sha256, "file_sha256")
    values.choice(new.action, ACTIONS, "action")
    values.choice(new.calibrated, CALIBRATED, "calibrated")
    values.text(new.author, "author")
    values.text(new.note, "note", values.TEXT)
    row = asdict(new)
    for name in ("threshold", "pixel_threshold", "max_false_alarms", "confidence"):
        row[name] = values.finite(row[name])
    return row


def _models() -> Select[Any]:
    return select(*values.columns(Model, models))


def _versions() -> Select[Any]:
    return select(*values.columns(ModelVersion, model_versions))
