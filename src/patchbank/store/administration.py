"""Changes that commands make, whether a service runs or not."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from patchbank.store import folder, identity
from patchbank.store.engine import Reading, open_store, reading_only
from patchbank.store.folder import FolderInUseError
from patchbank.store.operations import perform
from patchbank.store.requests import Asked
from patchbank.store.values import Actor

_POLL = 0.05


def administer(
    data: str | os.PathLike[str], database: str | None, by: str, operation: str, arguments: Mapping[str, Any]
) -> Any:
    """Does one of `operations.OPERATIONS` in a data folder, which is made where it is missing. by: who asks.

    With an embedded database that a service has open, the service does it. With PostgreSQL, both write. Raises
    StoreUnavailableError if the service does not answer.
    """
    asked: Asked | None = None
    while True:
        try:
            with open_store(data, database, answer_requests=False) as store:
                if asked:  # the service has ended meanwhile
                    asked.withdraw()
                return store.write(perform, Actor(by), operation, arguments)
        except FolderInUseError:
            asked = asked or Asked(folder.made(data), by, operation, arguments)
        done, value = asked.answer()
        if done:
            return value
        time.sleep(_POLL)


def open_to_read(data: str | os.PathLike[str], database: str | None) -> Reading:
    """A store to read from, also while a service has it open. Raises StoreError if there is none."""
    try:
        return open_store(data, database, create=False, answer_requests=False)
    except FolderInUseError:
        return reading_only(identity.place_of(data, database, create=False))
