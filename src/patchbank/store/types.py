"""Column types that mean the same in SQLite and in PostgreSQL, each in the form that a database administrator expects.

| in Python | in SQLite | in PostgreSQL |
| --- | --- | --- |
| datetime with a time zone | TEXT: 2026-01-31T12:00:00.000000Z, always UTC | timestamp with time zone |
| UUID | TEXT: 36 characters, small letters | uuid |
| dict, list | TEXT: JSON | jsonb |
| the same, in the audit log, whose hashes need every digit as it was | TEXT: JSON | json |
| str that is searched or sorted | TEXT, compared byte by byte | text collate "C" |

In both, times and identifiers sort as they should.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Dialect, Integer, Text, TypeDecorator
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import TypeEngine


class Time(TypeDecorator[datetime]):
    """A moment. Bound values need a time zone; values that are read are in UTC."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """PostgreSQL has a type for it."""
        return dialect.type_descriptor(
            postgresql.TIMESTAMP(timezone=True) if dialect.name == "postgresql" else sqlite.TEXT()
        )

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Raises ValueError for a time without a time zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"expected a time with a time zone; got {value.isoformat()}")
        return value.astimezone(UTC) if dialect.name == "postgresql" else time_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """UTC."""
        if value is None:
            return None
        return (datetime.fromisoformat(value) if isinstance(value, str) else value).astimezone(UTC)


class Id(TypeDecorator[uuid.UUID]):
    """A UUID."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """PostgreSQL has a type for it."""
        return dialect.type_descriptor(postgresql.UUID(as_uuid=True) if dialect.name == "postgresql" else sqlite.TEXT())

    def process_bind_param(self, value: uuid.UUID | None, dialect: Dialect) -> Any:
        """As the database has it."""
        return value if value is None or dialect.name == "postgresql" else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> uuid.UUID | None:  # noqa: ARG002
        """A UUID."""
        return uuid.UUID(value) if isinstance(value, str) else value


class Json(TypeDecorator[Any]):
    """JSON; None is NULL. exact: as it was written; jsonb sorts keys and writes numbers anew. In SQLite it is a text:
    what is declared JSON makes a number of "1.0"."""

    impl = Text
    cache_ok = True

    def __init__(self, exact: bool = False) -> None:
        """exact: as it was written."""
        super().__init__()
        self.exact = exact

    def __repr__(self) -> str:
        return "Json(exact=True)" if self.exact else "Json()"

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """PostgreSQL has types for it."""
        if dialect.name != "postgresql":
            return dialect.type_descriptor(sqlite.TEXT())
        kind = postgresql.JSON if self.exact else postgresql.JSONB
        return dialect.type_descriptor(kind(none_as_null=True))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """As the database has it."""
        return value if value is None or dialect.name == "postgresql" else json_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """JSON values."""
        return value if value is None or dialect.name == "postgresql" else json.loads(value)


Key = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
Number = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up only what is declared INTEGER


def time_text(value: datetime) -> str:
    """ISO 8601 in UTC, always of the same length, so that texts sort as times do."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def json_text(value: Any, *, sort: bool = False) -> str:
    """JSON on one line. sort: keys in order. Raises ValueError for numbers that JSON does not have."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=sort)
