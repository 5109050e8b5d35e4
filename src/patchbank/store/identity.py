"""Which database a data folder belongs to. Both know the same identity, so that a command that is given another
database, or another folder, says so and does nothing: pictures would be missing, or a new user would go where nobody
looks."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, insert, select
from sqlalchemy.engine import URL

from patchbank.errors import StoreError
from patchbank.store import folder
from patchbank.store.folder import Folder
from patchbank.store.schema import settings

KEY = "store.id"  # of the settings


def shown(url: URL) -> str:
    """The URL without its password."""
    return url.set(drivername="postgresql", password=None).render_as_string()


def place_of(data: str | os.PathLike[str], database: str | None, *, create: bool) -> Folder:
    """The data folder. Raises StoreError if there is none and none is to be made, or if it belongs to another kind of
    database."""
    if not create and not (Path(data) / "store.json").is_file():
        raise StoreError(f"{data} is no data folder of the service; name the folder that 'patchbank serve --data' has")
    place = folder.made(data)
    note = folder.read_note(place)
    if note and database is None and note["database"] != "sqlite":
        raise StoreError(
            f"{place.path} belongs to the database {note['database']}; name it: --database {note['database']}"
        )
    if note and database is not None and note["database"] == "sqlite":
        raise StoreError(f"{place.path} has a database of its own; leave --database out, or choose another folder")
    return place


def introduce(connection: Connection, place: Folder, database: str) -> None:
    """Lets a new folder and a new database know each other. Raises StoreError if they belong to others."""
    note = folder.read_note(place)
    known = connection.execute(select(settings.c.value).where(settings.c.key == KEY)).scalar()
    if note is None and known is None:
        known = folder.new_identity()
        row = {"key": KEY, "value": known, "at": datetime.now(UTC), "by": "system"}
        connection.execute(insert(settings).values(row))
        folder.write_note(place, database, known)
    elif note is None:
        raise StoreError(
            f"the database {database} has its pictures in another folder, and {place.path} is new; name the folder "
            "that it was made with, or, if that is lost, write this into "
            f'{place.note}: {{"database": "{database}", "id": "{known}"}}'
        )
    elif known is None and note["database"] != database:
        raise StoreError(
            f"{place.path} belongs to the database {note['database']}, and {database} is empty; name that one"
        )
    elif known is None:  # the process was killed just after it had written the note
        known = note["id"]
        row = {"key": KEY, "value": known, "at": datetime.now(UTC), "by": "system"}
        connection.execute(insert(settings).values(row))
    elif known != note["id"]:
        raise StoreError(
            f"{place.path} belongs to another database than {database}: their identities differ; name the folder and "
            "the database that belong together"
        )
