"""Shared fixtures. Real images are found in ../shared/data or in the folder that PATCHBANK_DATA names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

from patchbank import native

if TYPE_CHECKING:
    from postgres import Postgres

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for tests that import ONNX Runtime themselves
# No example is late: several test processes share the processors.
settings.register_profile("patchbank", deadline=None)
settings.load_profile("patchbank")

DATA = Path(os.environ.get("PATCHBANK_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets (bottle, screw, mtd), or a skip that says why."""
    if not DATA.is_dir():
        pytest.skip(
            f"real images not found in {DATA}; set PATCHBANK_DATA to a folder that holds bottle/, screw/ and mtd/"
        )
    return DATA


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server, or a skip that says why."""
    psycopg = pytest.importorskip("psycopg")
    from postgres import SERVER, Postgres

    found = Postgres(SERVER)
    try:
        found.run("SELECT 1")
    except psycopg.OperationalError as error:
        pytest.skip(f"no PostgreSQL at {SERVER}; set PATCHBANK_POSTGRES to the URL of one ({error})")
    yield found
    found.drop()


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> str:
    """The URL of a new database."""
    return postgres_server.make()


@pytest.fixture
def built() -> None:
    """The compiled part, or a skip that says why; tests/test_search.py fails where it could have been built."""
    if not native.available():
        pytest.skip("the library was not built: pip install -e . where a C compiler is")


_WAYS = {"": "native", "avxvnni": "AVX-VNNI", "avx2": "AVX2", "any": "any processor", "0": "NumPy"}


@pytest.fixture(params=_WAYS, ids=_WAYS.values())
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything must be the same bits in C, on any processor, and in NumPy."""
    monkeypatch.setenv("PATCHBANK_NATIVE", request.param)
    if request.param != "0":
        request.getfixturevalue("built")
    if request.param in ("avxvnni", "avx2") and native.instructions() != request.param:
        pytest.skip(f"this processor, or the compiler, has no {_WAYS[request.param]}")
    return str(request.param)
