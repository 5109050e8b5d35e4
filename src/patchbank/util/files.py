"""Writing files so that a reader sees the whole new file or the old one, never half of it.

A link is followed: the file that it leads to is replaced, and the link stays. A pipe or a device is written into."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from patchbank.errors import OutputError

_MOST_LINKS = 40  # as the kernel follows
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/([0-9]{1,6})")  # /dev/stdout is a link to such a name
_MOST_ASIDE, _LOOKED_AT = 1000, 8  # files that are written under one name at the same time; that may be left behind


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Yields a binary file that becomes `path` when the block ends, and vanishes when the block raises.

    It is written aside in the same folder, synced to disk and renamed over `path`. What is no file (a pipe, a device,
    /dev/stdout) gets the whole content once the block has ended. Raises OutputError where that fails; an OSError of the
    file raised inside the block becomes one too, any other exception passes through.
    """
    target = _followed(Path(path))
    if not _replaceable(target):
        with _written_into(target) as file:
            yield file
        return
    aside, file = _open_aside(target)
    try:
        with file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if target.exists():
                    aside.chmod(target.stat().st_mode & 0o777)
                _close_first_on_windows(file)
                aside.replace(target)
            except BaseException:
                _close_first_on_windows(file)
                with suppress(OSError):
                    aside.unlink()
                raise
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise _output_error(target, error) from error
    _sync_folder(target.parent)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises OutputError now if `atomic_write(path)` could not start: to be asked before hours of work, not after."""
    target = _followed(Path(path))
    if not _replaceable(target):
        if not os.access(target, os.W_OK):
            raise OutputError(f"cannot write {target}: permission denied")
        return
    aside, file = _open_aside(target)
    with file, suppress(OSError):
        _close_first_on_windows(file)
        aside.unlink()


def is_replaceable(path: str | os.PathLike[str]) -> bool:
    """True if `atomic_write(path)` makes a file, or replaces one; False for a pipe, a device or /dev/stdout."""
    return _replaceable(_followed(Path(path)))


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


def _followed(path: Path) -> Path:
    """Follows the links of a file's name to the end. Descriptors of this process (/dev/stdout) stay as named."""
    target = path
    for _ in range(_MOST_LINKS):
        if _DESCRIPTOR.fullmatch(str(target)) or not target.is_symlink():
            if target != path and not target.parent.is_dir():
                raise OutputError(f"cannot write {path}: it is a link to {target}, whose folder does not exist")
            return target
        try:
            target = target.parent / target.readlink()
        except OSError as error:
            raise _output_error(path, error) from error
    raise OutputError(f"cannot write {path}: its links lead in a circle; name another file")


def _replaceable(target: Path) -> bool:
    if _DESCRIPTOR.fullmatch(str(target)):
        return False
    try:
        mode = target.stat().st_mode
    except (OSError, ValueError):  # nothing there yet, or what cannot be: the attempt to write says why
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


@contextmanager
def _written_into(target: Path) -> Iterator[IO[bytes]]:
    """Yields a temporary file whose content goes into a pipe or a device, in one go, when the block ends."""
    try:
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            if descriptor := _DESCRIPTOR.fullmatch(str(target)):
                if sys.stdout:
                    sys.stdout.flush()
                number = int(descriptor[1])
                opened = os.fdopen(os.dup(number), "wb")  # not opened by its name: a file would be begun again
            else:
                opened = target.open("wb")
            with opened:
                shutil.copyfileobj(file, opened)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise _output_error(target, error) from error


def _open_aside(target: Path) -> tuple[Path, IO[bytes]]:
    if target.is_dir():
        raise OutputError(f"cannot write {target}: expected the name of a file, got a folder; name a file in it")
    if not target.parent.is_dir():
        raise OutputError(f"cannot write {target}: its folder does not exist; make it first")
    remove_left_behind(target)
    try:
        for number in range(_MOST_ASIDE):
            aside = _aside(target, number)
            with suppress(FileExistsError):  # another one writes it
                file = aside.open("xb")
                if _locked(file, aside):
                    return aside, file
                file.close()
    except OSError as error:
        raise _output_error(target, error) from error
    raise OutputError(f"cannot write {target}: {_MOST_ASIDE} others are writing it; try again when they have ended")


def remove_left_behind(path: str | os.PathLike[str]) -> None:
    """Removes what processes that were killed while they wrote `path` have left beside it. A writer holds a lock until
    its file has its final name; where there are no locks, what is left stays."""
    try:
        import fcntl
    except ImportError:
        return
    for number in range(_LOOKED_AT):
        aside = _aside(Path(path), number)
        with suppress(OSError):
            if not stat.S_ISREG(aside.lstat().st_mode):
                continue
            with aside.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file.fileno()), aside.stat()):  # and not one that has just been begun
                    aside.unlink()


def _aside(target: Path, number: int) -> Path:
    """The name under which a file is written: it says whose it is, as far as names may be long."""
    longest, name = 255, target.name
    if hasattr(os, "pathconf"):
        with suppress(OSError, ValueError):
            longest = os.pathconf(target.parent, "PC_NAME_MAX")
    while len(os.fsencode(f".{name}.{number:04d}.part")) > longest and name:
        name = name[:-1]
    return target.with_name(f".{name}.{number:04d}.part")


def _close_first_on_windows(file: IO[bytes]) -> None:
    """Closes a file on Windows, which neither renames nor removes an open file. Elsewhere the file stays open, and so
    locked, until its name is gone: another process takes a file without a lock for one that was left behind."""
    if os.name == "nt":
        file.close()


def _locked(file: IO[bytes], aside: Path) -> bool:
    """Locks a file that was just made; False if another process took it for one left behind, and removed it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # a system, or a file system, without locks: nothing is removed there
        return True
    try:
        return os.path.samestat(os.fstat(file.fileno()), aside.stat())
    except FileNotFoundError:
        return False


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
