"""What is removed, and when. Rows of inspections stay; their images go by verdict and age, and sooner if the disk gets
full.

An image with a label stays, as does one that waits for a review or is in a dataset. The order is safe for a process
that is killed in between: first the row says that the image is gone, then the file goes. A file that no row names is an
orphan: it is put aside, looked for in the rows once more, and only then removed."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Column, Connection, Select, literal_column, select, update

from patchbank.store import preferences, ranges, users, values
from patchbank.store.blobs import GRACE_SECONDS, Blobs, free_bytes
from patchbank.store.folder import FolderInUseError, Lock
from patchbank.store.schema import HAS_IMAGE, MAY_GO, dataset_images, model_versions
from patchbank.store.schema import inspections as table

if TYPE_CHECKING:
    from patchbank.store.engine import Store

logger = logging.getLogger("patchbank.store")
TOGETHER = 200  # images in one transaction: others wait for it
_PAGE = 1000
_FIRST_TO_GO = ("ok", "error", "review", "ng")  # when the disk gets full


@dataclass(frozen=True, slots=True)
class Policy:
    """How many days the images of a verdict stay, and how many bytes of the disk stay free."""

    days: dict[str, float]
    min_free: int


@dataclass(slots=True)
class Removed:
    """What a round has removed. images: rows whose image is gone; files, size: what went from the disk, in bytes;
    orphans: files that no row named; for_space: images that went before their time, because the disk was getting full.
    postponed: a backup was running, and nothing was removed."""

    images: int = 0
    files: int = 0
    size: int = 0
    orphans: int = 0
    for_space: int = 0
    sessions: int = 0
    postponed: bool = False


def policy(connection: Connection) -> Policy:
    """The policy as the settings have it."""
    days = {verdict: preferences.get(connection, f"retention.{verdict}_days") for verdict in _FIRST_TO_GO}
    return Policy(days, int(preferences.get(connection, "retention.min_free_gb") * 1e9))


def run(
    store: Store, *, now: datetime | None = None, grace: float = GRACE_SECONDS, stop: Callable[[], bool] = lambda: False
) -> Removed:
    """One round: images whose time is over, images for space, sessions that have ended. To be called every hour, in a
    thread. now: another time, for tests. stop: asked often; True ends the round early."""
    done = Removed()
    try:
        lock = Lock(store.folder, "files.lock")
    except FolderInUseError:
        return Removed(postponed=True)
    with lock:
        rules, now = store.read(policy), now or values.now()
        for verdict, days in rules.days.items():
            until = now - max(timedelta(days=days), timedelta(seconds=grace))
            while not stop() and (batch := store.write(let_go, verdict, until)):
                done.images += len(batch)
                _remove(store, {each[1] for each in batch}, done, grace)
        until = now - timedelta(seconds=grace)
        while not stop() and free_bytes(store.folder.path) < rules.min_free:
            if not (gone := _make_room(store, until, done, grace)):
                break
            done.for_space += gone
        if done.for_space:
            logger.warning("the disk is getting full: %d images went before their time", done.for_space)
        elif free_bytes(store.folder.path) < rules.min_free:
            logger.warning("less than %.1f GB of the disk are free, and no image may go", rules.min_free / 1e9)
        done.sessions = store.write(users.sweep_sessions)
    return done


def sweep(store: Store, *, grace: float = GRACE_SECONDS, stop: Callable[[], bool] = lambda: False) -> Removed:
    """Removes files that no row names, and what killed processes have left. To be called once a day and at the start:
    it looks at every file. grace: seconds that a file's row may be on its way. stop: asked often."""
    done = Removed()
    try:
        lock = Lock(store.folder, "files.lock")
    except FolderInUseError:
        return Removed(postponed=True)
    with lock:
        for blobs in (store.blobs, store.thumbs, store.models):
            blobs.sweep_unfinished(grace)
            named = model_files_named if blobs is store.models else images_named
            for digest in blobs.taken_out():  # in the hands of a process that was killed
                if digest in store.read(named, [digest]):
                    blobs.bring_back(digest)
                else:
                    _count(done, blobs.remove(digest))
            for batch in batches(blobs.digests()):
                if stop():
                    return done
                orphans = [each for each in set(batch) - store.read(named, batch) if blobs.is_old(each, grace)]
                before = done.files
                for digest in sorted(orphans):
                    _remove_one(store, blobs, digest, done, named, grace)
                done.orphans += done.files - before
    return done


def let_go(connection: Connection, verdict: str, until: datetime) -> list[tuple[UUID, str]]:
    """Says of the oldest images of a verdict, from before `until`, that they are gone: at most TOGETHER of them.
    Returns the inspections with their digests; the files are still there."""
    found = [(row[0], row[1]) for row in connection.execute(may_go(verdict, until))]
    if found:
        chosen = table.c.id.in_([each[0] for each in found])
        connection.execute(update(table).where(chosen).values(image_gone_at=values.now()))
    return found


def may_go(verdict: str, until: datetime) -> Select[Any]:
    """The oldest images of a verdict from before `until` that may go: at most TOGETHER of them."""
    in_dataset = select(dataset_images.c.sha256).where(dataset_images.c.sha256 == table.c.image_sha256)
    query = select(table.c.id, table.c.image_sha256).where(
        _same(MAY_GO), table.c.verdict == verdict, table.c.id < ranges.first(until, "until"), ~in_dataset.exists()
    )
    return query.order_by(table.c.id).limit(TOGETHER)


def images_named(connection: Connection, digests: Iterable[str]) -> set[str]:
    """Those of the digests that an inspection with an image, or a dataset, names."""
    digests = list(digests)
    rows = select(table.c.image_sha256).where(_same(HAS_IMAGE), table.c.image_sha256.in_(digests))
    named = set(connection.execute(rows).scalars())
    return named | set(
        connection.execute(select(dataset_images.c.sha256).where(dataset_images.c.sha256.in_(digests))).scalars()
    )


def model_files_named(connection: Connection, digests: Iterable[str]) -> set[str]:
    """Those of the digests that a model's version names."""
    query = select(model_versions.c.file_sha256).where(model_versions.c.file_sha256.in_(list(digests)))
    return set(connection.execute(query).scalars())


def all_images(connection: Connection) -> Iterator[str]:
    """The digests of all images that inspections or datasets name, each once, in order."""
    inspected = _in_order(connection, table.c.image_sha256, _same(HAS_IMAGE))
    last = ""
    for digest in heapq.merge(inspected, _in_order(connection, dataset_images.c.sha256)):
        if digest != last:
            yield digest
        last = digest


def all_model_files(connection: Connection) -> Iterator[str]:
    """The digests of all model files, each once, in order."""
    return _in_order(connection, model_versions.c.file_sha256)


def missing_images(connection: Connection, blobs: Blobs) -> Iterator[str]:
    """The digests that rows name and the folder does not have: none, unless somebody removed files by hand."""
    return (digest for digest in all_images(connection) if not blobs.has(digest))


def _in_order(connection: Connection, column: Column[Any], *conditions: Any) -> Iterator[str]:
    last = ""
    while True:
        query = select(column).where(*conditions, column > last).distinct().order_by(column).limit(_PAGE)
        digests = list(connection.execute(query).scalars())
        yield from digests
        if len(digests) < _PAGE:
            return
        last = digests[-1]


def _make_room(store: Store, until: datetime, done: Removed, grace: float) -> int:
    """The oldest images that may go before their time, OK parts' first. Returns how many went."""
    for verdict in _FIRST_TO_GO:
        if batch := store.write(let_go, verdict, until):
            done.images += len(batch)
            _remove(store, {each[1] for each in batch}, done, grace)
            return len(batch)
    return 0


def _remove(store: Store, digests: set[str], done: Removed, grace: float) -> None:
    for digest in sorted(digests - store.read(images_named, digests)):
        _remove_one(store, store.blobs, digest, done, images_named, grace)
        _remove_one(store, store.thumbs, digest, done, images_named, grace)


def _remove_one(store: Store, blobs: Blobs, digest: str, done: Removed, named: Any, grace: float) -> None:
    """Puts the file aside, looks once more whether a row names it, then removes it."""
    if not blobs.take_out(digest, grace):
        return
    if digest in store.read(named, [digest]):
        blobs.bring_back(digest)
    else:
        _count(done, blobs.remove(digest))


def _count(done: Removed, size: int) -> None:
    done.files += 1
    done.size += size


def batches(digests: Iterator[str]) -> Iterator[list[str]]:
    """The digests in parts that one query asks for."""
    while batch := list(islice(digests, 500)):
        yield batch


def _same(condition: Any) -> Any:
    """The condition of a partial index, in its own words."""
    return literal_column(f"({condition.text})")
