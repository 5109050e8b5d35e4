"""Backups are whole, whatever happens meanwhile; what is restored is what was there, and damage is refused."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from patchbank import StoreConflictError, StoreError, StoreFullError
from patchbank.errors import OutputError
from patchbank.store import audit_log, backup, inspections, listing, passwords, preferences, retention, reviews, users
from patchbank.store.backup import make
from patchbank.store.dumps import StoppedError
from patchbank.store.engine import Store, open_store
from patchbank.store.folder import Lock
from patchbank.store.restore import restore
from patchbank.store.schema import metadata
from patchbank.store.values import Actor
from store import made

BY = Actor("tester")


def filled(store: Store, images: int = 3) -> dict[str, bytes]:
    """Some of everything. Returns the images by digest."""
    contents = [f"image {number}".encode() for number in range(images)]
    digests = [store.blobs.put(each) for each in contents]
    stream = store.write(made.stream)
    file = store.folder.path / "cap.patchbank"
    file.write_bytes(b"cap")
    assert store.models.put_file(file) == made.digest("cap")
    version = store.write(made.version)
    for number, digest in enumerate(digests):
        new = made.inspection(
            stream, after=number, image_sha256=digest, model_version_id=version, scene_json={"a": 1.0}
        )
        store.write(inspections.insert_one, new)
    first = store.read(listing.page, listing.Filter(), oldest_first=True).items[0]
    anna = store.write(users.add, "anna", "admin", argon2="hash", by=BY)
    store.write(users.begin_session, anna.id, passwords.new_secret(), made.NOON.replace(year=2999), "127.0.0.1")
    store.write(reviews.add, first.id, "good", by=anna.actor, comment="fine")
    store.write(preferences.put, "retention.ok_days", 3.25, by=BY, reason="small disk")
    return dict(zip(digests, contents, strict=True))


def rows(store: Store) -> dict[str, list[Any]]:
    """All rows of all tables, but sessions and what a restore writes."""

    def read(connection: Any) -> dict[str, list[Any]]:
        found = {
            name: connection.execute(select(table).order_by(*table.primary_key.columns)).all()
            for name, table in metadata.tables.items()
            if name != "sessions"
        }
        found["audit_log"] = [row for row in found["audit_log"] if row.action != "backup.restore"]
        return found

    return store.read(read)


@pytest.fixture(params=["file", "folder"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "kept" / ("backup.tar" if request.param == "file" else "backup")


def restored_url(place: tuple[Path, str | None], request: pytest.FixtureRequest) -> str | None:
    """Where to restore a backup of this store: an empty database of the same kind."""
    return None if place[1] is None else request.getfixturevalue("postgres_server").make()


def test_a_restore_brings_everything_back(
    store: Store, place: tuple[Path, str | None], target: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    images = filled(store)
    found = make(store, target).backup  # while the store is in use
    assert (found.images, found.models, found.missing_files) == (3, 1, 0)
    before = rows(store)
    url = restored_url(place, request)
    done = restore(target, tmp_path / "again", url, by=BY)
    assert done.missing == ()
    with open_store(tmp_path / "again", url) as again:
        assert rows(again) == before
        assert {digest: again.blobs.get(digest) for digest in images} == images
        assert again.models.get(made.digest("cap")) == b"cap"
        assert again.read(audit_log.verify, (audit_log.Head(*found.head),)).problems == ()
        last = again.read(audit_log.page, limit=1)[0]
        assert (last.actor, last.action) == ("tester", "backup.restore")
        assert again.read(lambda c: c.execute(text("SELECT count(*) FROM sessions")).scalar()) == 0
        more = again.write(users.add, "bert", "viewer", by=BY)  # numbers go on
        assert more.id == 2
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_backup_of_sqlite_moves_to_postgresql(tmp_path: Path, postgres_url: str) -> None:
    with open_store(tmp_path / "data") as store:
        filled(store)
        make(store, tmp_path / "backup.tar")
        before = rows(store)
    restore(tmp_path / "backup.tar", tmp_path / "moved", postgres_url, by=BY)
    with open_store(tmp_path / "moved", postgres_url) as moved:
        assert rows(moved) == before
        assert moved.read(audit_log.verify).problems == ()
        assert moved.write(users.add, "bert", "viewer", by=BY).id == 2
        with pytest.raises(Exception, match="never changed"):
            moved.write(lambda c: c.execute(text("DELETE FROM audit_log")))


def test_a_folder_is_brought_up_to_date(store: Store, tmp_path: Path) -> None:
    """Only what is new is copied; what is no longer named goes; a backup that was killed is taken up."""
    filled(store)
    folder = tmp_path / "backup"
    assert make(store, folder).files == 5  # the database, a model, three images
    (folder / "blobs" / "aa" / ".left.new").write_bytes(b"of a killed one")
    digest = store.blobs.put(b"new one")
    new = made.inspection(1, after=100, image_sha256=digest)
    store.write(inspections.insert_one, new)
    gone = store.write(retention.let_go, "ok", made.NOON.replace(hour=23))
    assert len(gone) == 3  # the one with a label stays
    second = make(store, folder)
    assert second.backup.images == 1
    assert second.files == 1  # the database: the one image with a label was there
    kept = {path.name for path in (folder / "blobs").rglob("*") if path.is_file()}
    assert kept == {each.image_sha256 for each in store.read(listing.page, listing.Filter()).items if each.has_image}
    assert len(list(folder.glob("database-*"))) == 1


def test_what_a_backup_does_not_touch(store: Store, tmp_path: Path, reopen: Callable[[], Store]) -> None:
    """A folder with something else, another store's backup: nothing is written there."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"png")
    with pytest.raises(StoreConflictError, match="something else"):
        make(store, tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.png"]
    with open_store(tmp_path / "other") as other:
        make(other, tmp_path / "of the other")
    with pytest.raises(StoreConflictError, match="another service"):
        make(store, tmp_path / "of the other")


def test_files_that_are_missing_are_said_and_do_not_end_it(target: Path, tmp_path: Path) -> None:
    """One damaged image must not keep a factory without any backup."""
    with open_store(tmp_path / "data") as store:
        images = sorted(filled(store))
        store.blobs.path(images[0]).unlink()
        store.blobs.path(images[1]).write_bytes(b"another")
        found = make(store, target).backup
    assert (found.images, found.missing_files, sorted(found.missing)) == (1, 2, images[:2])
    assert sorted(restore(target, tmp_path / "again", by=BY).missing) == images[:2]


def test_a_backup_waits_for_retention_and_retention_for_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an image that the copy of the database names could be removed before it is copied."""
    filled(store)
    held: list[bool] = []
    real = backup.retention.all_images

    def watched(connection: Any) -> Any:
        held.append(retention.run(store).postponed)
        return real(connection)

    monkeypatch.setattr(backup.retention, "all_images", watched)
    monkeypatch.setattr(backup, "_POLL", 0.01)
    lock = Lock(store.folder, "files.lock")
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(make(store, tmp_path / "backup")))
    thread.start()
    thread.join(0.3)
    assert done == []
    lock.release()
    thread.join(60)
    assert done[0].backup.images == 3
    assert held == [True]


def test_inspections_go_on_while_a_backup_is_made(store: Store, tmp_path: Path) -> None:
    """And all that its database names is in it."""
    filled(store)
    end = threading.Event()

    def inspect() -> None:
        number = 1000
        while not end.is_set():
            number += 1
            digest = store.blobs.put(f"image {number}".encode())
            store.write(inspections.insert_one, made.inspection(1, after=number, image_sha256=digest))

    writer = threading.Thread(target=inspect)
    writer.start()
    found = [make(store, tmp_path / "backup").backup for _ in range(3)]
    end.set()
    writer.join()
    assert [each.missing_files for each in found] == [0, 0, 0]
    assert found[0].images < found[2].images


def test_it_stops_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    filled(store)
    asked: list[int] = []
    with pytest.raises(StoppedError):
        make(store, tmp_path / "kept" / "backup.tar", stop=lambda: bool(asked.append(1)) or len(asked) > 3)
    assert list((tmp_path / "kept").iterdir()) == []


def test_the_disk_of_the_service_does_not_get_full(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(store)
    monkeypatch.setattr(backup, "free_bytes", lambda _: 10)
    with pytest.raises(StoreFullError, match="would fill the disk"):
        make(store, tmp_path / "kept" / "backup.tar")
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup in a folder, to be copied and damaged."""
    place = tmp_path_factory.mktemp("whole")
    with open_store(place / "data") as store:
        filled(store)
        make(store, place / "backup")
    return place / "backup"


def _one(folder: Path, pattern: str) -> Path:
    return sorted(path for path in folder.glob(pattern) if path.is_file())[0]


def _change_log(folder: Path) -> None:
    """What somebody does who wants to hide something, and computes the digests of the backup anew."""
    import sqlite3

    path = _one(folder, "database-*")
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER audit_log_no_update")
    connection.execute("UPDATE audit_log SET actor = 'nobody' WHERE n = 1")
    connection.commit()
    connection.close()
    digest = backup.digest_of(path)
    path.rename(folder / f"database-{digest[:16]}.sqlite")
    note = json.loads((folder / backup.NOTE).read_bytes())
    note |= {"database": f"database-{digest[:16]}.sqlite", "sha256": digest}
    (folder / backup.NOTE).write_text(json.dumps(note))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no note": (lambda folder: (folder / backup.NOTE).unlink(), "no whole backup"),
    "a note that is none": (lambda folder: (folder / backup.NOTE).write_text("[]"), "not a backup's note"),
    "a later version's": (lambda folder: (folder / backup.NOTE).write_text('{"format": 2}'), "later version"),
    "no database": (lambda folder: _one(folder, "database-*").unlink(), "damaged, or not there"),
    "half a database": (lambda folder: os.truncate(_one(folder, "database-*"), 4096), "damaged, or not there"),
    "no image": (lambda folder: _one(folder, "blobs/??/*").unlink(), "1 files that the database names"),
    "another image": (lambda folder: _one(folder, "blobs/??/*").write_bytes(b"x"), "1 files that the database names"),
    "no model": (lambda folder: _one(folder, "models/*").unlink(), "1 files that the database names"),
    "a changed audit log": (_change_log, "audit log of the backup was changed"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused(whole: Path, tmp_path: Path, damage: str) -> None:
    """And nothing is left that a service could be started with."""
    change, message = DAMAGE[damage]
    shutil.copytree(whole, tmp_path / "backup")
    change(tmp_path / "backup")
    with pytest.raises(StoreError, match=message):
        restore(tmp_path / "backup", tmp_path / "again", by=BY)
    assert [path.name for path in tmp_path.iterdir()] == ["backup"]


def test_a_tar_file_cannot_write_elsewhere(tmp_path: Path) -> None:
    for name, kind in (
        ("../out", tarfile.REGTYPE),
        ("/tmp/out", tarfile.REGTYPE),
        ("blobs/aa/" + "a" * 64, tarfile.SYMTYPE),
    ):
        with tarfile.open(tmp_path / "bad.tar", "w") as tar:
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, "/etc/passwd"
            tar.addfile(about)
        with pytest.raises(StoreError, match="no backup has"):
            restore(tmp_path / "bad.tar", tmp_path / "again", by=BY)
    (tmp_path / "bad.tar").write_bytes(b"no tar file")
    with pytest.raises(StoreError, match="is no backup"):
        restore(tmp_path / "bad.tar", tmp_path / "again", by=BY)
    with pytest.raises(OutputError, match="No such file"):
        restore(tmp_path / "no.tar", tmp_path / "again", by=BY)
    assert not (tmp_path / "again").exists()


def test_a_restore_overwrites_nothing(whole: Path, tmp_path: Path, postgres_url: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").touch()
    with pytest.raises(StoreConflictError, match="holds something"):
        restore(whole, tmp_path / "data", by=BY)
    open_store(tmp_path / "other", postgres_url).close()
    with pytest.raises(StoreConflictError, match="expected an empty database"):
        restore(whole, tmp_path / "new", postgres_url, by=BY)
    assert not (tmp_path / "new").exists()


def test_a_backup_of_postgresql_needs_postgresql(tmp_path: Path, postgres_url: str) -> None:
    with open_store(tmp_path / "data", postgres_url) as store:
        make(store, tmp_path / "backup.tar")
    with pytest.raises(StoreError, match="--database URL"):
        restore(tmp_path / "backup.tar", tmp_path / "again", by=BY)


def test_without_its_programs_postgresql_says_which(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path / "data", postgres_url) as store:
        monkeypatch.setenv("PATH", "")
        with pytest.raises(StoreError, match="postgresql-client"):
            make(store, tmp_path / "backup.tar")
    assert not list(tmp_path.glob("*backup*"))
