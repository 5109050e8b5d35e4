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
from patchbank.util.files import (
    atomic_write,
    check_writable,
    claimed,
    is_replaceable,
    make_folder,
    remove_left_behind,
)


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


# --- links, pipes, devices ---

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")


@needs_links
def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path: Path) -> None:
    """'current.patchbank' often is a link to the version in use: replacing it would leave that version as it was."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "v1").write_bytes(b"old")
    (tmp_path / "store" / "v1").chmod(0o640)
    (tmp_path / "second").symlink_to("store/v1")
    (tmp_path / "first").symlink_to(tmp_path / "second")
    check_writable(tmp_path / "first")
    with atomic_write(tmp_path / "first") as file:
        file.write(b"new")
        assert (tmp_path / "store" / "v1").read_bytes() == b"old"
    assert (tmp_path / "first").is_symlink()
    assert (tmp_path / "second").is_symlink()
    assert (tmp_path / "store" / "v1").read_bytes() == b"new"
    assert (tmp_path / "store" / "v1").stat().st_mode & 0o777 == 0o640
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["v1"]


@needs_links
def test_a_dangling_link_makes_its_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("new")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "new").read_bytes() == b"1"


@needs_links
def test_links_that_lead_nowhere_are_output_errors(tmp_path: Path) -> None:
    (tmp_path / "missing").symlink_to("no/folder")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "folder").symlink_to(tmp_path)
    for name, says in (("missing", "a link to .*whose folder does not exist"), ("a", "circle"), ("folder", "a folder")):
        with pytest.raises(OutputError, match=says):
            check_writable(tmp_path / name)
        with pytest.raises(OutputError, match=says), atomic_write(tmp_path / name):
            pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "folder", "missing"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_written_into_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)  # must not wait for a reader, nor end one's reading
    reader = subprocess.Popen([sys.executable, "-c", f"print(open({str(pipe)!r}).read())"], stdout=subprocess.PIPE)
    with atomic_write(pipe) as file:
        file.write(b"abcd")
        file.seek(1)  # as a zip file does; a pipe itself cannot
        file.write(b"B")
    assert reader.communicate(timeout=60)[0].split() == [b"aBcd"]
    assert pipe.is_fifo()
    assert not is_replaceable(pipe)
    with pytest.raises(KeyError), atomic_write(pipe):  # nothing is opened, so nobody is waited for
        raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_devices_are_written_into_and_stay_devices(tmp_path: Path) -> None:
    """As root, a rename would replace the device for everybody."""
    (tmp_path / "full").symlink_to("/dev/full")
    with atomic_write("/dev/null") as file:
        file.write(b"1")
    for path in ("/dev/full", tmp_path / "full"):
        with pytest.raises(OutputError, match="No space left"), atomic_write(path) as file:
            file.write(b"1")
    assert Path("/dev/full").is_char_device()
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="needs /dev/stdout")
def test_standard_output_by_its_name_is_written_on_not_begun_again(tmp_path: Path) -> None:
    code = (
        "from patchbank.util.files import atomic_write\nprint('before')\n"
        "with atomic_write('/dev/stdout') as file: file.write(b'between\\n')\nprint('after')"
    )
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text().split() == ["before", "between", "after"]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["before", "between", "after"]


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
