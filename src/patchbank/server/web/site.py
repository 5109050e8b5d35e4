"""All pages."""

from __future__ import annotations

from patchbank.server.web import static_files
from patchbank.server.web.pages import entry, inspection, inspections, line, model, models, review

ROUTES = (
    line.routes,
    static_files.routes,
    entry.routes,
    inspections.routes,
    inspection.routes,
    review.routes,
    models.routes,
    model.routes,
)
