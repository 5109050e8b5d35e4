"""Settings that people change on the pages. Each is declared here, with its default and its limits, and nowhere
else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select

from patchbank.errors import StoreValueError
from patchbank.store import audit_log, events, values
from patchbank.store.schema import settings
from patchbank.store.values import Actor


@dataclass(frozen=True, slots=True)
class Preference:
    """A setting. default: also says its type (bool, int, float, str). low, high: limits of numbers."""

    key: str
    default: Any
    about: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Present:
    """A setting as it is now. at, by: None, "" = nobody has changed it."""

    preference: Preference
    value: Any
    at: datetime | None
    by: str


KNOWN = {
    each.key: each
    for each in (
        Preference("retention.ok_days", 7.0, "Images of OK parts are removed after so many days.", 0, 36500),
        Preference("retention.review_days", 365.0, "Images of REVIEW parts are removed after so many days.", 0, 36500),
        Preference("retention.ng_days", 365.0, "Images of NG parts are removed after so many days.", 0, 36500),
        Preference("retention.error_days", 30.0, "Images of ERROR parts are removed after so many days.", 0, 36500),
        Preference(
            "retention.min_free_gb", 5.0, "Below so much free disk, the oldest images without a label go.", 0, 1e6
        ),
        Preference("review.sample_rate", 0.01, "Share of OK parts that chance sends to review.", 0, 1),
        Preference("review.ng", False, "NG parts go to review, too."),
        Preference("review.hide_scores", True, "No score is shown until a part has its label."),
        Preference("approval.second_person", False, "Who has made a version does not approve it."),
        Preference("session.hours", 12.0, "A person who does nothing is signed out after so many hours.", 0.1, 720),
        Preference("site", "", "Name of the plant, as pages and messages show it."),
    )
}


def get(connection: Connection, key: str) -> Any:
    """The value of a setting, or its default. Raises StoreValueError for an unknown one."""
    preference = _known(key)
    row = connection.execute(select(settings.c.value).where(settings.c.key == key)).first()
    return preference.default if row is None else row[0]


def all_now(connection: Connection) -> list[Present]:
    """All settings as they are now, in the order of their declaration."""
    rows = {row.key: row for row in connection.execute(select(settings))}
    return [
        Present(each, rows[key].value, rows[key].at, rows[key].by)
        if key in rows
        else Present(each, each.default, None, "")
        for key, each in KNOWN.items()
    ]


def put(connection: Connection, key: str, value: Any, *, by: Actor, reason: str = "") -> Any:
    """Changes a setting. Returns its value. Raises StoreValueError for an unknown setting or an impossible value."""
    value = _checked(_known(key), value)
    before = get(connection, key)
    values.upsert(connection, settings, {"key": key, "value": value, "at": values.now(), "by": by.name})
    audit_log.append(connection, by, "setting.put", f"setting/{key}", old=before, new=value, reason=reason)
    events.tell(connection, "setting", key=key)
    return value


def reset(connection: Connection, key: str, *, by: Actor, reason: str = "") -> None:
    """The setting has its default again."""
    preference, before = _known(key), get(connection, key)
    connection.execute(delete(settings).where(settings.c.key == key))
    about = f"setting/{key}"
    audit_log.append(connection, by, "setting.put", about, old=before, new=preference.default, reason=reason)
    events.tell(connection, "setting", key=key)


def _known(key: str) -> Preference:
    if key not in KNOWN:
        raise StoreValueError(f"there is no setting {values.text(key, 'key')!r}; there are {', '.join(KNOWN)}")
    return KNOWN[key]


def _checked(preference: Preference, value: Any) -> Any:
    kind = type(preference.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise StoreValueError(f"{preference.key}: expected {kind.__name__}; got {type(value).__name__}")
    if isinstance(value, str):
        return values.text(value, preference.key)
    low, high = preference.low, preference.high
    if low is not None and high is not None and not low <= value <= high:
        raise StoreValueError(f"{preference.key}: expected {low:g} to {high:g}; got {value:g}")
    return value
