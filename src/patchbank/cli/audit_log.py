"""`patchbank audit-log`: who did what, and whether somebody has changed that since."""

from __future__ import annotations

import re
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchbank.cli.options import command
from patchbank.cli.service_data import FOLDER, AsJson, Data, Database, reading
from patchbank.cli.terminal import note, say, say_json, say_row
from patchbank.errors import ConfigError
from patchbank.util.wording import counted

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from patchbank.store.audit_log import Entry, Head

app = typer.Typer(help="Who did what in a service, when and why: verify, list, export.", no_args_is_help=True)

_CHANGED = 1
_MOST = 10_000


@command(app, "audit-log verify")
def verify(
    anchor: Annotated[
        list[str] | None,
        typer.Option(
            "--anchor", metavar="N:HASH", help="A head that an earlier check printed, and that was kept elsewhere."
        ),
    ] = None,
    data: Data = FOLDER,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Compute every hash of the log anew. Exit code 1 if a row was changed, removed or put in between. Who can write
    the whole table can also compute all hashes: keep the head that is printed elsewhere, and give it as --anchor."""
    from patchbank.store import audit_log

    anchors = tuple(_head(each) for each in anchor or ())
    with reading(data, database) as store:
        found = store.read(audit_log.verify, anchors)
    head = f"{found.head.n}:{found.head.hash}"
    if as_json:
        say_json({"valid": not found.problems, "rows": found.rows, "head": head, "problems": list(found.problems)})
    elif not found.problems:
        say(f"valid: {counted(found.rows, 'row')}, head {head}")
    else:
        for problem in found.problems:
            say(f"changed: {problem}")
    if found.problems:
        raise typer.Exit(_CHANGED)


@command(app, "audit-log list")
def list_rows(
    action: Annotated[str, typer.Option("--action", metavar="TEXT", help="Only this action: user.add, ...")] = "",
    about: Annotated[str, typer.Option("--object", metavar="TEXT", help="Only what was done to this: user/anna.")] = "",
    actor: Annotated[str, typer.Option("--actor", metavar="NAME", help="Only what this person or token did.")] = "",
    before: Annotated[int | None, typer.Option("--before", metavar="N", help="Only rows before this one.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="At most so many rows.")] = 100,
    data: Data = FOLDER,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List rows of the log, the newest first."""
    from patchbank.store import audit_log

    if not 1 <= limit <= _MOST:
        raise ConfigError(f"--limit: expected 1 to {_MOST}; got {limit}; 'audit-log export' has all rows")
    with reading(data, database) as store:
        found = store.read(audit_log.page, before=before, action=action, about=about, actor=actor, limit=limit)
    if as_json:
        say_json({"rows": [_facts(entry) for entry in found]})
        return
    for entry in found:
        change = "" if entry.old is None and entry.new is None else f"  {_short(entry.old)} -> {_short(entry.new)}"
        reason = f"  ({entry.reason})" if entry.reason else ""
        say(
            f"{entry.n:>6}  {entry.at:%Y-%m-%d %H:%M:%S}  {entry.actor}  {entry.action}  {entry.object}{change}{reason}"
        )


@command(app, "audit-log export")
def export(
    data: Data = FOLDER,
    database: Database = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a row, not CSV.")] = False,
) -> None:
    """Print the whole log, the oldest row first, with all columns: as CSV, or as JSON lines."""
    from patchbank.store import audit_log

    def printed(connection: Connection) -> int:
        rows = 0
        if not as_json:
            say_row(tuple(each.name for each in fields(audit_log.Entry)))
        for entry in audit_log.entries(connection):
            facts = _facts(entry)
            if as_json:
                say_json(facts)
            else:
                say_row(tuple(value if isinstance(value, (str, int)) else _short(value) for value in facts.values()))
            rows += 1
        return rows

    with reading(data, database) as store:
        note(counted(store.read(printed), "row"))


def _head(text: str) -> Head:
    """Raises ConfigError for a text that is no head."""
    from patchbank.store.audit_log import Head

    form = re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64})", text)
    if not form:
        raise ConfigError(f"--anchor: expected N:HASH as 'audit-log verify' prints it; got {text!r}")
    return Head(int(form[1]), form[2])


def _facts(entry: Entry) -> dict[str, Any]:
    from patchbank.store.types import time_text

    return asdict(entry) | {"at": time_text(entry.at)}


def _short(value: Any) -> str:
    from patchbank.store.types import json_text

    return "" if value is None else json_text(value)
