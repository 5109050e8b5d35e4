"""Backups that the service makes when it is asked to, in the data folder: one at a time, in a thread."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from patchbank.errors import PatchbankError, StoreConflictError, StoreNotFoundError
from patchbank.server.logs import logger
from patchbank.store.backup import make
from patchbank.store.engine import Store

NAME = r"patchbank-[0-9]{8}T[0-9]{6}Z\.tar"


@dataclass(frozen=True, slots=True)
class Kept:
    """A backup. size: bytes; 0 while it is made. error: why it failed, or which files were missing."""

    name: str
    state: Literal["running", "done", "failed"]
    size: int
    made_at: datetime
    error: str = ""


class Backups:
    """The backups in a data folder. What was said of those that failed is forgotten when the service ends."""

    def __init__(self, store: Store) -> None:
        self._store, self._folder = store, store.folder.backups
        self._task: asyncio.Task[None] | None = None
        self._running: Kept | None = None
        self._failed: Kept | None = None
        self._remarks: dict[str, str] = {}
        self._stopping = False

    def begin(self) -> Kept:
        """Begins to make one. Raises StoreConflictError while another one is made."""
        if self._running is not None or self._stopping:
            raise StoreConflictError("a backup is being made already; wait until it is done")
        now = datetime.now(UTC)
        self._running, self._failed = Kept(f"patchbank-{now:%Y%m%dT%H%M%SZ}.tar", "running", 0, now), None
        self._task = asyncio.create_task(self._make(self._running))
        return self._running

    def listed(self) -> list[Kept]:
        """All of them, the newest first."""
        found = [each for each in (self._running, self._failed) if each is not None]
        if self._folder.is_dir():
            found += [self._done(path) for path in self._folder.iterdir() if re.fullmatch(NAME, path.name)]
        return sorted(found, key=lambda each: each.name, reverse=True)

    def path(self, name: str) -> Path:
        """The file of a backup that is done. Raises StoreNotFoundError."""
        path = self._folder / name
        if not re.fullmatch(NAME, name) or not path.is_file():
            raise StoreNotFoundError(f"there is no backup {name}")
        return path

    def remove(self, name: str) -> None:
        """Removes a backup. Raises StoreNotFoundError."""
        self.path(name).unlink(missing_ok=True)

    async def stop(self) -> None:
        """Stops the one that is being made; nothing of it stays."""
        self._stopping = True
        if self._task is not None:
            await self._task

    async def _make(self, kept: Kept) -> None:
        try:
            made = await asyncio.to_thread(make, self._store, self._folder / kept.name, stop=lambda: self._stopping)
            if missing := made.backup.missing_files:
                self._remarks[kept.name] = f"{missing} files of the data are missing or damaged; look at the disk"
                logger.error("backup %s: %s", kept.name, self._remarks[kept.name])
        except PatchbankError as error:
            self._failed = Kept(kept.name, "failed", 0, kept.made_at, str(error))
            logger.error("backup %s failed: %s", kept.name, error)
        except Exception:  # noqa: BLE001  (whatever it is, administrators see that there is no backup)
            self._failed = Kept(kept.name, "failed", 0, kept.made_at, "something unforeseen; see the service's log")
            logger.exception("backup %s failed", kept.name)
        finally:
            self._running = None

    def _done(self, path: Path) -> Kept:
        about = path.stat()
        made_at = datetime.fromtimestamp(about.st_mtime, UTC)
        return Kept(path.name, "done", about.st_size, made_at, self._remarks.get(path.name, ""))
