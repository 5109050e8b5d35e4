"""Writing files so that a reader sees the whole new file or the old one, never half of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from patchbank.errors import OutputError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Yields a binary file that becomes `path` when the block ends, and vanishes when the block raises.

    It is written aside in the same folder, synced to disk and renamed over `path`. Raises OutputError where that
    fails; an OSError of the file raised inside the block becomes one too, any other exception passes through.
    """
    target = Path(path)
    aside, file = _open_aside(target)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            aside.chmod(target.stat().st_mode & 0o777)
        aside.replace(target)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink()
        if isinstance(error, OSError) and not isinstance(error, OutputError):
            raise _output_error(target, error) from error
        raise
    _sync_folder(target.parent)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises OutputError now if `atomic_write(path)` could not start: to be asked before hours of work, not after."""
    aside, file = _open_aside(Path(path))
    file.close()
    with suppress(OSError):
        aside.unlink()


@contextmanager
def claimed(path: str | os.PathLike[str]) -> Iterator[None]:
    """Holds a file that is about to be read, changed and replaced, so that no other process that claims it does the
    same in between. Raises OutputError if one does. The system lets go of the file when the process ends, however.

    Without effect for a file that cannot be opened, or where the system has no such locks (there, Windows does not
    replace a file that is open).
    """
    try:
        import fcntl

        file = Path(path).open("rb")  # noqa: SIM115  (closed below)
    except (ImportError, OSError):
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{path} is being changed by another process; try again when that has ended") from error
        except OSError:  # a file system without locks
            pass
        if not os.path.samestat(os.fstat(file.fileno()), Path(path).stat()):
            raise OutputError(f"{path} was changed by another process just now; try again")
        yield


@contextmanager
def output_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """An OSError of the block becomes an OutputError that names the file that is being written."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise _output_error(Path(path), error) from error


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Makes a folder and those above it, where they are missing. Raises OutputError where that fails."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"cannot make the folder {folder}: a file has that name; choose another one") from error
    except OSError as error:
        raise _output_error(folder, error) from error
    return folder


def _open_aside(target: Path) -> tuple[Path, IO[bytes]]:
    if target.is_dir():
        raise OutputError(f"cannot write {target}: expected the name of a file, got a folder; name a file in it")
    if not target.parent.is_dir():
        raise OutputError(f"cannot write {target}: its folder does not exist; make it first")
    aside = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        return aside, aside.open("xb")
    except OSError as error:
        raise _output_error(target, error) from error


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power cut, where the system lets folders be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _output_error(target: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {target}: {reason}; free some space, or choose a folder that you may write to")
