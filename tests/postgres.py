"""A PostgreSQL server for tests.

It is looked for at 127.0.0.1:5432, or where PATCHBANK_POSTGRES says (a URL whose user may make databases). Where there
is none, its tests are skipped (fixture `postgres_server`).
"""

from __future__ import annotations

import os
import uuid

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

    def drop(self) -> None:
        """Removes all databases that were made."""
        while self.made:
            self.run(f"DROP DATABASE IF EXISTS {self.made.pop()} WITH (FORCE)")
