"""Both databases, for real: each test begins with empty tables.

PostgreSQL is looked for at 127.0.0.1:5432, or where PATCHBANK_POSTGRES says (a URL whose user may make databases).
Where there is none, its tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from patchbank.store.engine import Store, open_store
from patchbank.store.schema import metadata

SERVER = os.environ.get("PATCHBANK_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")


class Postgres:
    """A server on which tests make databases."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.made: list[str] = []

    def run(self, *statements: str) -> None:
        import psycopg

        with psycopg.connect(self.url, autocommit=True, connect_timeout=3) as connection:
            for statement in statements:
                connection.execute(statement)

    def make(self) -> str:
        """The URL of a new database."""
        name = f"patchbank_test_{uuid.uuid4().hex[:12]}"
        self.run(f"CREATE DATABASE {name} TEMPLATE template0")
        self.made.append(name)
        return self.url.rpartition("/")[0] + f"/{name}"

    def empty(self, url: str) -> None:
        """Removes all rows but the database's identity, and counts from 1 again: a hundred times as quick as a new
        database."""
        import psycopg

        tables = [f'DELETE FROM "{name}"' for name in metadata.tables if name != "settings"]
        with psycopg.connect(url, autocommit=True, connect_timeout=3) as connection, connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")  # no triggers, no foreign keys
            for statement in (*tables, "DELETE FROM settings WHERE key <> 'store.id'"):
                connection.execute(statement)
            connection.execute(
                "SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, 1, false) FROM pg_sequences"
            )


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A PostgreSQL server, or a skip that says why."""
    psycopg = pytest.importorskip("psycopg")
    found = Postgres(SERVER)
    try:
        found.run("SELECT 1")
    except psycopg.OperationalError as error:
        pytest.skip(f"no PostgreSQL at {SERVER}; set PATCHBANK_POSTGRES to the URL of one ({error})")
    yield found
    for name in list(found.made):
        found.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an embedded database, to be copied."""
    path = tmp_path_factory.mktemp("template") / "data"
    open_store(path).close()
    return path


@pytest.fixture(scope="session")
def postgres_template(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A migrated database, and its data folder: one for all tests of a process."""
    url = server.make()
    path = tmp_path_factory.mktemp("template") / "data"
    open_store(path, url).close()
    return url, path


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str | None]:
    """A data folder and its database's URL (None: embedded), with empty tables: on each database in turn."""
    data = tmp_path / "data"
    if request.param == "sqlite":
        shutil.copytree(request.getfixturevalue("template"), data)
        return data, None
    server = request.getfixturevalue("server")
    url, folder = request.getfixturevalue("postgres_template")
    server.empty(url)
    shutil.copytree(folder, data)
    return data, url


@pytest.fixture
def reopen(place: tuple[Path, str | None]) -> Iterator[Callable[[], Store]]:
    """Opens the store of this test; closes at its end what is still open."""
    opened: list[Store] = []

    def one() -> Store:
        opened.append(open_store(*place))
        return opened[-1]

    yield one
    for each in opened:
        each.close()


@pytest.fixture
def store(reopen: Callable[[], Store]) -> Store:
    """An empty store, on each database in turn."""
    return reopen()
