"""Records to a real `patchbank serve`: what the line has decided is there, once, with its image."""

from __future__ import annotations

import json
import time
from contextlib import closing
from datetime import UTC, datetime
from uuid import UUID

import pytest
from tests.line.made import record
from web import Web, closed_port

from patchbank import ConfigError
from patchbank.line.images import Images
from patchbank.line.sinks.base import Unreachable
from patchbank.line.sinks.server import ServerSink, delivered
from patchbank.util.uuid7 import uuid7

pytest.importorskip("fastapi", reason="the service is not installed: pip install 'patchbank[serve]'")
from patchbank.store import inspections, streams
from patchbank.store.values import SYSTEM
from server.conftest import running, service_of
from server.people import token


@pytest.fixture(scope="module")
def service():
    made = service_of()
    made.store.write(streams.add, "cap", site="plant", by=SYSTEM)
    return made


@pytest.fixture(scope="module")
def address(service):
    with running(service) as where:
        yield where


@pytest.fixture(scope="module")
def token_file(service, tmp_path_factory):
    path = tmp_path_factory.mktemp("secret") / "token"
    path.write_text(token(service, "ingest")["Authorization"].removeprefix("Bearer ") + "\n")
    return str(path)


@pytest.fixture
def sink(address, token_file):
    with closing(ServerSink(name="server", url=address, token_file=token_file)) as made:
        yield made


@pytest.fixture
def images(tmp_path) -> Images:
    return Images(tmp_path / "images")


@pytest.fixture
def png() -> bytes:
    import cv2
    import numpy as np

    return cv2.imencode(".png", np.zeros((8, 12, 3), np.uint8))[1].tobytes()


def kept(service, name: str):
    return service.store.read(inspections.get, UUID(name))


REGION = {"box": [1, 2, 3, 4], "area": 5, "peak": [2, 3], "peak_score": 9.5, "contour": [[1, 2], [3, 2], [3, 6]]}


def test_a_record_is_there_with_everything(service, sink, images, png):
    assert sink.check() == "127.0.0.1 takes the token"
    digest = images.put(png)
    made = record(
        part_id="A1", batch="B", image_sha256=digest, image_format="png", width=12, height=8, verdict="ng", output="ng",
        score=3.0, regions=[REGION], model_name="cap", model_sha256="0" * 64, model_version=2, latency_ms=31.5,
        in_scene=True, scene={"parts": 1},
    )  # fmt: skip
    assert list(sink.deliver([made], images).delivered) == [made.id]
    row = kept(service, made.id)
    assert (row.serial, row.batch, row.verdict, row.score, row.latency_ms) == ("A1", "B", "ng", 3.0, 31.5)
    assert (row.image_sha256, row.image_format, row.width) == (digest, "png", 12)
    assert service.store.blobs.get(digest) == png
    (region,) = service.store.read(inspections.regions_of, row.id)
    assert ((region.x, region.y, region.w, region.h), region.contour) == ((1, 2, 3, 4), [[1, 2, 3, 2, 3, 6]])


def test_what_was_delivered_is_known_and_a_refused_one_stands_alone(service, sink, images):
    good, again, bad = record(), record(), record(station="nowhere")
    assert list(sink.deliver([again], images).delivered) == [again.id]
    outcome = sink.deliver([good, again, bad], images)
    assert list(outcome.delivered) == [good.id, again.id]
    assert "There is no stream 'nowhere'" in outcome.refused[bad.id]


def test_a_late_ok_is_told_as_what_the_machine_had(service, sink, images):
    """The service takes no OK that came after the deadline: the PLC had ERROR."""
    late = record(late=True, output="ng")
    assert list(sink.deliver([late], images).delivered) == [late.id]
    row = kept(service, late.id)
    assert (row.verdict, row.late, row.reason[:19]) == ("error", True, "after the deadline:")


def test_an_image_that_is_gone_or_unwanted_or_none_keeps_no_record_back(service, address, token_file, images, png):
    digest = images.put(png)
    gone = record(image_sha256="0" * 64, image_format="png", width=12, height=8)
    unknown = record(image_sha256=images.put(b"no image"), image_format="", verdict="error", output="ng", score=None)
    good = record(image_sha256=digest, image_format="png", width=12, height=8)
    with closing(ServerSink(name="s", url=address, token_file=token_file, with_images="rejected")) as sink:
        assert len(sink.deliver([gone, unknown, good], images).delivered) == 3
    assert [kept(service, each.id).image_sha256 for each in (gone, unknown, good)] == [None] * 3
    assert kept(service, good.id).width == 12


def test_large_images_go_in_several_requests(sink, images, monkeypatch, png):
    monkeypatch.setattr("patchbank.line.sinks.server._MOST_IMAGES", 2 * len(png))
    some = [record(image_sha256=images.put(png + bytes([n])), image_format="png") for n in range(3)]
    assert len(sink.deliver(some, images).delivered) == 1
    assert len(sink.deliver(some[1:2], images).delivered) == 1


def test_the_state_of_a_station_is_reported(service, sink):
    sink.state("cap", {"state": "ready", "triggers": 7})
    until = time.monotonic() + 20
    while service.store.read(streams.by_name, "cap").state != "ready":
        assert time.monotonic() < until
        time.sleep(0.02)
    assert service.store.read(streams.by_name, "cap").state_json == {"state": "ready", "triggers": 7}
    sink.state("cap", {"state": "stopped"})
    while service.store.read(streams.by_name, "cap").state != "fault":
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_wrong_token_keeps_the_records(address, tmp_path, images):
    path = tmp_path / "token"
    path.write_text("pb_wrong")
    with closing(ServerSink(name="server", url=address, token_file=str(path))) as sink:
        with pytest.raises(Unreachable, match=r"answered 401 \(is the token right"):
            sink.deliver([record()], images)
        with pytest.raises(Unreachable, match="401"):
            sink.check()


def test_a_token_without_the_scope_says_so(service, address, tmp_path, images):
    path = tmp_path / "token"
    path.write_text(token(service, "read")["Authorization"].removeprefix("Bearer "))
    refused = pytest.raises(Unreachable, match="scope ingest")
    with closing(ServerSink(name="server", url=address, token_file=str(path))) as sink, refused:
        sink.deliver([record()], images)


@pytest.fixture
def fake(token_file):
    """An address that answers whatever it is told to."""
    with closing(Web()) as web:
        sink = ServerSink(name="server", url=f"http://127.0.0.1:{web.port}", token_file=token_file, timeout_s=5.0)
        with closing(sink):
            yield web, sink


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"records": [{"id": 1}]}', b'{"records": [{"outcome": "known"}]}']
)
def test_an_answer_that_says_nothing_strikes_nothing_out(fake, images, body):
    web, sink = fake
    web.answer = (200, {}, body)
    with pytest.raises(Unreachable, match="not that of patchbank serve"):
        sink.deliver([record()], images)


def test_a_busy_service_is_left_alone_for_a_while(fake, images):
    web, sink = fake
    web.answer = (503, {"Retry-After": "3"}, b'{"detail": "more is waiting"}')
    with pytest.raises(Unreachable, match="answered 503: more is waiting") as error:
        sink.deliver([record()], images)
    assert error.value.retry_after == 3.0


def test_a_body_that_is_refused_as_a_whole_is_tried_record_by_record(fake, images, png):
    """One record that the service cannot even read must not keep the others back."""
    web, sink = fake

    def too_large(request):
        _, _, body = web.got[-1]
        if len(body) > 10_000:
            return 413, {}, b'{"detail": "too large"}'
        ids = [each["id"] for each in json.loads(body)["records"]]
        receipts = [{"id": id, "outcome": "created", "problem": None} for id in ids]
        return 200, {}, json.dumps({"records": receipts}).encode()

    web.answer = too_large
    large = record(image_sha256=images.put(png + bytes(20_000)), image_format="png")
    small = record()
    assert list(sink.deliver([large, small], images).delivered) == [large.id]
    assert list(sink.deliver([small], images).delivered) == [small.id]
    web.answer = (422, {}, b'{"detail": "no"}')
    assert sink.deliver([small, large], images).refused == {small.id: "answered 422: no"}


def test_a_service_that_is_away_keeps_the_records(token_file, images):
    url = f"http://127.0.0.1:{closed_port()}"
    with closing(ServerSink(name="server", url=url, token_file=token_file)) as sink, pytest.raises(Unreachable):
        sink.deliver([record()], images)


def test_the_token_does_not_leave_the_machine_in_the_clear(token_file):
    with pytest.raises(ConfigError, match="expected https"):
        ServerSink(name="server", url="http://192.0.2.1:8080", token_file=token_file)
    ServerSink(name="server", url="https://192.0.2.1:8443", token_file=token_file)


def test_long_texts_and_missing_values_fit_what_the_service_takes():
    at = datetime.now(UTC)
    told = delivered(record(id=str(uuid7(at)), at=at, part_id="x" * 900, reason="y" * 20_000, source=""), "other", {})
    assert (len(told["serial"]), len(told["reason"]), told["source"], told["stream"]) == (200, 9000, "line", "other")
    assert (told["model"], told["image"], told["batch"]) == (None, None, None)
