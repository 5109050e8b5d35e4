"""Brings a database's tables to this version's, step by step: the modules in migrations/versions (alembic)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from patchbank.errors import StoreError

_LOCK = 0x70617463  # of PostgreSQL's advisory locks: one process migrates
FOLDER = Path(__file__).parent / "migrations"


def migrate(connection: Connection, to: str = "head") -> None:
    """Upgrades the tables to a revision, in one transaction. The connection must not be in one.

    Raises StoreError if a later version of patchbank has written the database.
    """
    _run(connection, to, down=False)


def downgrade(connection: Connection, to: str) -> None:
    """Goes back to an earlier revision; "base": no tables at all. What only the later tables hold is lost."""
    _run(connection, to, down=True)


def revision_of(connection: Connection) -> str | None:
    """The revision of the tables; None for an empty database."""
    return MigrationContext.configure(connection).get_current_revision()


def newest() -> str:
    """The revision that this version needs."""
    return _scripts().get_current_head() or ""


def _run(connection: Connection, to: str, *, down: bool) -> None:
    scripts = _scripts()
    embedded = connection.dialect.name == "sqlite"
    if embedded:  # tables are made anew when they change; what they refer to is checked afterwards
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.rollback()
    with connection.begin():
        if not embedded:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        present = revision_of(connection)
        if present is not None and present not in {script.revision for script in scripts.walk_revisions()}:
            raise StoreError(
                f"the database was written by a later version of patchbank (revision {present}); install that version, "
                "or restore a backup"
            )
        is_current = not down and present == scripts.get_current_head()
        if not is_current:
            _apply(connection, scripts, to, down)
        if embedded and not is_current and connection.execute(text("PRAGMA foreign_key_check")).first():
            raise StoreError("the database has rows that refer to missing ones; restore a backup")
    if embedded:
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        connection.rollback()


def _apply(connection: Connection, scripts: ScriptDirectory, to: str, down: bool) -> None:
    def steps(revision: Any, context: MigrationContext) -> Any:  # noqa: ARG001  (alembic calls it so)
        return scripts._downgrade_revs(to, revision) if down else scripts._upgrade_revs(to, revision)

    with EnvironmentContext(_config(), scripts, fn=steps) as environment:
        environment.configure(connection=connection, transactional_ddl=True)
        environment.run_migrations()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
