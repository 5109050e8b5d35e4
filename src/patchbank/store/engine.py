"""A store: a data folder with its database. It writes in one thread, and reads in any.

with open_store("data") as store:
    store.write(users.add, ...)                      # waits until it is on the disk
    page = store.read(inspections.page, Filter())    # in the caller's thread
    await asyncio.wrap_future(store.submit(...))     # in a service
    await asyncio.wrap_future(store.query(...))
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Engine

from patchbank.errors import StoreUnavailableError
from patchbank.store import databases, folder, identity
from patchbank.store.events import Events, Listener
from patchbank.store.folder import Folder
from patchbank.store.migrate import migrate
from patchbank.store.writer import Writer

_T = TypeVar("_T")
READERS = 4


class Store:
    """An open data folder. folder: where its files are. events: tells what was written, also by other processes."""

    def __init__(
        self, place: Folder, writer: Engine, readers: Engine, lock: folder.Lock | None, *, most_waiting: int = 1024
    ) -> None:
        """Made by `open_store`."""
        self.folder = place
        self.events = Events()
        self._lock = lock
        self._engines = (writer, readers)
        self._reading = databases.reading(readers)
        self._threads = ThreadPoolExecutor(READERS, "patchbank-reader")
        self._listener = None if self.is_embedded else Listener(writer.url, self.events)
        told = self.events.publish if self.is_embedded else None  # what PostgreSQL tells comes back by the listener
        self._writer = Writer(writer, most_waiting=most_waiting, committed=told)

    @property
    def is_embedded(self) -> bool:
        """Says whether the database is the folder's own (SQLite), not a server (PostgreSQL)."""
        return self._engines[0].dialect.name == "sqlite"

    @property
    def waiting(self) -> int:
        """Returns how many writes are waiting to be committed."""
        return self._writer.waiting

    def submit(self, function: Callable[..., _T], *args: Any, **named: Any) -> Future[_T]:
        """Calls function(connection, ...) in the writing thread. The future is done when the change is on the disk.

        Raises StoreBusyError if too many are waiting. The future raises what the function raised, StoreFullError,
        StoreUnavailableError or StoreConflictError. Its change is then undone, with one exception: if a database server
        goes away while it commits, nobody knows. So writes that are repeated need an identifier of their own.
        """
        return self._writer.submit(function, *args, **named)

    def write(self, function: Callable[..., _T], *args: Any, **named: Any) -> _T:
        """As `submit`, and waits."""
        if self._writer.is_this_thread():
            raise RuntimeError("a write cannot wait for another one: call the function with the same connection")
        return self.submit(function, *args, **named).result()

    def read(self, function: Callable[..., _T], *args: Any, **named: Any) -> _T:
        """Calls function(connection, ...) now, in this thread. All that it reads is one state of the database.

        Raises StoreUnavailableError if the database does not answer.
        """
        with databases.errors_of_the_store(), self._reading.connect() as connection, connection.begin():
            return function(connection, *args, **named)

    def query(self, function: Callable[..., _T], *args: Any, **named: Any) -> Future[_T]:
        """As `read`, in a thread of the store."""
        try:
            return self._threads.submit(self.read, function, *args, **named)
        except RuntimeError:  # what ThreadPoolExecutor raises after its end
            raise StoreUnavailableError("the store is closed: the service is stopping") from None

    def close(self) -> None:
        """Writes what is waiting, then lets go of the database and the folder."""
        self._writer.close()
        self._threads.shutdown()
        if self._listener:
            self._listener.close()
        for engine in self._engines:
            engine.dispose()
        if self._lock:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_store(
    data: str | os.PathLike[str], database: str | None = None, *, create: bool = True, most_waiting: int = 1024
) -> Store:
    """Opens a data folder, and brings its tables up to date. database: the URL of a PostgreSQL database; None: an
    embedded one in the folder. create: makes what is missing; False: raises StoreError if there is no store yet.

    Raises FolderInUseError if another process uses the embedded database, StoreError if the folder belongs to another
    database, is on a network file system, is damaged or was written by a later version.
    """
    place = identity.place_of(data, database, create=create)
    return _open_embedded(place, most_waiting) if database is None else _open_shared(place, database, most_waiting)


def _open_embedded(place: Folder, most_waiting: int) -> Store:
    folder.check_local(place)
    lock = folder.Lock(place)
    try:
        engine = databases.sqlite_writer(place.database)
        _prepare(engine, place, "sqlite")
        readers = databases.sqlite_readers(place.database, READERS + 2)
        return Store(place, engine, readers, lock, most_waiting=most_waiting)
    except BaseException:
        lock.release()
        raise


def _open_shared(place: Folder, database: str, most_waiting: int) -> Store:
    url = databases.postgres_url(database)
    engine = databases.postgres(url, READERS + 2)
    try:
        _prepare(engine, place, identity.shown(url))
        return Store(place, engine, engine, None, most_waiting=most_waiting)
    except BaseException:
        engine.dispose()
        raise


def _prepare(engine: Engine, place: Folder, name: str) -> None:
    with databases.errors_of_the_store(), engine.connect() as connection:
        if name == "sqlite":
            databases.quick_check(connection)
        migrate(connection)
        with connection.begin():
            identity.introduce(connection, place, name)
