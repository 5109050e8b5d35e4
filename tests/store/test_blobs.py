"""Files by digest: whole or not there, found by digests only, and not swept from under a row on its way."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from patchbank import StoreError, StoreFullError, StoreNotFoundError, StoreValueError
from patchbank.store.blobs import Blobs


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def test_a_file_is_found_by_its_digest(blobs: Blobs) -> None:
    digest = blobs.put(b"image")
    assert digest == hashlib.sha256(b"image").hexdigest()
    assert blobs.path(digest) == blobs.root / digest[:2] / digest
    assert blobs.get(digest) == b"image"
    assert blobs.has(digest)
    assert blobs.put(b"image") == digest
    assert list(blobs.digests()) == [digest]
    with pytest.raises(StoreNotFoundError, match="retention"):
        blobs.get(hashlib.sha256(b"other").hexdigest())


@pytest.mark.parametrize(
    "wrong", ["", "..", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", "/" * 64]
)
def test_nothing_but_a_digest_becomes_a_path(blobs: Blobs, wrong: str) -> None:
    for call in (blobs.path, blobs.get, blobs.has, blobs.take_out, blobs.remove):
        with pytest.raises(StoreValueError, match="SHA-256"):
            call(wrong)


def test_a_file_that_was_changed_is_not_given_out(blobs: Blobs) -> None:
    digest = blobs.put(b"image")
    blobs.path(digest).write_bytes(b"imaGe")
    with pytest.raises(StoreError, match="damaged"):
        blobs.get(digest)


def test_a_large_file_is_copied(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.write_bytes(os.urandom(3_000_000))
    models = Blobs(tmp_path / "models", suffix=".patchbank", spread=False)
    digest = models.put_file(source)
    assert models.path(digest) == tmp_path / "models" / f"{digest}.patchbank"
    assert models.get(digest) == source.read_bytes()
    assert models.put_file(source) == digest
    assert list(models.digests()) == [digest]


def test_a_full_disk_leaves_nothing(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreFullError, match="disk is full"):
            blobs.put(b"image")
    assert list(blobs.digests()) == []
    assert [path for path in blobs.root.rglob("*") if path.is_file()] == []
    blobs.put(b"image")


def test_many_threads_put_the_same_file(blobs: Blobs) -> None:
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(blobs.put, [b"image"] * 64))
    assert len(digests) == 1
    assert blobs.get(digests.pop()) == b"image"


def test_a_file_that_was_put_again_is_not_taken_out(blobs: Blobs) -> None:
    """The sweep and a new row for the same image: the image must stay, whoever comes first."""
    digest = blobs.put(b"image")
    old = 1_000_000_000
    os.utime(blobs.path(digest), (old, old))
    assert blobs.is_old(digest)
    blobs.put(b"image")
    assert not blobs.is_old(digest)
    assert not blobs.take_out(digest)
    assert blobs.get(digest) == b"image"
    os.utime(blobs.path(digest), (old, old))
    assert blobs.take_out(digest)
    assert not blobs.has(digest)
    assert blobs.taken_out() == [digest]
    blobs.bring_back(digest)
    assert blobs.get(digest) == b"image"
    assert blobs.take_out(digest)
    assert blobs.remove(digest) == 5
    assert blobs.remove(digest) == 0
    assert not blobs.take_out(digest)
    assert blobs.put(b"image") == digest


def test_what_was_being_written_is_swept(blobs: Blobs) -> None:
    unfinished = blobs.root / "ab" / ".abc.0000.part"
    unfinished.write_bytes(b"half")
    assert blobs.sweep_unfinished() == 0
    os.utime(unfinished, (1_000_000_000, 1_000_000_000))
    assert blobs.sweep_unfinished() == 1
    assert not unfinished.exists()
