"""Backups: the database as it was at one moment, and every file that it names, by digest.

backup.json                      what it is; written last: without it, a backup is not whole
database-<digest>.sqlite, .dump  the copy of the database (SQLite, or pg_dump's custom format)
models/<digest>.patchbank        model files
blobs/<2 digits>/<digest>        images

Either a tar file with these, or a folder. A folder is brought up to date: only new files are copied, and what the
database no longer names goes. While a backup is made, nothing else removes files (`files.lock`), and an image is on the
disk before its row is committed. So the files that the copy of the database names are there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol

from patchbank.errors import StoreBusyError, StoreConflictError, StoreError, StoreFullError
from patchbank.store import audit_log, dumps, folder, retention
from patchbank.store.blobs import Blobs, free_bytes
from patchbank.store.dumps import Copy, Stop, StoppedError
from patchbank.store.engine import Reading
from patchbank.store.folder import FolderInUseError, Lock
from patchbank.util.files import atomic_write, make_folder, output_errors
from patchbank.util.progress import Progress, silent
from patchbank.version import __version__

FORMAT = 1
NOTE = "backup.json"
_MARK = ".patchbank-backup"  # in a folder that is one, whole or not
LARGEST_NOTE = 1_000_000
MOST_NAMED = 1000  # missing files that the note names
LEFT_FREE = 1_000_000_000  # bytes of the disk of the running service
_PATIENCE, _POLL = 600.0, 0.5  # seconds that a backup waits for a round of retention
_CHUNK = 1 << 20


@dataclass(slots=True)
class Backup:
    """What a backup holds, as its note says it. kind: sqlite or postgresql. database: the copy's name, sha256 its
    digest. identity: of the store. head: the last row of the audit log, n and hash. missing: digests of files that were
    not there, or damaged, when it was made: at most 1 000 of them; missing_files: how many there are."""

    made_at: datetime
    kind: str
    database: str
    sha256: str
    identity: str
    head: tuple[int, str]
    images: int = 0
    models: int = 0
    missing: list[str] = field(default_factory=list)
    missing_files: int = 0
    software: str = __version__

    def to_json(self) -> bytes:
        """The note."""
        told = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps({"format": FORMAT} | told | {"made_at": self.made_at.isoformat()}, indent=2).encode() + b"\n"


def from_json(content: bytes) -> Backup:
    """The backup that a note is of. Raises StoreError for what is no such note, or a later version's."""
    try:
        told = json.loads(content)
        if told.pop("format") != FORMAT:
            raise StoreError("the backup was made by a later version of patchbank; install that version")
        head = told.pop("head")
        made_at = datetime.fromisoformat(told.pop("made_at"))
        return Backup(made_at, head=(int(head[0]), str(head[1])), **told)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise StoreError(f"{NOTE} is not a backup's note ({error}); the backup is damaged") from error


@dataclass(slots=True)
class Made:
    """What making a backup did. files, size: that were written, in bytes; in a folder only the new ones."""

    backup: Backup
    files: int = 0
    size: int = 0


class _Into(Protocol):
    """Where a backup goes."""

    def add(self, name: str, source: Path) -> int:
        """Takes a file. Returns the bytes that were written. Raises _DamagedError if the digest in its name is not its
        content's, FileNotFoundError if it is not there."""

    def finish(self, backup: Backup, copy: Copy) -> None:
        """Makes it whole."""


def make(store: Reading, target: Path, *, progress: Progress = silent, stop: Stop = lambda: False) -> Made:
    """Makes a backup while the store is in use. target: a name that ends in .tar, or a folder. stop: asked often.

    Raises StoreConflictError for a folder that holds something else, StoreFullError, StoreBusyError if retention
    removes files for long, OutputError, StoppedError.
    """
    make_folder(target.parent)
    begun = _tar(target) if target.suffix == ".tar" else _folder(target, store)
    with (
        _kept_from_removal(store),
        output_errors(target),
        begun as (into, aside),
        dumps.copied(store, aside, stop) as copy,
    ):
        return _filled(store, into, copy, target, progress, stop)


def is_backup(path: Path) -> bool:
    """Says whether there is something that looks like a backup."""
    return (path / NOTE).is_file() or (path.suffix == ".tar" and path.is_file())


def _filled(store: Reading, into: _Into, copy: Copy, target: Path, progress: Progress, stop: Stop) -> Made:
    digest = digest_of(copy.path)
    name = f"database-{digest[:16]}{copy.path.suffix}"
    head = audit_log.head(copy.connection)
    note = folder.read_note(store.folder) or {}
    backup = Backup(datetime.now(UTC), copy.kind, name, digest, str(note.get("id")), (head.n, head.hash))
    made = Made(backup)
    disk = target if target.is_dir() else target.parent
    reserve = LEFT_FREE if disk.stat().st_dev == store.folder.path.stat().st_dev else 0

    def add(name: str, source: Path) -> bool:
        if stop():
            raise StoppedError("the backup was stopped")
        if free_bytes(disk) < reserve:
            raise StoreFullError(
                "the backup would fill the disk of the service; choose another one, or free some space"
            )
        try:
            written = into.add(name, source)
        except (FileNotFoundError, _DamagedError):
            backup.missing_files += 1
            backup.missing += [source.name.partition(".")[0]] if len(backup.missing) < MOST_NAMED else []
            return False
        made.size += written
        made.files += written > 0
        return True

    add(name, copy.path)
    for number, digest in enumerate(retention.all_model_files(copy.connection)):
        backup.models += add(f"models/{digest}.patchbank", store.models.path(digest))
        progress("back up", number, 0)
    for number, digest in enumerate(retention.all_images(copy.connection)):
        backup.images += add(f"blobs/{digest[:2]}/{digest}", store.blobs.path(digest))
        progress("back up", backup.models + number, 0)
    into.finish(backup, copy)
    return made


@contextmanager
def _kept_from_removal(store: Reading) -> Iterator[None]:
    """While the block runs, no file of the store is removed."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            lock = Lock(store.folder, "files.lock")
            break
        except FolderInUseError:
            if time.monotonic() > until:
                raise StoreBusyError("another backup, or retention, uses the files; try again later") from None
            time.sleep(_POLL)
    with lock:
        yield


class _DamagedError(Exception):
    """A file is not what its name says."""


class _Tar:
    """A backup in one file."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def add(self, name: str, source: Path) -> int:
        if _named_digest(name) not in (None, digest_of(source)):  # read twice: what is in a tar file stays in it
            raise _DamagedError
        with source.open("rb") as file:
            return self._put(name, file, os.fstat(file.fileno()).st_size)

    def finish(self, backup: Backup, copy: Copy) -> None:  # noqa: ARG002  (as the other one)
        content = backup.to_json()
        self._put(NOTE, io.BytesIO(content), len(content))

    def _put(self, name: str, file: IO[bytes], size: int) -> int:
        about = tarfile.TarInfo(name)
        about.size, about.mode, about.mtime = size, 0o600, int(time.time())
        self._tar.addfile(about, file)
        return size


class _Folder:
    """A backup in a folder, which is brought up to date."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blobs, self._models = Blobs(path / "blobs"), Blobs(path / "models", suffix=".patchbank", spread=False)

    def add(self, name: str, source: Path) -> int:
        target, size = self._path / name, source.stat().st_size
        if target.is_file() and target.stat().st_size == size:
            return 0
        aside = target.with_name(f".{target.name}.new")
        digest = hashlib.sha256()
        with source.open("rb") as file, aside.open("wb") as written:
            while part := file.read(_CHUNK):
                digest.update(part)
                written.write(part)
            if not hasattr(os, "sync"):
                os.fsync(written.fileno())
        if _named_digest(name) not in (None, digest.hexdigest()):
            aside.unlink()
            raise _DamagedError
        aside.replace(target)
        return size

    def finish(self, backup: Backup, copy: Copy) -> None:
        if hasattr(os, "sync"):
            os.sync()  # what the note names is on the disk
        with atomic_write(self._path / NOTE) as file:
            file.write(backup.to_json())
        for path in self._path.glob("database-*"):
            if path.name != backup.database:
                path.unlink()
        for blobs, named in ((self._blobs, retention.images_named), (self._models, retention.model_files_named)):
            for batch in retention.batches(blobs.digests()):
                for digest in set(batch) - named(copy.connection, batch):
                    blobs.path(digest).unlink()
        for left in self._path.rglob(".*.new"):
            left.unlink()  # of a backup that was killed


@contextmanager
def _tar(target: Path) -> Iterator[tuple[_Into, Path]]:
    with _aside(target.with_name(f".{target.name}.aside")) as aside, atomic_write(target) as file:
        with suppress(AttributeError, OSError):
            os.fchmod(file.fileno(), 0o600)
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            yield _Tar(tar), aside


@contextmanager
def _folder(target: Path, store: Reading) -> Iterator[tuple[_Into, Path]]:
    """Raises StoreConflictError for a folder with something else, or another store's backup."""
    if target.is_dir() and any(target.iterdir()) and not (target / _MARK).exists():
        raise StoreConflictError(f"{target} holds something else; choose a new folder, or one with an earlier backup")
    if not target.exists():
        make_folder(target)
        with suppress(OSError):
            target.chmod(0o700)
    (target / _MARK).touch()  # so that a backup that was killed is taken up
    if (target / NOTE).is_file():
        known, note = read_note(target).identity, folder.read_note(store.folder) or {}
        if known != note.get("id"):
            raise StoreConflictError(f"{target} is the backup of another service's data; choose another folder")
    with _aside(target / ".aside") as aside:
        yield _Folder(target), aside


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A folder for the copy of the database, for its owner only; what a killed backup has left there goes."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def read_note(path: Path) -> Backup:
    """What the backup in a folder is. Raises StoreError."""
    with output_errors(path / NOTE), (path / NOTE).open("rb") as file:
        return from_json(file.read(LARGEST_NOTE))


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named_digest(name: str) -> str | None:
    """The digest that a file's name in a backup says it has; None for the database."""
    last = name.rpartition("/")[2].partition(".")[0]
    return last if len(last) == 64 else None
