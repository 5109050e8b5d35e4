"""The images of a journal: files by the SHA-256 of their content. One thread writes and removes; any thread reads."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

from patchbank import ImageError
from patchbank.util.files import atomic_write, make_folder

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GRACE = 3600.0  # seconds: a file that is being written is younger


class Images:
    """A folder of image files: `ab/abcdef...`."""

    def __init__(self, root: Path) -> None:
        """The folder is made with the first image."""
        self.root = root

    def put(self, content: bytes) -> str:
        """Keeps the content, on the disk when this returns. Returns its digest. Raises OutputError."""
        digest = hashlib.sha256(content).hexdigest()
        path = self.path(digest)
        if not path.is_file():
            make_folder(path.parent)
            with atomic_write(path) as file:
                file.write(content)
        return digest

    def path(self, digest: str) -> Path:
        """Where an image is, or would be. Raises ImageError for what is no digest: nothing else becomes a path."""
        if not _SHA256.fullmatch(digest):
            raise ImageError(f"image: expected a SHA-256 of 64 digits 0-9a-f; got {digest[:100]!r}")
        return self.root / digest[:2] / digest

    def get(self, digest: str) -> bytes:
        """The content. Raises ImageError if it is gone, or is another one."""
        try:
            content = self.path(digest).read_bytes()
        except OSError as error:
            raise ImageError(
                f"image {digest}: expected its file; got none ({error.strerror}): its time was over, or "
                "it went to make room"
            ) from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise ImageError(f"{self.path(digest)} is damaged: its digest is another one")
        return content

    def remove(self, digest: str) -> None:
        """Removes an image, if it is there."""
        with suppress(OSError):
            self.path(digest).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes what a process that was killed has left half written."""
        for path in self.root.glob("*/.*.part"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _GRACE:
                    path.unlink()


def free_bytes(folder: Path) -> int:
    """The bytes that are free on the disk of a folder."""
    return shutil.disk_usage(folder).free
