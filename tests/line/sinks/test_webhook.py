"""Webhooks: what is posted can be proven to be ours, and what an address answers cannot lose a record or hold us up."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.line.made import record
from web import Web, closed_port

from patchbank import ConfigError
from patchbank.line.images import Images
from patchbank.line.sinks.base import Unreachable
from patchbank.line.sinks.http_client import HttpClient
from patchbank.line.sinks.webhook import WebhookSink, signature, signing_key

KEY = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def web() -> Iterator[Web]:
    with closing(Web()) as running:
        yield running


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_bytes(b"whsec_" + base64.b64encode(KEY) + b"\n")
    return str(path)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "images")


@pytest.fixture
def sink(web: Web, secret: str) -> Iterator[WebhookSink]:
    with closing(WebhookSink(name="hook", url=web.url, secret_file=secret, timeout_s=5.0)) as made:
        yield made


def test_each_record_is_posted_once_and_signed(web, sink, images):
    """A receiver checks it as Standard Webhooks says, with nothing of patchbank."""
    made = [record(part_id="Ä1", heat={"h": 1}), record()]
    assert list(sink.deliver(made, images).delivered) == [each.id for each in made]
    for each, (path, headers, body) in zip(made, web.got, strict=True):
        assert path == "/hook?line=3"
        assert headers["webhook-id"] == each.id
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 300
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{digest}"
        message = json.loads(body)
        assert (message["type"], message["schema"], message["id"]) == ("inspection", 1, each.id)
        assert "heat" not in message
    assert "answers 200" in sink.check()


def test_the_signature_is_that_of_the_published_example():
    """From the specification's own test vector."""
    key = signing_key(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == expected


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503, 301, 307])
def test_what_may_pass_is_tried_again(web, sink, images, status):
    """Also what is wrong with the address or the secret: the records are not to blame."""
    web.answer = (status, {"Retry-After": "7", "Location": "http://127.0.0.1:1/"}, b"no")
    with pytest.raises(Unreachable, match=f"answered {status}") as error:
        sink.deliver([record()], images)
    assert error.value.retry_after == 7.0
    assert len(web.got) == 1, "a redirect was followed"


def test_what_is_wrong_with_a_record_sets_it_aside(web, sink, images):
    made = [record() for _ in range(3)]
    web.answer = lambda request: (422 if len(web.got) == 2 else 204, {}, b"bad " * 5000 if len(web.got) == 2 else b"")
    outcome = sink.deliver(made, images)
    assert list(outcome.delivered) == [made[0].id, made[2].id]
    assert outcome.refused[made[1].id].startswith("answered 422: bad bad")
    assert len(outcome.refused[made[1].id]) < 300


def test_what_was_delivered_before_the_address_went_away_counts(web, sink, images):
    made = [record() for _ in range(3)]
    web.answer = lambda request: (200 if len(web.got) < 2 else 500, {}, b"")
    assert list(sink.deliver(made, images).delivered) == [made[0].id]
    assert len(web.got) == 2


def test_an_address_that_is_not_there_or_does_not_answer_takes_its_time_only(web, secret, images):
    url = f"http://127.0.0.1:{closed_port()}/"
    refused = pytest.raises(Unreachable, match="refused")
    with closing(WebhookSink(name="hook", url=url, secret_file=secret)) as sink, refused:
        sink.deliver([record()], images)
    end = threading.Event()
    with closing(WebhookSink(name="hook", url=web.url, secret_file=secret, timeout_s=0.3)) as sink:
        web.answer = lambda request: end.wait(20) and None
        with pytest.raises(Unreachable, match=r"timed out|no answer within"):
            sink.deliver([record()], images)
    end.set()


def test_an_answer_that_drips_has_an_end(web, secret, images):
    def drip(request):
        request.send_response(200)
        request.send_header("Content-Length", "100000")
        request.end_headers()
        for _ in range(200):
            request.wfile.write(b".")
            time.sleep(0.1)

    web.answer = drip
    sink = WebhookSink(name="hook", url=web.url, secret_file=secret, timeout_s=0.5)
    with closing(sink), pytest.raises(Unreachable):
        sink.deliver([record()], images)


def test_a_large_answer_is_read_to_a_limit_and_the_next_request_works(web, sink, images):
    web.answer = (200, {}, b"x" * (3 << 20))
    assert len(sink.deliver([record(), record()], images).delivered) == 2


def test_a_connection_that_the_server_has_closed_is_opened_again(web, sink, images):
    """Servers close idle connections; that is no failure, and the record is posted once."""
    web.answer = (200, {}, b"")
    sink.deliver([record()], images)
    kept = sink._client._connection
    sink.deliver([record()], images)
    assert kept is not None
    assert sink._client._connection is kept

    def last(request):
        request.close_connection = True
        return 200, {}, b""

    web.answer = last
    for _ in range(3):
        assert len(sink.deliver([record()], images).delivered) == 1
    assert len(web.got) == 5


def test_hosts_limit_where_a_name_may_lead(web, secret, images):
    """A name that somebody makes lead into another network is not followed there."""
    for hosts, taken in ((["localhost"], True), (["127.0.0.0/8", "::1"], True), (["192.0.2.0/24"], False)):
        url = f"http://localhost:{web.port}/"
        with closing(WebhookSink(name="hook", url=url, secret_file=secret, hosts=hosts)) as sink:
            if taken:
                assert sink.deliver([record()], images).delivered
            else:
                with pytest.raises(Unreachable, match="not in hosts"):
                    sink.deliver([record()], images)


def test_https_checks_the_certificate(tmp_path, secret, images):
    pem = tmp_path / "both.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    more = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    subprocess.run([*make.split(), *more], check=True, capture_output=True)
    pem.write_bytes((tmp_path / "cert").read_bytes() + (tmp_path / "key").read_bytes())
    with closing(Web(pem)) as web:
        url = f"https://localhost:{web.port}/"
        trusted = WebhookSink(name="hook", url=url, secret_file=secret, ca_file=str(tmp_path / "cert"))
        assert trusted.deliver([record()], images).delivered
        trusted.close()
        unknown = pytest.raises(Unreachable, match="certificate")
        with closing(WebhookSink(name="hook", url=url, secret_file=secret)) as sink, unknown:
            sink.deliver([record()], images)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://x", "expected http"),
        ("http://", "expected http"),
        ("https://me:pass@x/", "no name or password"),
        ("https://x:0x/", "a port"),
    ],
)
def test_an_impossible_address_is_one_clear_error(url, says):
    with pytest.raises(ConfigError, match=says):
        HttpClient(url, timeout=1.0)


def test_an_address_that_is_not_in_hosts_is_an_error_before_anything_starts():
    with pytest.raises(ConfigError, match="in hosts"):
        HttpClient("https://elsewhere/", timeout=1.0, hosts=["mes.local"])


@pytest.mark.parametrize("content", [b"", b"short", b"whsec_!!!", b"whsec_" + base64.b64encode(b"short"), b"x" * 5000])
def test_a_weak_or_broken_secret_is_an_error(web, tmp_path, content):
    path = tmp_path / "s"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="secret_file"):
        WebhookSink(name="hook", url=web.url, secret_file=str(path))


def test_no_proxy_of_the_environment_sees_the_records(web, sink, images, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    assert sink.deliver([record()], images).delivered
