"""A store: a data folder with its database. It writes in one thread, and reads in any.

with open_store("data") as store:
    store.write(users.add, ...)                      # waits until it is on the disk
    page = store.read(inspections.page, Filter())    # in the caller's thread
    await asyncio.wrap_future(store.submit(...))     # in a service
    await asyncio.wrap_future(store.query(...))
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Engine

from patchbank.errors import StoreUnavailableError
from patchbank.store import databases, folder, identity
from patchbank.store.blobs import Blobs
from patchbank.store.events import Events, Listener
from patchbank.store.folder import Folder
from patchbank.store.migrate import migrate
from patchbank.store.operations import perform
from patchbank.store.requests import Receiver
from patchbank.store.values import Actor
from patchbank.store.writer import Writer

_T = TypeVar("_T")
READERS = 4
CHECKED_BYTES = 500_000_000  # of a database that is read as a whole when it is opened; larger ones would take minutes


class Reading:
    """A data folder to read from. folder: where its files are. blobs: images; thumbs: small pictures of them; models:
    model files; all by digest."""

    def __init__(self, place: Folder, readers: Engine) -> None:
        """Made by `open_store` and `reading_only`."""
        self.folder = place
        self.blobs = Blobs(place.blobs)
        self.thumbs = Blobs(place.thumbs, derived=True)
        self.models = Blobs(place.models, suffix=".patchbank", spread=False)
        self.engine = readers
        self._reading = databases.reading(readers)

    @property
    def is_embedded(self) -> bool:
        """Says whether the database is the folder's own (SQLite), not a server (PostgreSQL)."""
        return self.engine.dialect.name == "sqlite"

    def read(self, function: Callable[..., _T], *args: Any, **named: Any) -> _T:
        """Calls function(connection, ...) now, in this thread. All that it reads is one state of the database.

        Raises StoreUnavailableError if the database does not answer.
        """
        with databases.errors_of_the_store(), self._reading.connect() as connection, connection.begin():
            return function(connection, *args, **named)

    def close(self) -> None:
        """Lets go of the database."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Store(Reading):
    """An open data folder. events: tells what was written, also by other processes."""

    def __init__(
        self,
        place: Folder,
        writer: Engine,
        readers: Engine,
        lock: folder.Lock | None,
        *,
        most_waiting: int,
        answer_requests: bool,
    ) -> None:
        """Made by `open_store`."""
        super().__init__(place, readers)
        self.events = Events()
        self._lock = lock
        self._writing = writer
        self._threads = ThreadPoolExecutor(READERS, "patchbank-reader")
        self._listener = None if self.is_embedded else Listener(writer.url, self.events)
        told = self.events.publish if self.is_embedded else None  # what PostgreSQL tells comes back by the listener
        self._writer = Writer(writer, most_waiting=most_waiting, committed=told)
        self._receiver = Receiver(place, self._perform) if self.is_embedded and answer_requests else None

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

    def query(self, function: Callable[..., _T], *args: Any, **named: Any) -> Future[_T]:
        """As `read`, in a thread of the store."""
        try:
            return self._threads.submit(self.read, function, *args, **named)
        except RuntimeError:  # what ThreadPoolExecutor raises after its end
            raise StoreUnavailableError("the store is closed: the service is stopping") from None

    def close(self) -> None:
        """Writes what is waiting, then lets go of the database and the folder."""
        if self._receiver:
            self._receiver.close()
        self._writer.close()
        self._threads.shutdown()
        if self._listener:
            self._listener.close()
        self._writing.dispose()
        super().close()
        if self._lock:
            self._lock.release()

    def _perform(self, by: str, operation: str, arguments: Mapping[str, Any]) -> Any:
        return self.write(perform, Actor(by), operation, arguments)


def open_store(
    data: str | os.PathLike[str],
    database: str | None = None,
    *,
    create: bool = True,
    most_waiting: int = 1024,
    answer_requests: bool = True,
) -> Store:
    """Opens a data folder, and brings its tables up to date. database: the URL of a PostgreSQL database; None: an
    embedded one in the folder. create: makes what is missing; False: raises StoreError if there is no store yet.

    Raises FolderInUseError if another process uses the embedded database, StoreError if the folder belongs to another
    database, is on a network file system, is damaged or was written by a later version.
    """
    place = identity.place_of(data, database, create=create)
    options = {"most_waiting": most_waiting, "answer_requests": answer_requests}
    return _open_embedded(place, options) if database is None else _open_shared(place, database, options)


def reading_only(place: Folder) -> Reading:
    """The embedded database of a folder that a service has open, to read from."""
    folder.check_local(place)
    return Reading(place, databases.sqlite_readers(place.database, READERS))


def _open_embedded(place: Folder, options: dict[str, Any]) -> Store:
    folder.check_local(place)
    lock = folder.Lock(place)
    try:
        engine = databases.sqlite_writer(place.database)
        _prepare(engine, place, "sqlite")
        readers = databases.sqlite_readers(place.database, READERS + 2)
        return Store(place, engine, readers, lock, **options)
    except BaseException:
        lock.release()
        raise


def _open_shared(place: Folder, database: str, options: dict[str, Any]) -> Store:
    url = databases.postgres_url(database)
    engine = databases.postgres(url, READERS + 2)
    try:
        _prepare(engine, place, identity.shown(url))
        return Store(place, engine, engine, None, **options)
    except BaseException:
        engine.dispose()
        raise


def _prepare(engine: Engine, place: Folder, name: str) -> None:
    with databases.errors_of_the_store(), engine.connect() as connection:
        if name == "sqlite" and place.database.stat().st_size <= CHECKED_BYTES:
            databases.quick_check(connection)
        migrate(connection)
        with connection.begin():
            identity.introduce(connection, place, name)
