"""Files are whole or absent: what atomic_write leaves behind after success and after every kind of failure."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from patchbank.errors import OutputError, PatchbankError
from patchbank.util.files import atomic_write, check_writable, claimed, make_folder, remove_left_behind


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


def killed_while_writing(path: Path) -> None:
    code = (
        "import os; from patchbank.util.files import atomic_write\n"
        f"with atomic_write({str(path)!r}) as file: file.write(b'half'); file.flush(); os._exit(3)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3


@needs_locks
def test_the_next_write_removes_what_a_killed_one_has_left(tmp_path: Path) -> None:
    killed_while_writing(tmp_path / "a.bin")
    assert [p.name for p in tmp_path.iterdir()] == [".a.bin.0000.part"]  # which says whose it is
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"whole")
    assert (tmp_path / "a.bin").read_bytes() == b"whole"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    killed_while_writing(tmp_path / "a.bin")
    remove_left_behind(tmp_path / "a.bin")
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@needs_locks
def test_what_another_one_still_writes_is_not_removed(tmp_path: Path) -> None:
    """Two at a time: each has a file of its own until its end, and the last one that ends stays."""
    path = tmp_path / "a.bin"
    with atomic_write(path) as first:
        first.write(b"1")
        with atomic_write(path) as second:
            second.write(b"2")
            remove_left_behind(path)
            check_writable(path)
            assert sorted(p.name for p in tmp_path.iterdir()) == [".a.bin.0000.part", ".a.bin.0001.part"]
        assert path.read_bytes() == b"2"
        remove_left_behind(path)
    assert path.read_bytes() == b"1"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@needs_locks
def test_many_write_the_same_file_at_the_same_time(tmp_path: Path) -> None:
    """Nobody takes another one's file for one left behind: each write ends, and the file is one of them, whole."""
    path = tmp_path / "a.bin"

    def write(number: int) -> None:
        with atomic_write(path) as file:
            file.write(bytes([number]) * 5000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))
    assert len(set(path.read_bytes())) == 1
    assert path.stat().st_size == 5000
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_what_only_has_the_name_is_left_alone(tmp_path: Path) -> None:
    """A link or a folder under the name that a file is written aside as: nothing is written through it."""
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / ".a.bin.0000.part").symlink_to(tmp_path / "other")
    (tmp_path / ".a.bin.0001.part").mkdir()
    with atomic_write(tmp_path / "a.bin") as file:
        file.write(b"1")
    assert (tmp_path / "other").read_bytes() == b"other"
    assert (tmp_path / "a.bin").read_bytes() == b"1"
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127 + "x", "x" * 241])
def test_the_longest_name_that_a_file_may_have(tmp_path: Path, name: str) -> None:
    """The name that it has while it is written is as long as that, and no longer."""
    with atomic_write(tmp_path / name) as file:
        file.write(b"1")
        assert all(len(os.fsencode(p.name)) <= 255 for p in tmp_path.iterdir())
    assert [p.name for p in tmp_path.iterdir()] == [name]
