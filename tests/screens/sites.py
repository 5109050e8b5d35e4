"""A service with people and parts to look at, and what axe-core says of its pages."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from patchbank.store import inspections, preferences
from patchbank.store.values import Actor
from server.people import add_person, signed_in, token
from store import made

HOSTILE = "<img src=x onerror=alert(1)>\"'&\u202e"  # as a serial, a batch, a comment, a kind
PHONE = (390, 844)


class Site:
    """A service with three parts a dozen times, and people."""

    def __init__(self, service, address: str, files) -> None:
        self.service, self.address, self.files = service, address, files
        self.machine = token(service, "inspect", "read")
        self.cookies = {}
        for name in ("viewer", "operator", "engineer", "admin"):
            add_person(service, name, name)
            self.cookies[name] = signed_in(service, name)["Cookie"].partition("=")[2]
        service.store.write(preferences.put, "review.sample_rate", 0.0, by=Actor("test"))
        first = self.inspect(files[0])
        self.known = self.read(inspections.get, UUID(first))
        self.ids = [self.keep(n, f"A{n:03d}", f"B{n // 20}") for n in range(54)]
        self.hostile = self.inspect(files[1], HOSTILE, HOSTILE)

    def keep(self, number: int, serial: str, batch: str | None = None, **rest) -> str:
        """An inspection that is as if it had been made: quicker than to make it."""
        row = made.inspection(
            self.known.stream_id,
            at=datetime.now(UTC),
            verdict="ng" if number % 3 == 1 else "ok",
            model_version_id=self.known.model_version_id,
            serial=serial,
            batch=batch,
            image_sha256=self.service.store.blobs.put(self.files[number % 3]),
            image_format="png",
            width=128,
            height=96,
            **rest,
        )
        self.service.store.write(inspections.insert_one, row)
        return str(row.id)

    def inspect(self, file: bytes, serial: str = "", batch: str = "") -> str:
        fields = {name: value for name, value in (("serial", serial), ("batch", batch)) if value}
        answer = httpx.post(
            f"{self.address}/api/v1/inspections",
            files={"image": ("part.png", file, "image/png")},
            data=fields,
            headers=self.machine,
            timeout=60,
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def post(self, who: str, path: str, **fields) -> httpx.Response:
        """A form, as the browser of a person sends it."""
        headers = {"Origin": self.address, "Cookie": f"patchbank={self.cookies[who]}"}
        return httpx.post(f"{self.address}{path}", data=fields, headers=headers, timeout=60)

    def read(self, function, *args, **named):
        return self.service.store.read(function, *args, **named)


def axe() -> str:
    folder = Path(os.environ.get("PATCHBANK_NODE", Path.home() / ".cache" / "patchbank" / "node"))
    path = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not path.is_file():
        pytest.skip("no axe-core: run tools/node_packages.sh")
    return path.read_text("utf-8")


LEVELS = ("wcag2a", "wcag2aa", "wcag21aa", "wcag22aa")


def serious(visitor, paths: list[str], rules: tuple[str, ...] = LEVELS) -> list[tuple[str, str, list[str]]]:
    """What axe-core finds on pages that keeps somebody out. Each page has to fit the window, too. rules: axe-core's, or
    sets of them."""
    script, found = axe(), []
    for path in paths:
        tab = visitor.open(path)
        assert visitor.fits(), path
        tab.evaluate(script)
        run = f"axe.run(document, {{runOnly: {list(rules)}, resultTypes: ['violations']}})"
        found += [
            (path, each["id"], [node["html"][:150] for node in each["nodes"]][:3])
            for each in tab.evaluate(run)["violations"]
            if each["impact"] in ("serious", "critical")
        ]
    return found
