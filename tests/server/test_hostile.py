"""What comes from outside is not believed: broken images, paths that climb, headers with line breaks, bombs. Each is
refused by name; the only server error is 503, and no traceback gets into the log.

PATCHBANK_HOSTILE=1000 tries so many broken images; without it, 100.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import os
import zlib

import cv2
import numpy as np
import pytest

from server.conftest import calling, service_of
from server.people import add_person, token

NUMBER = int(os.environ.get("PATCHBANK_HOSTILE", "100"))
PATH = "/api/v1/inspections"
BYTES = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def service(model):
    return service_of(model, max_body_mb=5)


@pytest.fixture(scope="module")
def call(service):
    with calling(service) as caller:
        yield caller


def images() -> list[bytes]:
    """The same small part in every format."""
    picture = np.random.default_rng(0).integers(0, 255, (24, 32, 3)).astype(np.uint8)
    return [cv2.imencode(ending, picture)[1].tobytes() for ending in (".png", ".jpg", ".bmp", ".tiff", ".ppm", ".webp")]


def broken(rng: np.random.Generator, data: bytes) -> bytes:
    """The file with some bytes of its head changed, or a large number in it, or cut, or with something behind it."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(2, min(len(changed), 120)))
        match rng.integers(4):
            case 0:
                changed[place] = int(rng.integers(256))
            case 1:
                changed[place : place + 4] = int(rng.choice([0, 2**16, 2**31 - 1, 2**32 - 1])).to_bytes(4, "big")
            case 2:
                del changed[int(rng.integers(place, len(changed))) :]
            case _:
                changed += rng.bytes(int(rng.integers(1, 50)))
        if len(changed) < 8:
            break
    return bytes(changed)


def test_broken_images_are_refused_or_inspected_and_nothing_else(call, caplog):
    rng, formats, statuses = np.random.default_rng(7), images(), {}
    with caplog.at_level(logging.WARNING):
        for number in range(NUMBER):
            data = broken(rng, formats[number % len(formats)])
            answer = call.post(PATH, content=data, headers=BYTES)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            assert answer.status_code in (201, 413, 422), (number, answer.text)
            if answer.status_code != 201:
                assert answer.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in caplog.text
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []
    assert statuses[422] > NUMBER / 10, "most of what is tried must be broken"


def bomb_png() -> bytes:
    """30 000 x 30 000 pixels of nothing, in some kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    head = (30_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    body = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(call):
    answer = call.post(PATH, content=bomb_png(), headers=BYTES)
    assert answer.status_code in (413, 422)
    assert "pixels" in answer.json()["detail"]


def test_bodies_that_grow_are_not_inflated(call, service):
    bomb = gzip.compress(bytes(50_000_000))
    encoded = BYTES | {"Content-Encoding": "gzip"}
    assert call.post(PATH, content=bomb, headers=encoded).status_code == 415
    for path in ("/api/v1/models?name=a", f"{PATH}:ingest"):
        assert call.post(path, content=bomb, headers=encoded).status_code in (403, 415)
    tensor = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    answer = call.post("/v2/models/part/infer", content=bomb, headers=tensor)
    assert answer.status_code == 413, answer.text
    assert service._held == 0


BAD = [b"a\r\nX-Evil: 1", b"a\nSet-Cookie: x=1", b"\xff\xfe", b"a\0b", b"<script>", "ü".encode()]


@pytest.mark.parametrize("bad", BAD)
def test_headers_stay_on_their_line(call, files, bad):
    """Nothing that was sent in a header becomes one, or a line of the log; what is kept is shown as text."""
    answer = call.post(PATH, content=files[0], headers=[(b"content-type", b"image/png"), (b"x-serial", bad)])
    assert answer.status_code in (201, 400, 422), answer.text
    assert "x-evil" not in answer.headers
    assert "set-cookie" not in answer.headers
    if answer.status_code == 201:
        said = call.get(f"{PATH}/{answer.json()['id']}")
        assert said.headers["content-type"] == "application/json"
        listed = call.get(PATH, params={"limit": 1})
        assert listed.status_code == 200


@pytest.mark.parametrize("name", ["../../../etc/passwd", "..\\x.png", 'a"; filename="b', "a\r\nX-Evil: 1", "a" * 5000])
def test_a_name_of_a_file_is_not_used(call, files, service, name):
    before = {path for path in service.store.folder.path.rglob("*") if "blobs" not in path.parts}
    answer = call.post(PATH, files={"image": (name, files[0])}, data={"serial": "1"})
    assert answer.status_code in (201, 400), answer.text
    assert "x-evil" not in answer.headers
    if answer.status_code == 201:
        shown = call.get(f"{PATH}/{answer.json()['id']}/image")
        assert shown.headers["content-disposition"] == f'inline; filename="{answer.json()["id"]}.png"'
    after = {path for path in service.store.folder.path.rglob("*") if "blobs" not in path.parts}
    assert {path.suffix for path in after - before} <= {"", ".jpg", ".sqlite-wal", ".sqlite-shm"}


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/inspections/..%2f..%2fetc%2fpasswd/image",
        "/api/v1/inspections/%2e%2e/image",
        "/api/v1/models/..%2f..%2fetc/versions/1/file",
        "/api/v1/models/%00/versions/1/file",
        "/api/v1/models/part/versions/..%2f1/file",
        "/api/v1/datasets/1/images/..%2f..%2fstore.json/image",
        "/api/v1/datasets/1/images/" + "0" * 64 + "/image",
        "/api/v1/streams/%2e%2e%2f",
        "/v2/models/..%2f..%2fetc%2fpasswd",
        "/static/..%2f..%2fapp.py",
        "/static/%2e%2e/%2e%2e/app.py",
    ],
)
def test_paths_do_not_climb(call, path):
    answer = call.get(path)
    assert answer.status_code in (404, 405, 422), (answer.status_code, answer.text[:200])
    assert "root:" not in answer.text
    assert "import" not in answer.text


def test_a_scope_is_only_what_it_says(call, service, files):
    """A token that delivers cannot read or have images inspected, and so on."""
    add_person(service, "anna", "admin")
    call = call.elsewhere("192.168.1.7")  # programs on this machine may read /metrics
    ways = {
        "inspect": lambda headers: call.post(PATH, content=files[0], headers=BYTES | headers),
        "ingest": lambda headers: call.post(f"{PATH}:ingest", json={"records": [1]}, headers=headers),
        "read": lambda headers: call.get(PATH, headers=headers),
        "metrics": lambda headers: call.get("/metrics", headers=headers),
    }
    for scope in ways:
        headers = token(service, scope)
        got = {name: way(headers).status_code for name, way in ways.items()}
        assert {name for name, status in got.items() if status < 300} == {scope}, got
        assert {status for name, status in got.items() if name != scope} == {403}
    for bad in ("Bearer pb_x_y", "Bearer ", "Basic YTpi", "Bearer " + "x" * 10_000, "bearer\x00"):
        assert ways["read"]({"Authorization": bad.replace("\x00", " ")}).status_code == 401


def test_a_delivery_does_not_overwrite_what_is_there(call, service, files):
    """A part named by a digest has that digest, or nothing is kept under it."""
    headers = token(service, "ingest")
    digest = hashlib.sha256(files[0]).hexdigest()
    form = [("records", (None, json.dumps({"records": [{"id": "x"}]}))), (digest, ("a", io.BytesIO(b"other")))]
    assert call.post(f"{PATH}:ingest", files=form, headers=headers).json()["records"][0]["outcome"] == "refused"
    assert service.store.blobs.get(digest) == files[0]
