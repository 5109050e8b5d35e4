"""All pages."""

from __future__ import annotations

from patchbank.server.web import static_files
from patchbank.server.web.pages import (
    drift,
    entry,
    inspection,
    inspections,
    line,
    model,
    models,
    people,
    review,
    settings,
)

ROUTES = (
    static_files.routes,
    entry.routes,
    line.routes,
    inspections.routes,
    inspection.routes,
    review.routes,
    models.routes,
    model.routes,
    settings.routes,
    people.routes,
    drift.routes,
)
