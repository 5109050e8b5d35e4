"""The menu of all pages: who may not use an entry does not see it."""

from __future__ import annotations

from dataclasses import dataclass

from patchbank.server.access import Access, access_of
from patchbank.server.api import (
    audit,
    backup,
    datasets,
    drift,
    reading,
    registry,
    reviews,
    settings,
    streams,
    tokens,
    users,
)
from patchbank.server.web.language import N_


@dataclass(frozen=True)
class Entry:
    """key: what a page calls itself (`{% set current = "key" %}`). icon: one of `macros.html`. access: of what the page
    shows."""

    key: str
    path: str
    text: str
    access: Access
    icon: str = ""


MENU = (
    Entry("line", "/line", N_("Line"), access_of(reading.listed), "line"),
    Entry("inspections", "/inspections", N_("Inspections"), access_of(reading.listed), "grid"),
    Entry("review", "/review", N_("Review"), access_of(reviews.queue), "review"),
    Entry("drift", "/drift", N_("Drift"), access_of(drift.findings), "drift"),
    Entry("models", "/models", N_("Models"), access_of(registry.listed), "model"),
    Entry("train", "/train", N_("Training"), access_of(datasets.listed), "train"),
    Entry("settings", "/settings", N_("Settings"), access_of(settings.listed), "settings"),
)
SETTINGS = (
    Entry("preferences", "/settings", N_("General"), access_of(settings.listed)),
    Entry("users", "/settings/users", N_("People"), access_of(users.listed)),
    Entry("tokens", "/settings/tokens", N_("Tokens"), access_of(tokens.listed)),
    Entry("streams", "/settings/streams", N_("Streams"), access_of(streams.listed)),
    Entry("audit", "/settings/audit", N_("Audit log"), access_of(audit.page)),
    Entry("backup", "/settings/backup", N_("Backup"), access_of(backup.listed)),
)
