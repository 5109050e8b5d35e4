"""Writes a step of the tables' migrations from the difference between schema.py and the steps so far.

python tools/make_migration.py NUMBER NAME     writes src/patchbank/store/migrations/versions/NUMBER_NAME.py, to be read
and corrected

Alembic sees new and removed tables, columns, indexes and keys. It does not see changed CHECKs, triggers and conditions
of partial indexes: write those by hand. tests/store/test_migrations.py compares the outcome with schema.py in both
databases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from alembic.autogenerate import produce_migrations, render_python_code
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from patchbank.store import migrate, schema, types

NAMED = {id(types.Key): "Key", id(types.Number): "Number"}
HEAD = '''"""{about}."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from patchbank.store import types

revision = "{number}"
down_revision = {before!r}


'''


def rendered(kind: str, thing: Any, context: Any) -> Any:  # noqa: ARG001  (alembic calls it so)
    """Our own types by their names."""
    if kind == "type" and id(thing) in NAMED:
        return f"types.{NAMED[id(thing)]}"
    if kind == "type" and isinstance(thing, (types.Time, types.Id, types.Json)):
        return f"types.{thing!r}" if isinstance(thing, types.Json) else f"types.{type(thing).__name__}()"
    return False


def main() -> None:
    number, name = sys.argv[1:]
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        migrate.migrate(connection)
        before = migrate.revision_of(connection)
        options = {"render_item": rendered, "compare_type": True, "target_metadata": schema.metadata}
        context = MigrationContext.configure(connection, opts=options)
        steps = produce_migrations(context, schema.metadata)
        up = render_python_code(steps.upgrade_ops, render_item=rendered, migration_context=context)
        down = render_python_code(steps.downgrade_ops, render_item=rendered, migration_context=context)
    text = HEAD.format(about=name.replace("_", " ").capitalize(), number=number, before=before)
    text += f'def upgrade() -> None:\n    """To this step."""\n    {up}\n\n\n'
    text += f'def downgrade() -> None:\n    """To the step before."""\n    {down}\n'
    path = Path(migrate.FOLDER) / "versions" / f"{number}_{name}.py"
    path.write_text(text, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "ruff", "format", str(path)], check=True)  # noqa: S603
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
