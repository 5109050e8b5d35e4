"""Files by the SHA-256 of their content: images, small pictures of them, model files. Without a database.

A file is written aside, synced and renamed before the transaction that names it. So a row never names a file that is
not there; a file that no row names is an orphan, and `retention.sweep` removes it an hour later. A file that is put
again gets a new time, so that it is not swept while its row is on the way."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from patchbank.errors import OutputError, StoreError, StoreFullError, StoreNotFoundError, StoreUnavailableError
from patchbank.store import values
from patchbank.util.files import atomic_write, make_folder

GRACE_SECONDS = 3600.0
_TRASH = "trash"


class Blobs:
    """A folder of files by digest. root: made where it is missing. suffix: of the files' names. spread: in folders by
    the first two digits, for many files. derived: small pictures, by the digests of the images that they were made
    from."""

    def __init__(self, root: Path, *, suffix: str = "", spread: bool = True, derived: bool = False) -> None:
        """Makes the folders that are missing."""
        self.root, self._suffix, self._spread, self._derived = root, suffix, spread, derived
        for name in (*(f"{number:02x}" for number in range(256 if spread else 0)), _TRASH):
            if not (root / name).is_dir():
                make_folder(root / name)

    def put(self, content: bytes) -> str:
        """Keeps the content, on the disk when this returns. Returns its SHA-256. Raises StoreFullError if the disk is
        full, StoreUnavailableError if it cannot be written otherwise."""
        digest = hashlib.sha256(content).hexdigest()
        path = self.path(digest)
        if not self._touched(path):
            self._write(path, content)
        return digest

    def put_derived(self, digest: str, content: bytes) -> None:
        """Keeps what was made from the file of this digest: a small picture. It replaces what was there."""
        self._write(self.path(digest), content)

    def put_file(self, source: Path) -> str:
        """As `put`, with the content of a file, which may be large."""
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            path = self.path(digest)
            if self._touched(path):
                return digest
            file.seek(0)
            try:
                with atomic_write(path) as kept:
                    shutil.copyfileobj(file, kept, 1 << 20)
            except OutputError as error:
                raise _meaning(error, path) from error
        if self._digest_of(path) != digest:
            path.unlink()
            raise StoreError(f"{source} changed while it was copied; nothing was kept")
        return digest

    def path(self, digest: str) -> Path:
        """Where a file of this digest is, or would be. Raises StoreValueError for what is no digest: nothing else
        becomes a path."""
        name = values.sha256(digest, "digest") + self._suffix
        return self.root / digest[:2] / name if self._spread else self.root / name

    def has(self, digest: str) -> bool:
        """Says whether the file is there."""
        return self.path(digest).is_file()

    def get(self, digest: str) -> bytes:
        """The content. Raises StoreNotFoundError if it is not there, StoreError if the file was damaged or changed."""
        path = self.path(digest)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise StoreNotFoundError(f"there is no file {digest}: retention removed it, or it never came") from None
        except OSError as error:
            raise StoreUnavailableError(f"cannot read {path}: {error.strerror or error}") from error
        if not self._derived and hashlib.sha256(content).hexdigest() != digest:
            raise StoreError(f"{path} is damaged: its digest is another one; restore it from a backup")
        return content

    def digests(self) -> Iterator[str]:
        """The digests of all files, in order."""
        folders = sorted(path for path in self.root.iterdir() if path.is_dir() and len(path.name) == 2)
        for folder in folders if self._spread else [self.root]:
            for path in sorted(folder.iterdir()):
                if (name := path.name.removesuffix(self._suffix)) and len(name) == 64 and path.is_file():
                    yield name

    def is_old(self, digest: str, grace: float = GRACE_SECONDS) -> bool:
        """Says whether the file was put longer ago than a row takes on its way."""
        return _age(self.path(digest)) >= grace

    def take_out(self, digest: str, grace: float = GRACE_SECONDS) -> bool:
        """Puts the file where nobody finds it, to be removed (`remove`) or brought back (`bring_back`). False if it is
        not there, or was put again meanwhile."""
        path, trash = self.path(digest), self._trash(digest)
        try:
            path.replace(trash)
        except FileNotFoundError:
            return False
        if _age(trash) < grace:  # put again just before it was taken
            self.bring_back(digest)
            return False
        return True

    def bring_back(self, digest: str) -> None:
        """Undoes `take_out`."""
        with suppress(FileNotFoundError):
            self._trash(digest).replace(self.path(digest))

    def remove(self, digest: str) -> int:
        """Removes a file that was taken out. Returns its size in bytes."""
        trash = self._trash(digest)
        try:
            size = trash.stat().st_size
            trash.unlink()
        except FileNotFoundError:
            return 0
        return size

    def taken_out(self) -> list[str]:
        """The files that a process that was killed had taken out."""
        names = [path.name.removesuffix(self._suffix) for path in (self.root / _TRASH).iterdir()]
        return sorted(name for name in names if len(name) == 64)

    def sweep_unfinished(self, grace: float = GRACE_SECONDS) -> int:
        """Removes files that were being written when their process was killed. Returns how many."""
        gone = 0
        for path in self.root.rglob(".*.part"):
            if _age(path) > grace:
                with suppress(FileNotFoundError):
                    path.unlink()
                    gone += 1
        return gone

    def _write(self, path: Path, content: bytes) -> None:
        try:
            with atomic_write(path) as file:
                file.write(content)
        except OutputError as error:
            raise _meaning(error, path) from error

    def _trash(self, digest: str) -> Path:
        return self.root / _TRASH / (values.sha256(digest, "digest") + self._suffix)

    def _touched(self, path: Path) -> bool:
        """True if the file is there; it is as good as new then, and not swept."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _meaning(error, path) from error
        return True

    def _digest_of(self, path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(path: Path) -> int:
    """The bytes that are free on the disk of the folder."""
    return shutil.disk_usage(path).free


def _age(path: Path) -> float:
    """Seconds since the file was put; 0 if it is not there."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _meaning(error: OSError, path: Path) -> StoreError:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFullError(f"the disk is full: {path} was not kept; free some space")
    return StoreUnavailableError(f"cannot write {path}: {cause.strerror or cause}")
