"""All pages."""

from __future__ import annotations

from patchbank.server.web import static_files
from patchbank.server.web.pages import entry, inspections

ROUTES = (static_files.routes, entry.routes, inspections.routes)
