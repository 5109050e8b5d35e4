"""What the service has acknowledged stays, once, whatever happens: SIGKILL, a database that goes away, a full disk.

PATCHBANK_KILLS says how many times the process is killed (3); benchmarks/kills.py does it 50 times."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from patchbank import OutputError, Runtime
from patchbank.server.metrics import Metrics
from patchbank.server.models import ModelHost
from patchbank.server.service import Service
from patchbank.server.settings import Settings
from patchbank.store import blobs, databases, listing
from patchbank.store.engine import open_store
from postgres import Postgres
from server.conftest import calling, deploy, png, running, service_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PATH = "/api/v1/inspections"


@pytest.fixture(scope="module")
def kills():
    """The module of that name."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import kills

        return kills
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_sigkill(kills, model_file, tmp_path):
    found = kills.killed(model_file, tmp_path / "data", int(os.environ.get("PATCHBANK_KILLS", "3")))
    assert found["acknowledged"] > 40
    assert kills.problems(found) == {}


class Proxy:
    """A way to a PostgreSQL server that can be closed."""

    def __init__(self, host: str, port: int) -> None:
        self._to, self._open = (host, port), True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ways: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @contextmanager
    def away(self) -> Iterator[None]:
        """While the block runs, connections break, and new ones are refused."""
        self._open = False
        for way in self._ways:
            with suppress(OSError):
                way.shutdown(socket.SHUT_RDWR)
        yield
        self._open = True

    def close(self) -> None:
        with self.away():
            self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if not self._open:
                    client.close()
                    continue
                server = socket.create_connection(self._to)
                self._ways += [client, server]
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for way in (one, other):
            with suppress(OSError):
                way.shutdown(socket.SHUT_RDWR)


def test_postgresql_goes_away(kills, model, tmp_path, postgres_server: Postgres, postgres_url: str):
    """Its server ends the service's connections in the midst of writes; then the network is away for three seconds."""
    from sqlalchemy import make_url

    url = make_url(postgres_url)
    proxy = Proxy(str(url.host), url.port or 5432)
    through = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    settings, metrics, store = (
        Settings(data=str(tmp_path / "data"), database=through),
        Metrics(),
        open_store(tmp_path / "data", through),
    )
    deploy(store, model)
    service = Service(settings, store, ModelHost(settings, Runtime(), metrics), metrics)
    clients = kills.Clients()

    def more(count: int) -> None:
        until = len(clients.acknowledged) + count
        for _ in range(6000):
            if len(clients.acknowledged) >= until or clients.faults:
                return
            time.sleep(0.01)

    with running(service) as address:
        clients.go_on(address)
        for _ in range(3):
            more(20)
            postgres_server.run(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{url.database}'"
            )
        more(20)
        with proxy.away():
            time.sleep(3)
        more(20)
        clients.end()
    proxy.close()
    with open_store(tmp_path / "data", postgres_url) as store:
        found = kills.held_against(store, clients)
    assert found["acknowledged"] >= 100
    assert kills.problems(found | {"exit_code": 0}) == {}


def refused(answer) -> None:
    """503, when to come again, and why."""
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["type"] == "urn:patchbank:problem:disk-full"


def kept(service) -> int:
    return len(service.store.read(listing.page, listing.Filter()).items)


@pytest.fixture
def call(model):
    with calling(service_of(model)) as caller:
        yield caller


def test_no_room_for_an_image(call, files, monkeypatch):
    """The image comes before its row: nothing is kept, and the next one is inspected as soon as there is room."""
    service = call.app.state.service

    @contextmanager
    def full(path):
        raise OutputError(f"cannot write {path}") from OSError(errno.ENOSPC, "No space left on device")
        yield

    with monkeypatch.context() as broken:
        broken.setattr(blobs, "atomic_write", full)
        refused(call.post(PATH, content=files[0]))
        assert kept(service) == 0
        assert call.get("/readyz").status_code == 200
    assert call.post(PATH, content=files[0]).status_code == 201
    assert kept(service) == 1


def test_no_room_for_a_row(call, files, monkeypatch):
    """SQLite says that it is full: the whole transaction is undone, and nobody is told that it was kept."""
    service = call.app.state.service
    assert call.post(PATH, content=files[0]).status_code == 201
    pages = service.store.read(lambda c: c.execute(text("PRAGMA page_count")).scalar())
    limit = f"PRAGMA max_page_count = {pages}"
    with monkeypatch.context() as broken:
        broken.setattr(databases, "_WRITER", (*databases._WRITER, limit))
        service.store.write(lambda c: c.execute(text(limit)))
        statuses = []
        for number in range(200):
            answer = call.post(PATH, content=files[1], headers={"Idempotency-Key": f"part {number}"})
            statuses.append(answer.status_code)
            if answer.status_code != 201:
                refused(answer)
                break
        refused(call.post(PATH, content=files[1], headers={"Idempotency-Key": f"part {number}"}))
    assert call.post(PATH, content=files[1], headers={"Idempotency-Key": f"part {number}"}).status_code == 201
    assert kept(service) == 1 + len(statuses)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = Path(tempfile.mkdtemp(prefix="patchbank-test-"))
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True)
    if not done or done.returncode:
        pytest.skip("may not mount a small file system here: that needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_is_really_full(small_disk, model, rng):
    """Images and rows on it. Once there is room, the same request, repeated, is carried out once."""
    service = service_of(model, data=small_disk / "data")
    images = [png(rng.integers(0, 256, (600, 600, 3), dtype=np.uint8)) for _ in range(2)]  # 1 MB each
    with calling(service) as call:
        assert call.post(PATH, content=images[0], headers={"Idempotency-Key": "a"}).status_code == 201
        filler = small_disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
        refused(call.post(PATH, content=images[1], headers={"Idempotency-Key": "b"}))
        filler.unlink()
        assert call.post(PATH, content=images[1], headers={"Idempotency-Key": "b"}).status_code == 201
        assert call.post(PATH, content=images[1], headers={"Idempotency-Key": "b"}).status_code == 200
        assert kept(service) == 2
    with open_store(small_disk / "data") as store:
        assert [
            store.blobs.get(each.image_sha256) for each in store.read(listing.page, listing.Filter()).items
        ] == images[::-1]
