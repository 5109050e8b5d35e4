"""All pages."""

from __future__ import annotations

from patchbank.server.web import static_files
from patchbank.server.web.pages import entry, inspection, inspections, review

ROUTES = (static_files.routes, entry.routes, inspections.routes, inspection.routes, review.routes)
