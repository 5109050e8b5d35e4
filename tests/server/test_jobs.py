"""Jobs in a child process: done once, seen while they run, ended when somebody wants it, and gone on with after a
crash. The children are real processes."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import pytest

from parts import striped
from patchbank import Config, PatchCore
from patchbank.server.api.training import Options, checked_config
from patchbank.server.jobs import supervisor
from patchbank.server.problems import Problem
from server.conftest import png, running, service_of
from server.test_run import wait_until

API = "/api/v1"
PNG = {"Content-Type": "image/png"}
CONFIG = {
    **{"backbone": "efficientnet_lite0", "image_size": 64, "coreset_ratio": 0.3},
    **{"confidence": 0, "max_false_alarms": 0.2},
}
LONG = CONFIG | {"image_size": 512, "coreset_ratio": None, "coreset_size": 200}  # takes a few seconds


@pytest.fixture(scope="module")
def parts() -> list[bytes]:
    """Image files of good parts."""
    rng = np.random.default_rng(5)
    return [png(striped(rng)) for _ in range(12)]


@pytest.fixture(scope="module")
def many() -> list[bytes]:
    """Enough for a fit that can be interrupted."""
    rng = np.random.default_rng(6)
    return [png(striped(rng)) for _ in range(24)]


@pytest.fixture
def quick(monkeypatch):
    """Next attempts begin at once."""
    monkeypatch.setattr(supervisor, "_AGAIN_S", 0.0)
    monkeypatch.setattr(supervisor, "_LOOK_S", 0.1)


@contextmanager
def client(service) -> Iterator[httpx.Client]:
    with running(service) as address, httpx.Client(base_url=address + API, timeout=60) as http:
        yield http


def dataset_of(http: httpx.Client, parts: list[bytes], name: str = "parts") -> int:
    number = http.post("/datasets", json={"name": name}).json()["id"]
    files = [("image", (f"{place:02}.png", data)) for place, data in enumerate(parts)]
    assert http.post(f"/datasets/{number}/images", files=files).status_code == 201
    return number


def begun(answer: httpx.Response) -> int:
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def over(http: httpx.Client, job: int, *states: str) -> dict:
    """The job, once it has ended, or is in one of the states."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = http.get(f"/jobs/{job}").json()
        if found["state"] in (states or ("done", "failed", "cancelled")):
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def test_a_fit_from_images_to_a_model_that_decides(parts):
    service = service_of()
    with client(service) as http:
        bad = png(striped(np.random.default_rng(8), defect=True))
        dataset = dataset_of(http, [*parts, bad])
        out = {"sha256": [hashlib.sha256(bad).hexdigest()]}
        assert http.post(f"/datasets/{dataset}/images:leave-out", json=out).json() == {"images": 1}
        told = {"dataset_id": dataset, "config": CONFIG, "reason": "new part", "note": "May"}
        job = begun(http.post("/models/part/fit", json=told))
        assert http.post(f"/datasets/{dataset}/images", content=parts[0], headers=PNG).status_code == 409
        ended = over(http, job)
        assert (ended["state"], ended["error"], ended["model"]) == ("done", None, "part")
        version = http.get(f"/versions/{ended['result']['version_id']}").json()
        about = {name: version[name] for name in ("model", "number", "status", "action", "images", "dataset_id")}
        assert about == {
            **{"model": "part", "number": 1, "status": "candidate", "action": "fit", "images": len(parts)},
            "dataset_id": dataset,
        }
        assert version["gate"]["passed"] is True
        model = PatchCore.load(service.store.models.path(version["file_sha256"]))
        assert model.training_images == tuple(f"{place:02}.png" for place in range(len(parts)))
        assert not (service.store.folder.jobs / str(job)).exists()
        assert http.post(f"/versions/{version['id']}:approve", json={"reason": "ok"}).status_code == 200


def long_fit(http: httpx.Client, many: list[bytes]) -> int:
    """A fit that has begun to learn images."""
    told = {"dataset_id": dataset_of(http, many), "config": LONG, "reason": "new part"}
    job = begun(http.post("/models/part/fit", json=told))
    embedding(http, job)
    return job


def embedding(http: httpx.Client, job: int) -> dict:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = http.get(f"/jobs/{job}").json()
        if found["stage"] == "embed":
            return found
        assert found["state"] in ("queued", "running"), found
        time.sleep(0.05)
    raise AssertionError(found)


def test_a_stopped_service_keeps_the_state_and_the_next_one_goes_on(many, tmp_path):
    """The model is the one of a fit that nobody has interrupted, to the byte."""
    service = service_of(data=tmp_path / "data")
    with client(service) as http:
        job = long_fit(http, many)
        seen = http.get(f"/jobs/{job}").json()
        assert (seen["state"], seen["total"], seen["attempts"]) == ("running", len(many), 1)
        assert seen["eta"] is None or seen["eta"] > 0
        child = service.supervisor.pid
    assert not alive(child)
    kept = (service.store.folder.jobs / str(job) / "state").exists()  # not, if it was in the middle of an image
    service = service_of(data=tmp_path / "data")
    with client(service) as http:
        ended = over(http, job)
        version = http.get(f"/versions/{ended['result']['version_id']}").json()
    assert (ended["state"], ended["attempts"]) == ("done", 1)  # to be stopped is no attempt that failed
    assert ("resumed at image" in ended["log"]) == kept
    folder = tmp_path / "images"
    folder.mkdir()
    for place, data in enumerate(many):
        (folder / f"{place:02}.png").write_bytes(data)
    PatchCore.fit(sorted(map(str, folder.iterdir())), Config.from_dict(LONG)).save(tmp_path / "part.patchbank")
    whole = hashlib.sha256((tmp_path / "part.patchbank").read_bytes()).hexdigest()
    assert version["file_sha256"] == whole


def test_a_killed_child_harms_nobody_and_is_followed_by_another(parts, quick):
    service = service_of()
    with client(service) as http:
        told = {"dataset_id": dataset_of(http, parts), "config": CONFIG, "reason": "new part"}
        job = begun(http.post("/models/part/fit", json=told))
        wait_until(lambda: service.supervisor.pid)
        os.kill(service.supervisor.pid, signal.SIGKILL)
        assert http.get("/jobs").status_code == 200
        ended = over(http, job)
    assert (ended["state"], ended["attempts"], ended["error"]) == ("done", 2, None)


def test_attempts_are_bounded(parts, quick):
    """A job that ends its process each time fails, and says how."""
    service = service_of()
    with client(service) as http:
        dataset = dataset_of(http, parts)
        told = {"dataset_id": dataset, "config": LONG, "reason": "new part"}
        job = begun(http.post("/models/part/fit", json=told))
        end = time.monotonic() + 120
        while http.get(f"/jobs/{job}").json()["state"] in ("queued", "running") and time.monotonic() < end:
            if pid := service.supervisor.pid:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        ended = over(http, job)
        assert (ended["state"], ended["attempts"]) == ("failed", 3)
        assert "ended by signal 9" in ended["error"]
        assert http.get(f"/datasets/{dataset}").json()["frozen_at"] is None  # it may be tried with other images


def test_a_job_is_cancelled(many):
    service = service_of()
    with client(service) as http:
        job = long_fit(http, many)
        waiting = begun(http.post("/datasets/1:audit", json={"config": CONFIG}))
        child = service.supervisor.pid
        now = http.post(f"/jobs/{waiting}:cancel", json={}).json()
        assert now["state"] == "cancelled"
        assert http.post(f"/jobs/{job}:cancel", json={"reason": "wrong images"}).status_code == 200
        assert over(http, job)["state"] == "cancelled"
        assert not alive(child)
        assert http.post(f"/jobs/{job}:cancel", json={}).status_code == 409
        assert http.get("/datasets/1").json()["frozen_at"] is None
        assert list(service.store.folder.jobs.iterdir()) == []


def test_a_job_that_cannot_be_done_says_why(parts):
    service = service_of(job_memory="150MB")
    with client(service) as http:
        dataset = dataset_of(http, parts)
        told = {"dataset_id": dataset, "config": LONG | {"backbone": "no_such_network"}, "reason": "new part"}
        first = begun(http.post("/models/part/fit", json=told))
        told = {"dataset_id": dataset, "config": LONG, "reason": "new part"}
        second = begun(http.post("/models/part/fit", json=told))
        assert "no_such_network" in over(http, first)["error"]
        found = over(http, second)
        assert (found["state"], found["attempts"]) == ("failed", 1)
        assert "memory" in found["error"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"image_sizes": 64}, "unknown option 'image_sizes'"),
        ({"image_size": 1}, "image_size: expected at least 32"),
        ({"preset": "huge"}, "preset"),
        ({"backbone": "/etc/passwd.onnx"}, "expected the name of a zoo backbone"),
        ({"include": "/etc/passwd"}, "expected polygons"),
    ],
)
def test_options_are_checked_before_anything_waits(config, said):
    """By the rules of the library, and no file of the machine is named."""
    with pytest.raises(Problem, match=said):
        checked_config(Options(config=config))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
