"""Datasets: images that were put together to fit, to update or to test a model. Content-addressed: the image files are
blobs, and a frozen dataset has a digest of what is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, delete, func, select, update

from patchbank.errors import StoreConflictError, StoreValueError
from patchbank.store import audit_log, values
from patchbank.store.schema import dataset_images, datasets, model_versions
from patchbank.store.types import json_text
from patchbank.store.values import Actor

IMAGE_ROLES = ("train", "good", "defect")
MOST_IMAGES = 100_000


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset. images: how many it has, those that were left out included. sha256: once it is frozen."""

    id: int
    name: str
    created_at: datetime
    created_by: str
    frozen_at: datetime | None
    sha256: str | None
    images: int


@dataclass(frozen=True, slots=True)
class DatasetImage:
    """An image of a dataset. name: its file's. role: train, good, defect. size: bytes. left_out: a person left it
    out."""

    sha256: str
    name: str
    role: str
    size: int
    inspection_id: UUID | None
    left_out: bool
    added_at: datetime


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image that joins. sha256: it was put into the blobs before."""

    sha256: str
    name: str
    role: str
    size: int
    inspection_id: UUID | None = None


_IMAGES = (
    select(func.count())
    .select_from(dataset_images)
    .where(dataset_images.c.dataset_id == datasets.c.id)
    .scalar_subquery()
)


def add(connection: Connection, name: str, *, by: Actor) -> Dataset:
    """A new dataset without images. Raises StoreConflictError if the name is taken."""
    row = {"name": values.name(name, "dataset"), "created_at": values.now(), "created_by": by.name}
    if not values.insert_new(connection, datasets, row):
        raise StoreConflictError(f"there is a dataset {name} already; choose another name")
    return values.found(values.one_of(connection, Dataset, _all().where(datasets.c.name == name)), f"dataset {name}")


def by_id(connection: Connection, dataset_id: int) -> Dataset:
    """The dataset. Raises StoreNotFoundError."""
    query = _all().where(datasets.c.id == dataset_id)
    return values.found(values.one_of(connection, Dataset, query), f"dataset {dataset_id}")


def listed(connection: Connection, *, before: int | None = None, limit: int = 100) -> list[Dataset]:
    """The datasets, the newest first. before: only those with a smaller id."""
    query = _all().order_by(datasets.c.id.desc()).limit(limit)
    return values.all_of(connection, Dataset, query if before is None else query.where(datasets.c.id < before))


def add_images(connection: Connection, dataset_id: int, new: Sequence[NewImage]) -> list[bool]:
    """Images join. Says of each whether it did: one with the same content may be there already.

    Raises StoreConflictError for a frozen dataset, StoreValueError for too many images.
    """
    dataset = _open(connection, dataset_id)
    if dataset.images + len(new) > MOST_IMAGES:
        raise StoreValueError(f"a dataset has at most {MOST_IMAGES} images; put the rest into another one")
    return [values.insert_new(connection, dataset_images, _row(dataset_id, each)) for each in new]


def images(
    connection: Connection, dataset_id: int, *, after: str | None = None, limit: int = 200
) -> list[DatasetImage]:
    """Images of a dataset in the order of their digests. after: only those with a larger digest."""
    query = select(*values.columns(DatasetImage, dataset_images)).where(dataset_images.c.dataset_id == dataset_id)
    if after is not None:
        query = query.where(dataset_images.c.sha256 > after)
    return values.all_of(connection, DatasetImage, query.order_by(dataset_images.c.sha256).limit(limit))


def all_images(connection: Connection, dataset_id: int) -> list[DatasetImage]:
    """All images of a dataset, by name: the same order each time, so that a fit is the same each time."""
    query = select(*values.columns(DatasetImage, dataset_images)).where(dataset_images.c.dataset_id == dataset_id)
    return values.all_of(connection, DatasetImage, query.order_by(dataset_images.c.name, dataset_images.c.sha256))


def leave_out(connection: Connection, dataset_id: int, digests: Sequence[str], left_out: bool = True) -> int:
    """Leaves images out of what is learned, or takes them in again. Returns how many were there. Raises
    StoreConflictError for a frozen dataset."""
    _open(connection, dataset_id)
    chosen = (dataset_images.c.dataset_id == dataset_id, dataset_images.c.sha256.in_(digests))
    return connection.execute(update(dataset_images).where(*chosen).values(left_out=left_out)).rowcount


def drop_images(connection: Connection, dataset_id: int, digests: Sequence[str]) -> int:
    """Takes images out of a dataset; files that nothing else names are swept later. Returns how many were there. Raises
    StoreConflictError for a frozen dataset."""
    _open(connection, dataset_id)
    chosen = (dataset_images.c.dataset_id == dataset_id, dataset_images.c.sha256.in_(digests))
    return connection.execute(delete(dataset_images).where(*chosen)).rowcount


def image(connection: Connection, dataset_id: int, digest: str) -> DatasetImage:
    """An image of a dataset. Raises StoreNotFoundError."""
    query = select(*values.columns(DatasetImage, dataset_images)).where(
        dataset_images.c.dataset_id == dataset_id, dataset_images.c.sha256 == digest
    )
    return values.found(values.one_of(connection, DatasetImage, query), f"image {digest[:8]}... in the dataset")


def freeze(connection: Connection, dataset_id: int) -> Dataset:
    """From now on nothing joins or leaves; returns it with its digest. A frozen one stays as it is."""
    if by_id(connection, dataset_id).frozen_at is None:
        content = [[each.sha256, each.role, each.left_out] for each in _by_digest(connection, dataset_id)]
        digest = hashlib.sha256(json_text(content).encode()).hexdigest()
        changes = {"frozen_at": values.now(), "sha256": digest}
        connection.execute(update(datasets).where(datasets.c.id == dataset_id).values(changes))
    return by_id(connection, dataset_id)


def thaw(connection: Connection, dataset_id: int) -> bool:
    """Undoes `freeze`, unless a version was made from the dataset. Says whether it may change now."""
    used = select(model_versions.c.id).where(model_versions.c.dataset_id == dataset_id)
    if values.exists(connection, used):
        return False
    changes = {"frozen_at": None, "sha256": None}
    return bool(connection.execute(update(datasets).where(datasets.c.id == dataset_id).values(changes)).rowcount)


def remove(connection: Connection, dataset_id: int, *, by: Actor, reason: str) -> None:
    """Removes a dataset; images that nothing else names are swept later. Raises StoreConflictError if a version was
    made from it: then it stays, frozen."""
    dataset = _open(connection, dataset_id)
    connection.execute(delete(datasets).where(datasets.c.id == dataset_id))
    about = {"images": dataset.images}
    audit_log.append(
        connection, by, "dataset.remove", f"dataset/{dataset.name}", old=about, reason=values.reason(reason)
    )


def _open(connection: Connection, dataset_id: int) -> Dataset:
    dataset = by_id(connection, dataset_id)
    if dataset.frozen_at is not None:
        raise StoreConflictError(f"the dataset {dataset.name} is frozen: a model was made from it; make another one")
    return dataset


def _row(dataset_id: int, new: NewImage) -> dict[str, Any]:
    return {
        "dataset_id": dataset_id,
        "sha256": values.sha256(new.sha256, "sha256"),
        "name": values.text(new.name, "name"),
        "role": values.choice(new.role, IMAGE_ROLES, "role"),
        "size": new.size,
        "inspection_id": new.inspection_id,
        "left_out": False,
        "added_at": values.now(),
    }


def _by_digest(connection: Connection, dataset_id: int) -> list[DatasetImage]:
    query = select(*values.columns(DatasetImage, dataset_images)).where(dataset_images.c.dataset_id == dataset_id)
    return values.all_of(connection, DatasetImage, query.order_by(dataset_images.c.sha256))


def _all() -> Select[Any]:
    return select(*values.columns(Dataset, datasets, images=_IMAGES))
