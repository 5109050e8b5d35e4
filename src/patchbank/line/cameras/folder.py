"""A folder as a camera: every image file that comes into it is a part.

A file is taken when nobody writes it any more: it was renamed into the folder, or its size and time have stood still,
and no process has it open for writing (where the system can tell). It is read once, as a whole. When its record is on
the disk it moves to `done` or `bad`, under its name. So a file that is killed upon stays, and is taken again; one whose
record is there already only moves on.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG

from patchbank import CameraError
from patchbank.imaging.formats import max_file_bytes
from patchbank.imaging.images import SUFFIXES
from patchbank.line.cameras.base import Frame
from patchbank.line.cameras.moves import Moves
from patchbank.line.record import writable
from patchbank.util.files import make_folder

logger = logging.getLogger("patchbank.line")
_F_SETSIG = 10  # Linux
_POLL = 0.1  # seconds
_PATIENCE = 5.0  # seconds that the end waits for a file that is being written
_LOOK_AGAIN = 0.05  # an old file that is the same after so long stands still


@dataclass(frozen=True)
class _Seen:
    """A file as it was looked at. same_since: monotonic time since which it has not changed."""

    path: Path
    size: int
    mtime: int
    key: str
    same_since: float


class FolderCamera:
    """Implements `Camera`. path, settle_ms, done, bad: as in `settings.py`. known: says whether a file of this key has
    a record already."""

    self_paced = True

    def __init__(
        self,
        path: str,
        settle_ms: int = 500,
        done: str = "done",
        bad: str = "bad",
        known: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.folder = Path(path)
        self._done, self._bad = self.folder / done, self.folder / bad
        self._settle, self._known = settle_ms / 1000, known
        self._seen: dict[str, _Seen] = {}
        self._taken: dict[str, str] = {}  # key by name: files that are being inspected, or could not be moved
        self._finished: deque[tuple[Frame, bool]] = deque()
        self._moves: Moves | None = None
        self._moved_in, self._told = set[str](), set[str]()
        self._first_seen: dict[str, float] = {}  # by `is_empty`
        self._number = 0

    def open(self) -> str:
        """Makes `done` and `bad`, and looks whether files can be moved there."""
        if not self.folder.is_dir():
            raise CameraError(f"{self.folder}: expected a folder; there is none")
        for each in (self._done, self._bad):
            make_folder(each)
        if not os.access(self.folder, os.W_OK):
            raise CameraError(f"{self.folder}: files cannot be moved out of it: permission denied")
        self._moves = Moves(self.folder)
        return f"folder {self.folder}: {len(list(self._images()))} image files wait"

    def grab(self, timeout: float) -> Frame | None:
        """The next file that nobody writes any more, oldest first."""
        end = time.monotonic() + timeout
        while True:
            self._move_finished()
            for path in self._ready():
                frame = self._read(path)
                if frame is not None:
                    return frame
            left = end - time.monotonic()
            if left <= 0:
                return None
            assert self._moves is not None
            self._moves.wait(min(left, _LOOK_AGAIN if self._seen else _POLL))

    @property
    def is_empty(self) -> bool:
        """Whether no image file waits that was not taken: but for what is left alone, and for files that somebody has
        been writing for too long."""
        now = time.monotonic()
        for path in self._images():
            if path.name in self._taken or path.name in self._told:
                continue
            if now - self._first_seen.setdefault(path.name, now) < max(_PATIENCE, 10 * self._settle):
                return False
            self._tell_once(path.name, "is still being written, and is left for the next time")
        return True

    def done(self, frame: Frame, usable: bool) -> None:
        """The file moves with the next `grab`, or at the end."""
        self._finished.append((frame, usable))

    def close(self) -> None:
        """Moves what is done."""
        self._move_finished()
        if self._moves:
            self._moves.close()
            self._moves = None

    # --- which files ---

    def _images(self) -> Iterator[Path]:
        try:
            entries = list(os.scandir(self.folder))
        except OSError as error:
            raise CameraError(f"{self.folder} cannot be read: {error.strerror}") from error
        for entry in entries:
            if not entry.name.startswith(".") and Path(entry.name).suffix.lower() in SUFFIXES:
                yield self.folder / entry.name

    def _ready(self) -> list[Path]:
        """Files that nobody writes any more, the oldest first."""
        now, seen = time.monotonic(), dict[str, _Seen]()
        self._moved_in |= self._moves.take() if self._moves else set()
        ready = []
        for path in self._images():
            try:
                about = path.lstat()
            except FileNotFoundError:
                continue
            if not S_ISREG(about.st_mode):
                self._tell_once(path.name, "is no file, and is left alone")
                continue
            key = f"{writable(path.name)}|{about.st_size}|{about.st_mtime_ns}|{about.st_ctime_ns}|{about.st_ino}"
            if self._taken.get(path.name) == key:
                continue
            before = self._seen.get(path.name)
            same = before is not None and before.key == key
            each = seen[path.name] = _Seen(
                path, about.st_size, about.st_mtime_ns, key, before.same_since if same and before else now
            )
            still = now - each.same_since
            old = same and still >= _LOOK_AGAIN * 0.9 and time.time() - about.st_mtime >= self._settle
            if path.name in self._moved_in or old or still >= self._settle:
                ready.append(each)
        self._seen = seen
        self._moved_in &= seen.keys()
        return [each.path for each in sorted(ready, key=lambda each: (each.mtime, each.path.name))]

    def _read(self, path: Path) -> Frame | None:
        """The file as a frame; None if it is not to be inspected now."""
        seen = self._seen[path.name]
        if self._known(seen.key):
            self._taken[path.name] = seen.key
            self._finished.append((Frame(0, datetime.now(UTC), 0.0, source=path.name, key=seen.key), True))
            self._move_finished()
            return None
        try:
            with path.open("rb") as file:
                if _is_written(file.fileno()):
                    return None
                about = os.fstat(file.fileno())
                if (about.st_size, about.st_mtime_ns) != (seen.size, seen.mtime):
                    return None
                content = file.read(max_file_bytes() + 1)
                after = os.fstat(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell_once(path.name, f"cannot be read: {error.strerror}")
            return None
        if (after.st_size, after.st_mtime_ns) != (seen.size, seen.mtime):
            return None
        if not content and time.time() - about.st_mtime < 10 * self._settle:
            return None  # its writer has made it, and has not begun yet
        self._taken[path.name] = seen.key
        self._seen.pop(path.name, None)
        self._number += 1
        return Frame(
            self._number, datetime.now(UTC), time.monotonic(), content=content, source=path.name, key=seen.key,
            part_id=path.stem,
        )  # fmt: skip

    # --- where they go ---

    def _move_finished(self) -> None:
        while self._finished:
            frame, usable = self._finished.popleft()
            target = _free(self._done if usable else self._bad, frame.source)
            try:
                (self.folder / frame.source).rename(target)
            except FileNotFoundError:
                pass  # somebody has taken it away
            except OSError as error:
                logger.error("%s is inspected, and cannot be moved to %s: %s", frame.source, target, error)
                continue  # it stays taken: not inspected again
            self._taken.pop(frame.source, None)

    def _tell_once(self, name: str, what: str) -> None:
        if name not in self._told and len(self._told) < 1000:
            self._told.add(name)
            logger.warning("%s %s", self.folder / name, what)


def _is_written(descriptor: int) -> bool:
    """Whether a process has the file open for writing. Without effect where the system does not tell."""
    with suppress(OSError, AttributeError, ImportError):
        import fcntl

        fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)  # who opens it right now sends this, and not one that kills
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            return True
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _free(folder: Path, name: str) -> Path:
    """Where a file of this name can go: another one of the name stays."""
    target, number = folder / name, 2
    while target.exists():
        target = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
        number += 1
    return target
