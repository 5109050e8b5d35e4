"""Files are whole or absent: what atomic_write leaves behind after success and after every kind of failure."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from patchbank.errors import OutputError, PatchbankError
from patchbank.util.files import atomic_write, check_writable, claimed, make_folder


def test_writes_the_whole_file_and_nothing_else(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"abc")
        assert not (tmp_path / "a.bin").exists()  # nothing under the final name before the end
    assert (tmp_path / "a.bin").read_bytes() == b"abc"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("raised", [KeyError("x"), KeyboardInterrupt(), PatchbankError("no")])
def test_a_failure_keeps_the_old_file_and_passes_through(tmp_path: Path, raised: BaseException) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(type(raised)), atomic_write(target) as file:
        raise raised if file.write(b"new") == 3 else AssertionError
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_full_disk_is_an_output_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.bin.*No space left"), atomic_write(tmp_path / "a.bin"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_takes_no_bytes_is_an_output_error(tmp_path: Path) -> None:
    """A real ENOSPC of a write inside the block, not a simulated one."""
    with (
        pytest.raises(OutputError, match="No space left"),
        atomic_write(tmp_path / "a.bin"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="its folder does not exist"), atomic_write(tmp_path / "no" / "a.bin"):
        pass


def test_a_folder_as_target_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="expected the name of a file"), atomic_write(tmp_path):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    """A temporary file is private; the finished one must be as readable as any other new file, or as the old one."""
    (tmp_path / "plain").write_bytes(b"")
    with atomic_write(tmp_path / "new"):
        pass
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "new").chmod(0o640)
    with atomic_write(tmp_path / "new"):
        pass
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


def test_long_and_odd_names(tmp_path: Path) -> None:
    name = "é" * 100 + " %s.html"
    with atomic_write(tmp_path / name) as file:
        file.write(b"1")
    assert (tmp_path / name).read_bytes() == b"1"


def test_a_path_is_checked_before_the_work_and_nothing_is_left(tmp_path: Path) -> None:
    check_writable(tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").write_bytes(b"old")
    check_writable(tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"old"
    with pytest.raises(OutputError, match="its folder does not exist"):
        check_writable(tmp_path / "no" / "a.bin")
    with pytest.raises(OutputError, match="expected the name of a file"):
        check_writable(tmp_path)


def test_folders_are_made_or_refused(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert make_folder(tmp_path / "a" / "b").is_dir()  # twice is fine
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file has that name"):
        make_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="Not a directory"):
        make_folder(tmp_path / "file" / "c")


def test_a_name_without_a_file_is_refused() -> None:
    """Path("..") and Path("/") have no name of a file; they must not surface as a ValueError."""
    for name in ("/", "..", ""):
        with pytest.raises(OutputError):
            check_writable(name)


needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="no such locks")


@needs_locks
def test_a_claimed_file_is_refused_to_others(tmp_path: Path) -> None:
    """Two updates at the same time: the second is told so before it has done any work, and nothing is lost."""
    path = tmp_path / "m"
    path.write_bytes(b"1")
    with claimed(path):
        with pytest.raises(OutputError, match="being changed by another process"), claimed(path):
            raise AssertionError
        with atomic_write(path) as file:
            file.write(b"2")
    with claimed(path):
        assert path.read_bytes() == b"2"


@needs_locks
def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"1")
    code = f"import os; from patchbank.util.files import claimed\nwith claimed({str(path)!r}): os._exit(3)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3
    with claimed(path):
        pass


@needs_locks
def test_a_file_that_was_replaced_before_the_lock_came_is_refused(tmp_path: Path, monkeypatch) -> None:
    import fcntl

    path = tmp_path / "m"
    path.write_bytes(b"1")
    lock = fcntl.flock

    def replaced_meanwhile(file, operation) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        with atomic_write(path) as other:
            other.write(b"2")
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", replaced_meanwhile)
    with pytest.raises(OutputError, match="just now"), claimed(path):
        raise AssertionError


def test_what_is_not_there_can_be_claimed(tmp_path: Path) -> None:
    """Who reads it says what is wrong with it, better than a lock could."""
    with claimed(tmp_path / "none"):
        pass
