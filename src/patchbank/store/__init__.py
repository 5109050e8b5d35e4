"""What the service keeps: inspections, models, reviews, people, jobs, and the files that belong to them. No HTTP here.

`engine.open_store` opens a data folder. The modules beside it hold functions that take a connection first:

    store = open_store("data")
    future = store.submit(inspections.insert, new)      # written and synced when the future is done
    page = store.read(inspections.page, Filter(stream_id=3))
"""

from __future__ import annotations

try:
    import sqlalchemy as _sqlalchemy  # noqa: F401  (one place says what is missing)
except ImportError as error:
    from patchbank.errors import MissingExtraError

    raise MissingExtraError("the service needs its database library; run: pip install 'patchbank[serve]'") from error
