"""A range of time as a range of identifiers: those of inspections sort by time (UUIDs of version 7). So every index
that ends with the identifier also finds times, and no column of times needs one."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Column, ColumnElement

from patchbank.errors import StoreValueError
from patchbank.util.uuid7 import first_of


def between(column: Column[Any], since: datetime | None, until: datetime | None) -> list[ColumnElement[bool]]:
    """The conditions for identifiers of the time from `since` on, and before `until`. Raises StoreValueError for a time
    that no identifier has: without a zone, or before 1970."""
    bounds: list[ColumnElement[bool]] = []
    if since is not None:
        bounds.append(column >= first(since, "since"))
    if until is not None:
        bounds.append(column < first(until, "until"))
    return bounds


def first(at: datetime, what: str) -> UUID:
    """The smallest identifier of a time. Raises StoreValueError."""
    try:
        return first_of(at)
    except (ValueError, OverflowError) as error:
        raise StoreValueError(f"{what}: {error}") from error
