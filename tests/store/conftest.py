"""Both databases, for real: each test begins with empty tables."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from patchbank.store.engine import Store, open_store
from postgres import Postgres


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an embedded database, to be copied."""
    path = tmp_path_factory.mktemp("template") / "data"
    open_store(path).close()
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A migrated database, and its data folder: one for all tests of a process."""
    url = postgres_server.make()
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
    server = request.getfixturevalue("postgres_server")
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
