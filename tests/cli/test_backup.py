"""`patchbank backup` and `patchbank restore`, as scripts use them; the store's tests say what is in a backup."""

from __future__ import annotations

import json

import pytest

from patchbank.store.engine import open_store

from .conftest import failure, run


@pytest.fixture
def data(tmp_path):
    """A data folder with a person."""
    from patchbank.store import users

    with open_store(tmp_path / "data") as store:
        store.write(users.add, "anna", "admin", argon2="hash")
    return tmp_path / "data"


def test_a_backup_while_the_service_runs_and_its_restore(data, tmp_path):
    with open_store(data):
        said = run("backup", "--data", data, "-o", tmp_path / "b.tar").stdout
        made = json.loads(run("backup", "--data", data, "-o", tmp_path / "b", "--json").stdout)
    assert said.startswith(f"{tmp_path / 'b.tar'}: 0 images, 0 model files, sqlite; wrote 1 file, ")
    assert (made["kind"], made["missing_files"], made["files_written"]) == ("sqlite", 0, 1)
    assert (tmp_path / "b.tar").stat().st_mode & 0o077 == 0  # it holds hashes of passwords
    for number, kept in enumerate(("b.tar", "b")):
        again = tmp_path / f"again{number}"
        assert "as it was at" in run("restore", tmp_path / kept, "--data", again).stdout
        assert json.loads(run("users", "list", "--json", "--data", again).stdout)["users"][0]["name"] == "anna"
        assert run("audit-log", "verify", "--anchor", made["head"], "--data", again).stdout.startswith("valid: 2 rows")
    found = json.loads(run("restore", tmp_path / "b", "--data", tmp_path / "c", "--json").stdout)
    assert (found["images"], found["missing"]) == (0, [])


def test_what_cannot_be_is_one_line_and_a_code(data, tmp_path):
    run("backup", "--data", data, "-o", tmp_path / "b.tar")
    assert "holds something" in failure("restore", tmp_path / "b.tar", "--data", data, code=8)
    assert "no data folder" in failure("backup", "--data", tmp_path / "no", "-o", tmp_path / "c.tar", code=8)
    assert "something else" in failure("backup", "--data", data, "-o", data.parent, code=8)
    (tmp_path / "b.tar").write_bytes(b"damaged")
    assert "is no backup" in failure("restore", tmp_path / "b.tar", "--data", tmp_path / "new", code=8)
    assert "No such file" in failure("restore", tmp_path / "no.tar", "--data", tmp_path / "new", code=7)


def test_a_missing_image_is_an_error_after_the_backup(data, tmp_path):
    from patchbank.store import datasets

    with open_store(data) as store:
        digest = store.blobs.put(b"image")
        number = store.write(datasets.add, "d", by=anybody()).id
        store.write(datasets.add_images, number, [datasets.NewImage(digest, "a.png", "train", 5)])
        store.blobs.path(digest).unlink()
    result = run("backup", "--data", data, "-o", tmp_path / "b.tar", code=8)
    assert f"1 file of the data are missing or damaged, as {digest}" in result.stderr
    assert "were missing already" in run("restore", tmp_path / "b.tar", "--data", tmp_path / "again").stderr


def anybody():
    from patchbank.store.values import Actor

    return Actor("test")
