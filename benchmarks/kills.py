"""Does the service lose what it has acknowledged when it is killed?

    python benchmarks/kills.py [--kills N] [--minutes M] [--quick] [--out DIR]

Eight clients post images to a real `patchbank serve`, each with an Idempotency-Key of its own, and repeat what was not
answered with the same key. Again and again the process gets SIGKILL in the midst of that, and is started anew on the
same data folder. At the end every acknowledged inspection must be there once, with its image; the database must be
whole. tests/server/test_durability.py does the same with fewer kills."""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
from sqlalchemy import Connection, select, text

from _common import RESULTS, save
from patchbank.store import audit_log, dumps, retention
from patchbank.store.engine import Store, open_store
from patchbank.store.schema import inspections

KILLS, QUICK_KILLS, CLIENTS = 50, 2, 8
_PARTS = ("heats", "regions")
_PATIENCE = 120.0  # seconds in which a request must be answered at last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--minutes", type=float, default=120.0, help="fewer kills, if they take longer")
    parser.add_argument("--quick", action="store_true", help="a smoke test: two kills")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="patchbank-kills-") as folder:
        kills = QUICK_KILLS if options.quick else options.kills
        found = killed(model_in(Path(folder)), Path(folder) / "data", kills, options.minutes)
    print(found)
    save(options.out, "kills", found)
    assert not problems(found), problems(found)


def model_in(folder: Path) -> Path:
    """A small model, as a file."""
    from patchbank import Config, PatchCore
    from patchbank.backbones.fake import FakeBackbone

    path = folder / "part.patchbank"
    rng = np.random.default_rng(0)
    images = [rng.integers(100, 140, (64, 64, 3), dtype=np.uint8) for _ in range(12)]
    PatchCore.fit(images, Config(image_size=64, coreset_size=20), backbone=FakeBackbone()).save(path)
    return path


def killed(model: Path, data: Path, kills: int, minutes: float = 120.0) -> dict[str, Any]:
    """Kills a service so many times under its clients, or as often as the minutes allow. Returns what was found then
    (`problems`)."""
    chance = random.Random(0)
    clients = Clients()
    started = time.monotonic()
    for done in range(kills):
        if time.monotonic() - started > 60 * minutes:
            kills = done
            break
        with serving(model, data) as (process, address):
            clients.go_on(address)
            until = len(clients.acknowledged) + 2 * CLIENTS
            while len(clients.acknowledged) < until and process.poll() is None and not clients.faults:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.3))
            process.kill()
    with serving(model, data) as (process, address):
        clients.go_on(address)
        clients.end()
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    found = {"kills": kills, "clients": CLIENTS, "seconds": round(time.monotonic() - started), "exit_code": code}
    with open_store(data, create=False) as store:
        return found | held_against(store, clients)


def problems(found: dict[str, Any]) -> dict[str, Any]:
    """What should be nothing, and is not."""
    wanted = ("exit_code", "lost", "duplicates", "other", "orphans", "missing_images", "faults", "problems")
    return {name: found[name] for name in wanted if found[name]}


@contextmanager
def serving(model: Path, data: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service in a process of its own, and its address."""
    command = [sys.executable, "-m", "patchbank", "serve", str(model), "--data", str(data), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--stop-delay", "0", "--log-level", "error"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@dataclass
class Clients:
    """Threads that post, and repeat until they are answered. acknowledged: identifiers by key. repeated: how many
    requests were sent again. faults: answers that no service should give."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    repeated: int = 0
    faults: list[str] = field(default_factory=list)
    _address: str = ""
    _ending: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def go_on(self, address: str) -> None:
        """Posts to this address from now on."""
        self._address = address
        if not self._threads:
            self._threads = [threading.Thread(target=self._post_many, args=(number,)) for number in range(CLIENTS)]
            for thread in self._threads:
                thread.start()

    def end(self) -> None:
        """Ends when each thread has an answer to what it has begun."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _post_many(self, client: int) -> None:
        rng = np.random.default_rng(client)
        for number in itertools.count():
            if self._ending.is_set() or self.faults:
                return
            self._post(f"client {client}, part {number}", _picture(rng))

    def _post(self, key: str, image: bytes) -> None:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            try:
                status, body = _sent(self._address, key, image)
            except (OSError, http.client.HTTPException):  # killed, or not there yet
                status, body = 503, b""
            if status in (200, 201):
                self.acknowledged[key] = json.loads(body)["id"]
                return
            if status not in (503, 409):
                self.faults.append(f"{status}: {body[:300]!r}")
                return
            self.repeated += 1
            time.sleep(0.05)
        self.faults.append(f"no answer in {_PATIENCE:g} s")


def held_against(store: Store, clients: Clients) -> dict[str, Any]:
    """What the clients know, held against what is kept."""

    def kept(connection: Connection) -> list[str]:
        if connection.dialect.name == "sqlite":
            dumps.check_sqlite(connection)  # the whole file, and whether rows refer to missing ones
        return [str(each) for each in connection.execute(select(inspections.c.id)).scalars()]

    def counted(connection: Connection) -> int:
        return int(connection.execute(text("SELECT coalesce(sum(n), 0) FROM hours")).scalar_one())

    rows, known = store.read(kept), list(clients.acknowledged.values())
    problems = list(store.read(audit_log.verify).problems)
    if store.read(counted) != len(rows):
        problems.append("the counts by the hour are others than the rows")
    for digest in store.read(lambda connection: list(retention.all_images(connection))):
        if store.blobs.has(digest):
            store.blobs.get(digest)  # raises for another content
    return {
        "acknowledged": len(known),
        "repeated": clients.repeated,
        "rows": len(rows),
        "lost": len(set(known) - set(rows)),
        "duplicates": len(known) - len(set(known)) + len(rows) - len(set(rows)),
        "other": len(set(rows) - set(known)),  # kept, and never acknowledged
        "orphans": store.read(_orphans),
        "missing_images": len(list(store.read(lambda c: list(retention.missing_images(c, store.blobs))))),
        "faults": clients.faults,
        "problems": problems,
    }


def _orphans(connection: Connection) -> int:
    """Rows of parts whose inspection is not there, and inspections without their map."""
    parts = [f"SELECT count(*) FROM {name} WHERE inspection_id NOT IN (SELECT id FROM inspections)" for name in _PARTS]
    parts.append("SELECT count(*) FROM inspections WHERE id NOT IN (SELECT inspection_id FROM heats)")
    return sum(int(connection.execute(text(each)).scalar_one()) for each in parts)


def _sent(address: str, key: str, image: bytes) -> tuple[int, bytes]:
    where = urlsplit(address)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=30)
    try:
        headers = {"Content-Type": "image/png", "Idempotency-Key": key}
        connection.request("POST", "/api/v1/inspections", image, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _picture(rng: np.random.Generator) -> bytes:
    """Another one each time, as a PNG file."""
    done, data = cv2.imencode(".png", rng.integers(100, 140, (64, 64, 3), dtype=np.uint8))
    assert done
    return bytes(data)


if __name__ == "__main__":
    main()
