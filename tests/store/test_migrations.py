"""The steps between versions of the tables lead to the schema, and back, on both databases."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect, text

from patchbank import StoreError
from patchbank.store import audit_log, schema
from patchbank.store.databases import postgres, postgres_url, sqlite_writer
from patchbank.store.engine import Store, open_store
from patchbank.store.migrate import downgrade, migrate, newest, revision_of
from patchbank.store.schema import metadata
from patchbank.store.values import Actor


@pytest.fixture(params=["sqlite", "postgres"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A connection to an empty database."""
    if request.param == "sqlite":
        engine = sqlite_writer(tmp_path / "db.sqlite")
    else:
        engine = postgres(postgres_url(request.getfixturevalue("postgres_server").make()), 1)
    with engine.connect() as opened:
        yield opened
    engine.dispose()


def parts(sql: str) -> list[str]:
    """A statement without its layout, and without the order of its constraints."""
    inner = re.sub(r"\s*\)$", "", " ".join(sql.replace('"', "").split()))
    return sorted(re.split(", (?=CONSTRAINT )", inner))


def described(connection: Connection) -> dict[str, object]:
    """All that a database knows of its tables, as it says it."""
    if connection.dialect.name == "sqlite":
        rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")).all()
        found: dict[str, object] = {name: parts(sql or "") for name, sql in rows}
    else:
        found = {}
        for about, query in {
            "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name FROM "
            "information_schema.columns WHERE table_schema = 'public'",
            "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = 'public'::regnamespace",
            "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
            "triggers": "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
        }.items():
            found |= {f"{about} {row}": True for row in connection.execute(text(query)).all()}
    connection.rollback()
    return {name: what for name, what in found.items() if "alembic_version" not in name}


def test_the_steps_lead_to_the_schema(connection: Connection, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Word for word: columns, keys, checks, indexes with their conditions, triggers."""
    migrate(connection)
    with connection.begin():
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    after_steps = described(connection)
    downgrade(connection, "base")
    with connection.begin():
        metadata.create_all(connection)
        for statement in schema.triggers(connection.dialect.name):
            connection.execute(text(statement))
    assert after_steps == described(connection)
    assert len(after_steps) > 40


def test_up_down_up(connection: Connection) -> None:
    assert revision_of(connection) is None
    connection.rollback()
    migrate(connection)
    assert revision_of(connection) == newest()
    connection.rollback()
    first = described(connection)
    migrate(connection)  # again: nothing happens
    assert described(connection) == first
    downgrade(connection, "base")
    assert {name for name in described(connection) if "alembic" not in name} == set()
    assert [name for name in inspect(connection).get_table_names() if name != "alembic_version"] == []
    connection.rollback()
    migrate(connection)
    assert described(connection) == first


def test_a_database_of_a_later_version_is_refused(store: Store, place: tuple[Path, str | None], reopen: Any) -> None:
    """An older program must not write into tables that it does not know."""
    store.write(audit_log.append, Actor("anna"), "x", "y")
    store.write(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")) and None)
    store.close()
    try:
        with pytest.raises(StoreError, match=r"later version of patchbank \(revision 9999\)"):
            open_store(*place)
    finally:
        if place[1]:  # the tables are shared by this process' tests
            with create_engine(postgres_url(place[1])).begin() as connection:
                connection.execute(text(f"UPDATE alembic_version SET version_num = '{newest()}'"))


def test_a_step_that_fails_leaves_the_tables_as_they_were(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration is one transaction: a service that was killed in it finds what was there before."""
    migrate(connection)
    before = described(connection)

    def fails(*arguments: object) -> None:
        raise RuntimeError("killed")

    from alembic.operations import Operations

    original: Callable[..., Any] = Operations.drop_table
    monkeypatch.setattr(
        Operations,
        "drop_table",
        lambda self, name, **rest: fails() if name == "users" else original(self, name, **rest),
    )
    with pytest.raises(RuntimeError):
        downgrade(connection, "base")
    connection.rollback()
    assert described(connection) == before
