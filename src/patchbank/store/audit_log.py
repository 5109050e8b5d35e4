"""Who did what, when and why: rows that are never changed, each with a hash over itself and the row before.

A changed, removed or inserted row breaks the chain from there on. Whoever can write the whole table can compute all
hashes anew, or cut its end off: that is found by an earlier head (`head`) that was kept elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, text

from patchbank.store import values
from patchbank.store.schema import audit_log
from patchbank.store.types import json_text, time_text
from patchbank.store.values import Actor

FIRST = "0" * 64
_LOCK = 0x61756469  # of PostgreSQL's advisory locks: one row at a time has the next number
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the audit log. n: from 1, without gaps. old, new: what was changed, as JSON values."""

    n: int
    at: datetime
    actor: str
    user_id: int | None
    token_id: int | None
    action: str
    object: str
    old: Any
    new: Any
    reason: str
    prev_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """The last row: to be kept elsewhere, and to be checked against later. n = 0: the log is empty."""

    n: int
    hash: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check found. rows: that were read; problems: in words, none if all is well; head: the last row."""

    rows: int
    problems: tuple[str, ...]
    head: Head


def append(
    connection: Connection,
    actor: Actor,
    action: str,
    about: str,
    *,
    old: Any = None,
    new: Any = None,
    reason: str = "",
) -> int:
    """Adds a row, as a part of the transaction that does what it tells of. about: the object, as "user/anna". Returns
    n."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    last = head(connection)
    row = {
        "n": last.n + 1,
        "at": values.now(),
        "actor": values.text(actor.name, "actor"),
        "user_id": actor.user_id,
        "token_id": actor.token_id,
        "action": action,
        "object": values.text(about, "object"),
        "old": values.json(old, "old"),
        "new": values.json(new, "new"),
        "reason": values.text(reason, "reason", values.TEXT),
        "prev_hash": last.hash,
    }
    connection.execute(insert(audit_log).values(**row, hash=_hash(row)))
    return last.n + 1


def head(connection: Connection) -> Head:
    """The last row."""
    row = connection.execute(select(audit_log.c.n, audit_log.c.hash).order_by(audit_log.c.n.desc()).limit(1)).first()
    return Head(*row) if row else Head(0, FIRST)


def page(
    connection: Connection,
    *,
    before: int | None = None,
    action: str = "",
    about: str = "",
    actor: str = "",
    limit: int = 100,
) -> list[Entry]:
    """Rows, the newest first. before: only those with a smaller n. about: of this object. actor: of this name."""
    query = select(*values.columns(Entry, audit_log)).order_by(audit_log.c.n.desc()).limit(limit)
    if before is not None:
        query = query.where(audit_log.c.n < before)
    for column, value in ((audit_log.c.action, action), (audit_log.c.object, about), (audit_log.c.actor, actor)):
        if value:
            query = query.where(column == value)
    return values.all_of(connection, Entry, query)


def verify(connection: Connection, anchors: tuple[Head, ...] = ()) -> Verified:
    """Reads the whole log and computes every hash. anchors: heads that were kept elsewhere; the log must still have
    them.

    Changed, removed and inserted rows are found without anchors; a log that was cut off at its end, or computed anew,
    with an anchor that is in the part that is gone or was changed.
    """
    problems: list[str] = []
    wanted = {anchor.n: anchor for anchor in anchors}
    last = Head(0, FIRST)
    rows = 0
    for entry in entries(connection):
        rows += 1
        if entry.n != last.n + 1:
            problems.append(
                f"rows {last.n + 1} to {entry.n - 1} are missing" if entry.n > last.n else f"row {entry.n} is too many"
            )
        elif entry.prev_hash != last.hash:
            problems.append(f"row {entry.n} does not follow from row {last.n}: one of them was changed or replaced")
        if entry.hash != _hash(asdict(entry)):
            problems.append(f"row {entry.n} was changed: its hash does not fit")
        if (anchor := wanted.pop(entry.n, None)) and anchor.hash != entry.hash:
            problems.append(f"row {entry.n} is not the one that the anchor names: the log was replaced")
        last = Head(entry.n, entry.hash)
        if len(problems) >= 100:
            problems.append("and more; the rest was not read")
            break
    else:
        wanted.pop(0, None)
        problems += [
            f"the log ends at row {last.n}; the anchor names row {n}: its end was cut off" for n in sorted(wanted)
        ]
    return Verified(rows, tuple(problems), last)


def entries(connection: Connection) -> Iterator[Entry]:
    """All rows, the oldest first, read in parts."""
    last = None  # not 0: a row that somebody has put before the first one is read, too
    while True:
        query = select(*values.columns(Entry, audit_log)).order_by(audit_log.c.n).limit(_PAGE)
        part = values.all_of(connection, Entry, query if last is None else query.where(audit_log.c.n > last))
        yield from part
        if len(part) < _PAGE:
            return
        last = part[-1].n


def _hash(row: dict[str, Any]) -> str:
    """SHA-256 over the row's columns but `hash`, as JSON with sorted keys; times as texts in UTC."""
    kept = {key: value for key, value in row.items() if key != "hash"}
    kept["at"] = time_text(kept["at"])
    return hashlib.sha256(json_text(kept, sort=True).encode()).hexdigest()
