"""A fit survives what nobody can prepare for: the service is killed, then the service and its child are."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from parts import striped
from patchbank import Config, PatchCore
from server.conftest import png
from server.test_jobs import API, LONG, alive, embedding, long_fit, over
from server.test_run import process, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the child by /proc")


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(each) for each in (task / "children").read_text().split()]
    return found


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_a_killed_service_and_a_killed_child(tmp_path):
    """The third attempt ends, and its model is the one of a fit that nobody has interrupted, to the byte."""
    rng = np.random.default_rng(9)
    many = [png(striped(rng)) for _ in range(24)]
    data = tmp_path / "data"
    with (
        process("--data", data, "--log-level", "error", "--job-threads", 1) as first,
        httpx.Client(base_url=first.address + API, timeout=60) as http,
    ):
        job = long_fit(http, many)
        (child,) = children(first.process.pid)
        kill(first.process.pid)
        wait_until(lambda: not alive(child))  # it keeps its state, and ends by itself
        kept = (data / "jobs" / str(job) / "state").exists()  # not, if it was in the middle of an image
    with (
        process("--data", data, "--log-level", "error", "--job-threads", 1) as second,
        httpx.Client(base_url=second.address + API, timeout=60) as http,
    ):
        wait_until(lambda: http.get(f"/jobs/{job}").json()["attempts"] == 2)
        embedding(http, job)
        (child,) = children(second.process.pid)
        kill(child, second.process.pid)
    with (
        process("--data", data, "--log-level", "error", "--job-threads", 1) as third,
        httpx.Client(base_url=third.address + API, timeout=60) as http,
    ):
        ended = over(http, job)
        assert (ended["state"], ended["attempts"], ended["error"]) == ("done", 3, None)
        assert ("resumed at image" in ended["log"]) == kept
        version = http.get(f"/versions/{ended['result']['version_id']}").json()
        third.process.terminate()
        assert third.process.wait(60) == 0
    assert list((data / "jobs").iterdir()) == []
    folder = tmp_path / "images"
    folder.mkdir()
    for place, content in enumerate(many):
        (folder / f"{place:02}.png").write_bytes(content)
    PatchCore.fit(sorted(map(str, folder.iterdir())), Config.from_dict(LONG)).save(tmp_path / "part.patchbank")
    assert version["file_sha256"] == hashlib.sha256((tmp_path / "part.patchbank").read_bytes()).hexdigest()
