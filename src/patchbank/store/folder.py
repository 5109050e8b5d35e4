"""The data folder: where what lies, whose it is, and that only one process uses it.

patchbank.sqlite    the database, unless it is PostgreSQL
store.json          which database the folder belongs to
lock                held by the process that uses the folder
blobs/ thumbs/      images and small pictures of them, by digest
models/             model files, by digest
requests/           what other commands ask the running process to do
backups/            backups that the service has made when it was asked to
jobs/               what jobs under way work with; empty when there are none
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from patchbank.errors import StoreError
from patchbank.util.files import atomic_write, make_folder, output_errors

NETWORK = frozenset(
    [
        "9p",
        "afs",
        "afpfs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "fuse.ceph",
        "fuse.davfs2",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
        "webdav",
    ]
)
_DRIVE_REMOTE = 4
_LONGEST_NOTE = 10_000


class FolderInUseError(StoreError):
    """Another process uses the data folder."""


@dataclass(frozen=True)
class Folder:
    """A data folder. path: absolute."""

    path: Path

    @property
    def database(self) -> Path:
        """Returns the file of the embedded database."""
        return self.path / "patchbank.sqlite"

    @property
    def blobs(self) -> Path:
        """Returns the folder of images."""
        return self.path / "blobs"

    @property
    def thumbs(self) -> Path:
        """Returns the folder of small pictures."""
        return self.path / "thumbs"

    @property
    def models(self) -> Path:
        """Returns the folder of model files."""
        return self.path / "models"

    @property
    def requests(self) -> Path:
        """Returns the folder of requests to the running process."""
        return self.path / "requests"

    @property
    def backups(self) -> Path:
        """Returns the folder of backups that the service makes; it may be missing."""
        return self.path / "backups"

    @property
    def jobs(self) -> Path:
        """Returns the folder of the folders of jobs under way."""
        return self.path / "jobs"

    @property
    def note(self) -> Path:
        """Returns the file that says which database the folder belongs to."""
        return self.path / "store.json"


def made(path: str | os.PathLike[str]) -> Folder:
    """The data folder, made where it is missing: for its owner only. Raises OutputError where that fails."""
    folder = Folder(Path(path).absolute())
    if not folder.path.exists():
        make_folder(folder.path)
        with suppress(OSError):
            folder.path.chmod(0o700)
    for part in (folder.blobs, folder.thumbs, folder.models, folder.requests):
        make_folder(part)
    return folder


class Lock:
    """Says that this process uses the folder, or does something with it that no other may do now. The system lets go of
    it when the process ends, however."""

    def __init__(self, folder: Folder, name: str = "lock") -> None:
        """Raises FolderInUseError if another process has it."""
        with output_errors(folder.path / name):
            self._file: IO[bytes] | None = (folder.path / name).open("a+b")
        if not _locked(self._file):
            self._file.close()
            raise FolderInUseError(
                f"another process uses {folder.path}: an embedded database has one; stop that one first, choose "
                "another folder, or use PostgreSQL (--database URL), which several share"
            )

    def release(self) -> None:
        """Lets others have it."""
        if self._file:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _locked(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def check_local(folder: Folder) -> None:
    """Raises StoreError for a network file system: SQLite's log needs memory that processes share, and locks that
    hold."""
    kind = file_system(folder.path)
    if kind in NETWORK:
        raise StoreError(
            f"{folder.path} is on a network file system ({kind}), where an embedded database loses data; choose a "
            "folder on a disk of this machine, or use PostgreSQL (--database URL)"
        )


def file_system(path: Path) -> str:
    """The kind of the file system that the folder is on, in small letters; empty if the system does not say."""
    if sys.platform == "win32":
        drive = path.resolve().anchor
        remote = drive.startswith("\\\\") or ctypes.windll.kernel32.GetDriveTypeW(drive) == _DRIVE_REMOTE
        return "smbfs" if remote else "local"
    with suppress(OSError):
        return _mounted(
            Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"), path.resolve()
        )
    return ""


def _mounted(mountinfo: str, path: Path) -> str:
    """The kind of the last mount over the path (man 5 proc): fields, ' - ', kind, source, options."""
    longest, kind = -1, ""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4]))
        if len(point.parts) >= longest and path.is_relative_to(point):
            longest, kind = len(point.parts), after.split(" ")[0].lower()
    return kind


def read_note(folder: Folder) -> dict[str, Any] | None:
    """What `store.json` says: database (sqlite, or a URL without its password) and id; None for a new folder."""
    try:
        with folder.note.open("rb") as file:
            note = json.loads(file.read(_LONGEST_NOTE))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {folder.note}: {error}; restore it from a backup") from error
    if not isinstance(note, dict) or not isinstance(note.get("database"), str) or not isinstance(note.get("id"), str):
        raise StoreError(f"{folder.note}: expected the texts 'database' and 'id'; restore it from a backup")
    return note


def write_note(folder: Folder, database: str, identity: str) -> None:
    """Writes `store.json`."""
    with atomic_write(folder.note) as file:
        file.write(json.dumps({"database": database, "id": identity}, indent=2).encode() + b"\n")


def new_identity() -> str:
    """What a database and its folder know each other by."""
    return str(uuid.uuid4())
