"""A data folder made of a backup. Every digest is computed anew; the database, the audit log and the files are checked
against each other before the folder gets its name. So a folder that is there is whole."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, Engine, delete, select
from sqlalchemy.engine import URL

from patchbank.errors import StoreConflictError, StoreError
from patchbank.store import audit_log, backup, databases, dumps, folder, identity, retention
from patchbank.store.audit_log import Head
from patchbank.store.backup import Backup
from patchbank.store.blobs import Blobs
from patchbank.store.engine import open_store
from patchbank.store.folder import Folder
from patchbank.store.migrate import migrate
from patchbank.store.schema import sessions, settings
from patchbank.store.values import Actor
from patchbank.util.files import make_folder, output_errors
from patchbank.util.progress import Progress, silent
from patchbank.util.wording import printable

_NAME = re.compile(
    r"backup\.json|database-[0-9a-f]{16}\.(sqlite|dump)|models/(?P<model>[0-9a-f]{64})\.patchbank|blobs/[0-9a-f]{2}/(?P<image>[0-9a-f]{64})"
)
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored. missing: digests of files that the database names and the backup does not have."""

    backup: Backup
    missing: tuple[str, ...]


def restore(
    source: Path, data: Path, database: str | None = None, *, by: Actor, progress: Progress = silent
) -> Restored:
    """Makes a data folder of a backup. data: a folder that is not there, or is empty. database: the URL of an empty
    PostgreSQL database; None: an embedded one, as the backup has it. A backup of an embedded database can be restored
    into PostgreSQL, not the other way round.

    Nobody is signed in afterwards, and the audit log says what was restored. Raises StoreConflictError for a folder or
    a database that holds something, StoreError for a backup that is damaged or not whole, OutputError.
    """
    data = data.absolute()
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise StoreConflictError(f"{data} holds something already; choose a folder that is new or empty")
    url = None if database is None else databases.postgres_url(database)
    if url is not None:
        with _engine(url) as engine:
            dumps.check_empty(engine)
    make_folder(data.parent)
    work = Path(tempfile.mkdtemp(prefix=f".{data.name}.", suffix=".restoring", dir=data.parent))
    try:
        with output_errors(data):
            restored = _restored(source, folder.made(work), url, progress)
            with open_store(work, database) as store:
                store.write(_noted, restored.backup, by)
            if hasattr(os, "sync"):
                os.sync()
            with suppress(FileNotFoundError):
                data.rmdir()
            work.rename(data)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return restored


def _restored(source: Path, place: Folder, url: URL | None, progress: Progress) -> Restored:
    copy, found = _unpacked(source, place, progress)
    if found.kind == "postgresql" and url is None:
        raise StoreError("the backup is of a PostgreSQL database; name an empty one: --database URL")
    if found.kind == "sqlite":
        _brought_up_to_date(copy)
    if url is None:
        copy.replace(place.database)
        with dumps.opened(place.database) as connection:
            missing = _checked(connection, place, found)
    else:
        with _engine(url) as engine:
            _filled(engine, copy, found, url, progress)
            with databases.errors_of_the_store(), databases.reading(engine).connect() as connection:
                missing = _checked(connection, place, found)
        copy.unlink()
    folder.write_note(place, "sqlite" if url is None else identity.shown(url), found.identity)
    return Restored(found, missing)


def _unpacked(source: Path, place: Folder, progress: Progress) -> tuple[Path, Backup]:
    """Puts the files into their places. Returns the copy of the database and what the note says. What is damaged is
    left out, and missed later."""
    images, models = Blobs(place.blobs), Blobs(place.models, suffix=".patchbank", spread=False)
    note, databases_found = b"", dict[str, tuple[Path, str]]()
    for number, (name, content) in enumerate(_members(source)):
        form = _NAME.fullmatch(name)
        if form is None:
            raise StoreError(f"{source} has something that no backup has: {printable(name[:100])}")
        if name == backup.NOTE:
            note = content.read(backup.LARGEST_NOTE)
        elif wanted := form["image"] or form["model"]:
            path = images.path(wanted) if form["image"] else models.path(wanted)
            if _written(content, path) != wanted:
                path.unlink()
        else:
            path = place.path / name
            databases_found[name] = (path, _written(content, path))
        progress("restore", number, 0)
    if not note:
        raise StoreError(f"{source} is no whole backup: {backup.NOTE} is not there; take an earlier one")
    found = backup.from_json(note)
    copy, digest = databases_found.pop(found.database, (None, ""))
    if copy is None or digest != found.sha256:
        raise StoreError(f"the copy of the database in {source} is damaged, or not there; take another backup")
    for path, _ in databases_found.values():  # of a backup that was killed before its note was written
        path.unlink()
    return copy, found


def _members(source: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The names in a backup with their contents. Raises StoreError for what is no backup."""
    if source.is_dir():
        for pattern in (backup.NOTE, "database-*", "models/*.patchbank", "blobs/??/*"):
            for path in sorted(source.glob(pattern)):
                if not path.name.startswith("."):
                    with path.open("rb") as file:
                        yield path.relative_to(source).as_posix(), file
        return
    try:
        with tarfile.open(source, "r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is None:
                    raise StoreError(f"{source} has what no backup has: {printable(member.name[:100])} is no file")
                yield member.name, content
    except tarfile.TarError as error:
        raise StoreError(f"{source} is no backup: expected a tar file or a folder ({error})") from error


def _written(content: IO[bytes], path: Path) -> str:
    """Writes a file. Returns its digest. What is damaged raises no error here: it has another digest."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        while part := content.read(_CHUNK):
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def _brought_up_to_date(copy: Path) -> None:
    """Checks a copy of an embedded database, and gives it this version's tables."""
    with dumps.opened(copy) as connection:
        dumps.check_sqlite(connection)
    engine = databases.sqlite_writer(copy)
    try:
        with databases.errors_of_the_store(), engine.connect() as connection:
            migrate(connection)
    finally:
        engine.dispose()


def _filled(engine: Engine, copy: Path, found: Backup, url: URL, progress: Progress) -> None:
    """Fills an empty PostgreSQL database."""
    if found.kind == "postgresql":
        dumps.pg_restore(copy, url)
        return
    with databases.errors_of_the_store(), engine.connect() as connection:
        migrate(connection)
        with connection.begin(), dumps.opened(copy) as rows:
            dumps.copy_rows(rows, connection, progress)


def _checked(connection: Connection, place: Folder, found: Backup) -> tuple[str, ...]:
    """Holds the database, the note and the files against each other. Returns the files that were missing already when
    the backup was made. Raises StoreError."""
    if connection.execute(select(settings.c.value).where(settings.c.key == identity.KEY)).scalar() != found.identity:
        raise StoreError("the database is not the one that the backup's note names: their identities differ")
    if problems := audit_log.verify(connection, (Head(*found.head),)).problems:
        raise StoreError(f"the audit log of the backup was changed: {'; '.join(problems[:3])}")
    images, models = Blobs(place.blobs), Blobs(place.models, suffix=".patchbank", spread=False)
    missing = [*retention.missing_images(connection, images)]
    missing += [digest for digest in retention.all_model_files(connection) if not models.has(digest)]
    if len(missing) > found.missing_files:
        raise StoreError(
            f"{len(missing)} files that the database names are damaged or not in the backup, as {missing[0]}; take "
            "another backup"
        )
    return tuple(missing)


def _noted(connection: Connection, found: Backup, by: Actor) -> None:
    connection.execute(delete(sessions))
    about = {"made_at": found.made_at.isoformat(), "head": f"{found.head[0]}:{found.head[1]}"}
    audit_log.append(connection, by, "backup.restore", "store", new=about)


@contextmanager
def _engine(url: URL) -> Iterator[Engine]:
    engine = databases.postgres(url, 2)
    try:
        yield engine
    finally:
        engine.dispose()
