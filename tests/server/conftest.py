"""A service over a small model, in this process: in a thread with real sockets, or by calls without any."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from parts import striped
from patchbank import Config, PatchCore, Runtime
from patchbank.backbones.fake import FakeBackbone
from patchbank.server.metrics import Metrics
from patchbank.server.models import ModelHost
from patchbank.server.registering import deploy_new, described
from patchbank.server.run import Server, bound
from patchbank.server.service import Service
from patchbank.server.settings import Settings
from patchbank.store.engine import Store, open_store

SMALL = Config(image_size=64, coreset_ratio=0.3, max_false_alarms=0.2, confidence=0, scene_false_alarms=0)
LOCAL = "http://127.0.0.1"


@pytest.fixture(scope="session")
def model_file(tmp_path_factory) -> Path:
    """A model of striped parts, part.patchbank."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("served") / "part.patchbank"
    PatchCore.fit([striped(rng) for _ in range(12)], SMALL, backbone=FakeBackbone()).save(path)
    return path


@pytest.fixture(scope="session")
def model(model_file) -> PatchCore:
    return PatchCore.load(model_file)


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Three parts; the second has a defect."""
    rng = np.random.default_rng(1)
    return [striped(rng, defect=number == 1) for number in range(3)]


@pytest.fixture(scope="session")
def files(pictures) -> list[bytes]:
    """The same as PNG files."""
    return [png(each) for each in pictures]


def png(picture) -> bytes:
    done, data = cv2.imencode(".png", picture[:, :, ::-1])
    assert done
    return data.tobytes()


def service_of(model: PatchCore | None = None, *, data: Path | None = None, **settings) -> Service:
    """A service with a new data folder, or that one."""
    folder = data or Path(tempfile.mkdtemp(prefix="patchbank-test-")) / "data"
    settings = {"job_threads": 1, **settings}  # threads that wait for each other cost more than they bring here
    options, metrics, store = Settings(data=str(folder), **settings), Metrics(), open_store(folder)
    if model is not None:
        deploy(store, model)
    return Service(options, store, ModelHost(options, Runtime(), metrics), metrics)


def deploy(store: Store, model: PatchCore, name: str = "part") -> None:
    """What `patchbank serve name.patchbank` does."""
    file = Path(tempfile.mkdtemp(prefix="patchbank-test-")) / f"{name}.patchbank"
    model.save(file)
    digest = store.models.put_file(file)
    store.write(deploy_new, name, described(model, digest, file.stat().st_size))


@contextmanager
def running(service: Service) -> Iterator[str]:
    """The address of a service that runs in a thread, with real sockets."""
    server, address, ready = Server(service), [], threading.Event()

    def told(where: str) -> None:
        address.append(where)
        ready.set()

    with bound(Settings(port=0)) as listener:
        thread = threading.Thread(target=server.run_until_stopped, args=(listener, told))
        thread.start()
        try:
            assert ready.wait(60)
            yield address[0]
        finally:
            server.loop.call_soon_threadsafe(server.stop_now)
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def service(model) -> Service:
    return service_of(model)


@pytest.fixture(scope="module")
def address(service) -> Iterator[str]:
    """Where a service answers, on a real socket."""
    with running(service) as where:
        yield where


@contextmanager
def calling(service: Service, client: str = "127.0.0.1", base: str = LOCAL) -> Iterator[Caller]:
    """Calls a service without sockets."""
    from patchbank.server.app import create_app

    caller = Caller(create_app(service), client, base)
    try:
        caller.start()
        yield caller
    finally:
        caller.stop()


class Caller:
    """Requests to an application, from an address of choice. Each is answered before the call returns."""

    def __init__(self, app, client: str, base: str) -> None:
        self.app = app
        self._runner = asyncio.Runner()
        self._lifespan = app.router.lifespan_context(app)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(client, 12345))
        self.http = httpx.AsyncClient(transport=transport, base_url=base)

    def start(self) -> None:
        self._runner.run(self._lifespan.__aenter__())

    def stop(self) -> None:
        self._runner.run(self.http.aclose())
        self._runner.run(self._lifespan.__aexit__(None, None, None))
        self._runner.close()

    def elsewhere(self, client: str) -> Caller:
        """The same application, called from another address."""
        other = Caller.__new__(Caller)
        other.app, other._runner = self.app, self._runner
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(client, 12345))
        other.http = httpx.AsyncClient(transport=transport, base_url=str(self.http.base_url))
        return other

    def __call__(self, method: str, path: str, **rest) -> httpx.Response:
        return self._runner.run(self.http.request(method, path, **rest))

    def get(self, path: str, **rest) -> httpx.Response:
        return self("GET", path, **rest)

    def post(self, path: str, **rest) -> httpx.Response:
        return self("POST", path, **rest)
