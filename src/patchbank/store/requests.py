"""How a command reaches the service that has the embedded database open: by files in the data folder.

An embedded database has one writing process. So `patchbank users add` puts a request into `requests/`, the service does
it and puts an answer there. Who may write in the folder may ask; it belongs to the service's account alone.

    <id>.request    written aside and renamed: whole, or not there
    <id>.taken      the service has it
    <id>.answer     what came of it
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from patchbank import errors
from patchbank.errors import StoreError, StoreUnavailableError
from patchbank.store.folder import Folder
from patchbank.store.types import json_text

logger = logging.getLogger("patchbank.store")
_LARGEST = 65536  # bytes of a request
_OLD = 600.0  # seconds after which what nobody has fetched is removed
_POLL = 0.1
_PATIENCE = 60.0  # seconds that a command waits


class Receiver:
    """Looks for requests, in a thread of its own. perform(by, operation, arguments): does one, and returns JSON
    values."""

    def __init__(self, folder: Folder, perform: Callable[[str, str, Mapping[str, Any]], Any]) -> None:
        """Begins at once."""
        self._folder, self._perform = folder.requests, perform
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="patchbank-requests", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(_POLL):
            try:
                for path in sorted(self._folder.iterdir()):
                    if path.suffix == ".request":
                        self._take(path)
                    elif _is_old(path):
                        path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("cannot read requests of commands: %s", error)
                self._end.wait(5)

    def _take(self, path: Path) -> None:
        if _is_old(path):
            path.unlink(missing_ok=True)
            return
        taken = path.with_suffix(".taken")
        try:
            path.rename(taken)
        except FileNotFoundError:  # who asked has given up
            return
        try:
            answer = {"value": self._done(taken)}
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error)}
            if not isinstance(error, StoreError):
                logger.error("a request of a command failed", exc_info=error)
        _put(path.with_suffix(".answer"), answer, taken)
        taken.unlink(missing_ok=True)

    def _done(self, taken: Path) -> Any:
        with taken.open("rb") as file:
            content = file.read(_LARGEST + 1)
        asked = json.loads(content) if len(content) <= _LARGEST else None
        if not isinstance(asked, dict) or not isinstance(asked.get("arguments"), dict):
            raise errors.StoreValueError("a request is an object with by, operation and arguments")
        return self._perform(str(asked.get("by")), str(asked.get("operation")), asked["arguments"])


class Asked:
    """A request that waits for its answer."""

    def __init__(self, folder: Folder, by: str, operation: str, arguments: Mapping[str, Any]) -> None:
        """Puts it there."""
        self._path = folder.requests / f"{uuid4()}.request"
        self._until = time.monotonic() + _PATIENCE
        _put(self._path, {"by": by, "operation": operation, "arguments": dict(arguments)}, folder.path)

    def answer(self) -> tuple[bool, Any]:
        """Whether there is an answer, and which. Raises what the service raised."""
        path = self._path.with_suffix(".answer")
        try:
            said = json.loads(path.read_bytes())
        except FileNotFoundError:
            if time.monotonic() > self._until and self.withdraw():
                raise StoreUnavailableError(
                    "the service has the data folder open, but does not answer; look at its log, then try again"
                ) from None
            return False, None
        path.unlink(missing_ok=True)
        if "error" in said:
            kind = getattr(errors, said["error"], StoreError)
            raise (kind if issubclass(kind, StoreError) else StoreError)(said["message"])
        return True, said["value"]

    def withdraw(self) -> bool:
        """Takes the request back; False if the service has it already."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True


def _put(path: Path, content: Any, like: Path) -> None:
    """Writes a file that only its owner reads: the owner of `like`, if this is the system's administrator."""
    aside = path.with_suffix(".part")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            owner = like.stat()
            with suppress(OSError):
                os.chown(aside, owner.st_uid, owner.st_gid)
        file.write(json_text(content))
    aside.replace(path)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _OLD
    except FileNotFoundError:
        return False
