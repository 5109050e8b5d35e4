"""What comes from outside is checked here before it is kept; and rows become dataclasses here."""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, select
from sqlalchemy.dialects import postgresql, sqlite

from patchbank.errors import StoreNotFoundError, StoreValueError
from patchbank.store.types import json_text
from patchbank.util.wording import printable

_T = TypeVar("_T")
NAME, LINE, TEXT = 200, 500, 10_000  # the longest name, line and text, in characters
JSON = 1_000_000  # the longest JSON, in characters
_NAME = re.compile(
    r"[^\W_](?:[\w .()+-]*[\w)+])?"
)  # of a model, stream, user or dataset; also a part of a URL and a file's name
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, slots=True)
class Actor:
    """Who does something: a person, a token, or the program. name: as it is shown and kept."""

    name: str
    user_id: int | None = None
    token_id: int | None = None


SYSTEM = Actor("system")


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


def text(value: str, what: str, longest: int = LINE) -> str:
    """The text. Raises StoreValueError if it is longer, or holds what no database keeps (NUL, halves of characters)."""
    if not isinstance(value, str) or len(value) > longest:
        got = f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
        raise StoreValueError(f"{what}: expected a text of at most {longest} characters; got {got}")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise StoreValueError(
            f"{what}: expected a text without NUL and halves of characters; got {printable(value[:100])!r}"
        )
    return value


def name(value: str, what: str) -> str:
    """A name that stands in URLs and lists, its characters composed (NFC). Raises StoreValueError for one that is no
    name."""
    value = unicodedata.normalize("NFC", value) if isinstance(value, str) else value
    if not _NAME.fullmatch(text(value, what, NAME)):
        raise StoreValueError(
            f"{what}: expected letters, digits, spaces and . ( ) + @ - _, beginning with a letter or digit; got "
            f"{printable(value)!r}"
        )
    return value


def reason(value: str, what: str = "reason") -> str:
    """A reason, which is never empty. Raises StoreValueError."""
    if not text(value, what, TEXT).strip():
        raise StoreValueError(f"{what}: expected a text that says why; got none")
    return value


def choice(value: str, valid: Collection[str], what: str) -> str:
    """One of the valid texts. Raises StoreValueError."""
    if value not in valid:
        raise StoreValueError(f"{what}: expected one of {', '.join(valid)}; got {printable(str(value)[:100])!r}")
    return value


def sha256(value: str, what: str) -> str:
    """A digest in hexadecimal. Raises StoreValueError; so it is safe as a part of a path."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise StoreValueError(f"{what}: expected a SHA-256 of 64 digits 0-9a-f; got {printable(str(value)[:100])!r}")
    return value


def finite(value: float | None) -> float | None:
    """The number; None for NaN and infinity, of which the databases think differently."""
    return value if value is not None and math.isfinite(value) else None


def json(value: Any, what: str) -> Any:
    """The value as JSON has it. Raises StoreValueError if JSON, or a database, does not have it, or it is too long."""
    try:
        written = json_text(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreValueError(f"{what}: expected what JSON has; {error}") from error
    if "\\u0000" in written:
        raise StoreValueError(f"{what}: expected texts without NUL")
    text(written, what, JSON)
    return value


def columns(cls: type[Any], table: Table, **others: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    """What to select for the fields of a dataclass: the table's columns of the same names, or the given ones."""
    names = [field.name for field in dataclasses.fields(cls)]
    return [others[each].label(each) if each in others else table.c[each] for each in names]


def row_of(cls: Callable[..., _T], row: Row[Any]) -> _T:
    """A row that was selected by `columns` as its dataclass."""
    return cls(*row)


def all_of(connection: Connection, cls: Callable[..., _T], query: Select[Any]) -> list[_T]:
    """All rows of a query that selects `columns`."""
    return [cls(*row) for row in connection.execute(query)]


def one_of(connection: Connection, cls: Callable[..., _T], query: Select[Any]) -> _T | None:
    """The row of a query that selects `columns`, or None."""
    row = connection.execute(query).first()
    return None if row is None else cls(*row)


def found(value: _T | None, what: str) -> _T:
    """The value. Raises StoreNotFoundError for None."""
    if value is None:
        raise StoreNotFoundError(f"there is no {what}")
    return value


def insert_new(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Inserts a row, unless a key of it is taken. Says whether it did. In PostgreSQL it waits for who is just inserting
    the same key."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = make(table).values(dict(row)).on_conflict_do_nothing().returning(*table.primary_key.columns)
    return connection.execute(statement).first() is not None


def upsert(connection: Connection, table: Table, row: Mapping[str, Any], add: Collection[str] = ()) -> None:
    """Inserts a row, or changes the one with the same primary key. add: columns whose value is added to what is
    there."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    keys = [column.name for column in table.primary_key.columns]
    statement = make(table).values(dict(row))
    changes = {
        name: table.c[name] + statement.excluded[name] if name in add else statement.excluded[name]
        for name in row
        if name not in keys
    }
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changes))


def exists(connection: Connection, query: Select[Any]) -> bool:
    """Says whether the query has a row."""
    return connection.execute(select(query.limit(1).exists())).scalar_one()
