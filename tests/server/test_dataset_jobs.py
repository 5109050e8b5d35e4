"""Jobs about datasets: what an audit finds, and that a folder of the server is read only where it may be."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from parts import striped
from patchbank import ConfigError
from patchbank.server.jobs.folder import JobFolder, unique_names
from patchbank.server.jobs.importing import below, take_folder
from patchbank.server.jobs.tools import Tools
from patchbank.store.blobs import Blobs
from server.conftest import calling, png, service_of
from server.test_jobs import CONFIG, begun, client, dataset_of, over


def test_an_audit_finds_the_bad_image():
    rng = np.random.default_rng(7)
    bad = png(striped(rng, defect=True))
    digest = hashlib.sha256(bad).hexdigest()
    with client(service_of()) as http:
        dataset = dataset_of(http, [*(png(striped(rng)) for _ in range(14)), bad])
        job = over(http, begun(http.post(f"/datasets/{dataset}:audit", json={"config": CONFIG})))
        assert job["state"] == "done", job
        found = job["result"]
        worst = found["findings"][0]
        assert (found["images"], worst["sha256"], worst["name"]) == (15, digest, "14.png")
        assert worst["severity"] > 1
        assert worst["oddities"][0]["kind"] == "defect"


@pytest.fixture
def root(tmp_path, files) -> Path:
    """A root with images, what is none, and links that lead out of it."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "line3" / "good").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.png").write_bytes(files[2])
    (root / "line3" / "a.png").write_bytes(files[0])
    (root / "line3" / "good" / "b.png").write_bytes(files[1])
    (root / "line3" / "notes.txt").write_text("no image")
    (root / "line3" / "cut.png").write_bytes(files[0][:300])
    (root / "line3" / "link.png").symlink_to(outside / "secret.png")
    (root / "line3" / "folder").symlink_to(outside)
    if hasattr(os, "mkfifo"):
        os.mkfifo(root / "line3" / "pipe.png")
    return root


def test_a_folder_of_the_server_joins_a_dataset(root, files):
    service = service_of(image_roots=str(root))
    with client(service) as http:
        dataset = http.post("/datasets", json={"name": "line 3"}).json()["id"]
        assert http.get("/server-folders").json() == {"folders": [str(root)]}
        inside = http.get("/server-folders", params={"folder": str(root / "line3")}).json()
        assert inside == {"folders": [str(root / "line3" / "good")]}
        told = {"folder": str(root / "line3"), "role": "train"}
        job = over(http, begun(http.post(f"/datasets/{dataset}/server-folder", json=told)))
        assert job["state"] == "done", job
        assert (job["result"]["images"], job["result"]["refused"]["number"]) == (2, 1)
        assert job["result"]["refused"]["first"][0]["name"] == "cut.png"
        items = http.get(f"/datasets/{dataset}/images").json()["items"]
        assert {each["name"]: each["sha256"] for each in items} == {
            name: hashlib.sha256(data).hexdigest() for name, data in (("a.png", files[0]), ("b.png", files[1]))
        }


def test_nothing_outside_of_the_roots_is_read(root, tmp_path):
    outside = tmp_path / "outside"
    (root / "way-out").symlink_to(outside)
    for folder in (outside, root / "line3" / "..", root / ".." / "outside", root / "way-out", "/etc", "", "a\0b", "~"):
        if folder == root / "line3" / "..":
            assert below(str(folder), [str(root)]) == root.resolve()
            continue
        with pytest.raises(ConfigError, match="below one of the service's image_roots"):
            below(str(folder), [str(root)])
    with pytest.raises(ConfigError, match="--image-roots"):
        below(str(root), [])
    with calling(service_of()) as call:
        dataset = call.post("/api/v1/datasets", json={"name": "x"}).json()["id"]
        refused = call.post(f"/api/v1/datasets/{dataset}/server-folder", json={"folder": "/etc"})
        assert refused.status_code == 422
        assert call.get("/api/v1/server-folders", params={"folder": "/etc"}).status_code == 422


def test_a_folder_that_became_a_link_meanwhile_is_not_followed(root, tmp_path):
    """The child looks again: between the request and the reading, the folder may have been replaced."""
    wanted = root / "line3"
    wanted.rename(tmp_path / "old")
    wanted.symlink_to(tmp_path / "outside")
    args = {"folder": str(wanted), "roots": [str(root)], "blobs": str(tmp_path / "blobs")}
    with (tmp_path / "out").open("w") as out, pytest.raises(ConfigError, match="below one of"):
        take_folder(args, Tools(JobFolder(tmp_path), out))
    assert list(Blobs(tmp_path / "blobs").digests()) == []


def test_names_are_unlike_each_other_and_the_same_each_time():
    images = [("a.png", "1" * 64), ("A.PNG", "2" * 64), ("../b?.png", "3" * 64), ("", "4" * 64), ("ü" * 300, "5" * 64)]
    names = unique_names(images)
    assert list(names.values()) == [digest for _, digest in images]
    assert list(names)[:4] == ["a.png", "A-222222222222.PNG", "_b_.png", "image"]
    assert len(list(names)[4].encode()) <= 255
    assert unique_names(images) == names
