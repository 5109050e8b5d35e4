"""Several services on one PostgreSQL database and one data folder, as behind a load balancer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from patchbank import PatchCore, Runtime
from patchbank.server.metrics import Metrics
from patchbank.server.models import ModelHost
from patchbank.server.service import Service
from patchbank.server.settings import Settings
from patchbank.store.engine import open_store
from postgres import Postgres
from server.conftest import deploy, running

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def addresses(
    model: PatchCore, postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[str]]:
    """Where two services answer."""
    folder, url = tmp_path_factory.mktemp("shared") / "data", postgres_server.make()
    with ExitStack() as stack:
        found = []
        for number in range(2):
            store, metrics = open_store(folder, url), Metrics()
            if number == 0:
                deploy(store, model)
            options = Settings(data=str(folder), database=url)
            service = Service(options, store, ModelHost(options, Runtime(), metrics), metrics)
            found.append(stack.enter_context(running(service)))
        yield found


def post(address: str, image: bytes, key: str) -> httpx.Response:
    return httpx.post(
        f"{address}/api/v1/inspections", content=image, headers={**PNG, "Idempotency-Key": key}, timeout=60
    )


def test_what_one_keeps_the_other_shows(addresses: list[str], files: list[bytes]) -> None:
    first, second = addresses
    answer = post(first, files[1], "kept-by-the-first")
    assert answer.status_code == 201
    path = f"/api/v1/inspections/{answer.json()['id']}"
    assert httpx.get(second + path).json()["id"] == answer.json()["id"]
    assert httpx.get(f"{second}{path}/image").content == files[1]


def test_one_key_is_one_inspection_whoever_is_asked(addresses: list[str], files: list[bytes]) -> None:
    """A client that repeats after a broken connection may meet the other service, even at the same time."""
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(post, addresses[n % 2], files[0], "one-key") for n in range(8)]
        answers = [each.result() for each in asked]
    kept = {each.json()["id"] for each in answers if each.status_code in (200, 201)}
    assert {each.status_code for each in answers} <= {200, 201, 409}
    assert len(kept) == 1
    assert [post(each, files[0], "one-key").status_code for each in addresses] == [200, 200]
    assert [post(each, files[2], "one-key").status_code for each in addresses] == [409, 409]


def test_a_change_at_one_holds_at_the_other(addresses: list[str], files: list[bytes]) -> None:
    """The stream is paused at the first: the second refuses its images as soon as it has heard of it."""
    first, second = addresses
    begun, heard = threading.Event(), threading.Event()

    def listen() -> None:
        with httpx.stream("GET", f"{second}/api/v1/events?kind=stream", timeout=60) as events:
            begun.set()
            for line in events.iter_lines():
                if line.startswith("event: stream"):
                    heard.set()
                    return

    listener = threading.Thread(target=listen)
    listener.start()
    assert begun.wait(60)
    for state, status in (("pause", 503), ("resume", 201)):
        for _ in range(100):
            httpx.post(f"{first}/api/v1/streams/part:{state}", json={"reason": "a test"})
            if post(second, files[0], f"after-{state}").status_code == status:
                break
            threading.Event().wait(0.05)
        assert post(second, files[0], f"later-{state}").status_code == status
    listener.join(60)
    assert heard.is_set()
