"""The models of a line: each file is loaded once, proves itself before it decides, and is exchanged when its file is.

A new file is loaded beside the one in use. If it cannot be loaded, or does not score its own images as it did, the one
in use stays, and an alarm says why.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from patchbank import Inspector, PatchbankError, PatchCore, Runtime

logger = logging.getLogger("patchbank.line")
_LOOK = 2.0  # seconds
_QUEUE = 64


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that decides. name: its file's name without the ending."""

    name: str
    model: PatchCore
    inspector: Inspector

    @property
    def about(self) -> dict[str, str | int]:
        """What records say of it."""
        made_by = self.model.made_by
        return {
            "model_name": self.name,
            "model_sha256": made_by.sha256,
            "model_version": made_by.version,
            "software": made_by.software,
        }


class Slot:
    """A model's file, with what is loaded from it. `current` changes between two images."""

    def __init__(self, path: Path, runtime: Runtime) -> None:
        """Raises PatchbankError if the file cannot be used."""
        self.path, self._runtime = path, runtime
        self._stamp = _stamp(path)
        self.current = self._load()

    def look(self, alarm: Callable[[str, str | None], None]) -> None:
        """Loads the file if it is another one than before."""
        stamp = _stamp(self.path)
        if stamp in (self._stamp, None):
            return
        self._stamp = stamp
        what = f"model {self.path.name}"
        try:
            new = self._load()
        except PatchbankError as error:
            logger.error("%s: the new file cannot be used, and the model before stays: %s", self.path, error)
            alarm(what, f"the new file cannot be used, and the model before stays: {error}")
            return
        old, self.current = self.current, new
        made_by = new.model.made_by
        logger.warning("%s: version %d is in use now (%s)", self.path, made_by.version, made_by.sha256)
        alarm(what, None)
        old.inspector.close()

    def close(self, timeout: float = 10.0) -> None:
        """Lets go of it; images that wait are dropped, and an inspection that hangs is left behind."""
        closing = threading.Thread(target=self.current.inspector.close, kwargs={"cancel": True}, daemon=True)
        closing.start()
        closing.join(timeout)

    def _load(self) -> Loaded:
        model = PatchCore.load(self.path, runtime=self._runtime)
        if model.self_test_images:
            model.run_self_test()
        else:
            logger.warning("%s has no images to test itself with: update it, or fit it again", self.path)
        return Loaded(self.path.stem, model, model.inspector(workers=2, queue=_QUEUE))


class ModelHost:
    """All models of a line, by their files."""

    def __init__(self, paths: Iterable[Path], runtime: Runtime, alarm: Callable[[str, str | None], None]) -> None:
        """Loads them. Raises PatchbankError for one that cannot be used."""
        self._alarm = alarm
        self.slots: dict[Path, Slot] = {}
        for path in paths:
            if path not in self.slots:
                self.slots[path] = Slot(path, runtime)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="patchbank-models", daemon=True)
        self._thread.start()

    def look_now(self) -> None:
        """Looks at all files at once."""
        for slot in self.slots.values():
            try:
                slot.look(self._alarm)
            except Exception:
                logger.exception("%s cannot be looked at", slot.path)

    def close(self) -> None:
        """Lets go of all models."""
        self._ending.set()
        self._thread.join(30)
        for slot in self.slots.values():
            slot.close()

    def _watch(self) -> None:
        while not self._ending.wait(_LOOK):
            self.look_now()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file; None if there is none."""
    try:
        about = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns
