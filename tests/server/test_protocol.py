"""Limits of a connection, on bare sockets: who sends what no client sends gets an answer, and nobody waits for it."""

from __future__ import annotations

import socket
import time

import pytest

from patchbank.server.protocol import MAX_HEADERS, LimitedProtocol
from server.conftest import running, service_of


@pytest.fixture(scope="module")
def where(address):
    host, _, port = address.removeprefix("http://").partition(":")
    return host, int(port)


def exchange(where, data: bytes, *, end: bool = False) -> bytes:
    """All that comes back until the server closes the connection."""
    with socket.create_connection(where, timeout=60) as connection:
        connection.sendall(data)
        if end:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


def head(*headers: str, target: str = "/healthz") -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hallo\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),  # the beginning of TLS
        (head("A" * 100 + " x"), 400),
        (head("Content-Length: 5", "Content-Length: 6"), 400),
        (head("Content-Length: 5", "Transfer-Encoding: chunked"), 400),
        (head("Content-Length: -1"), 400),
        (head(target="/" + "a" * 9000), 414),
        (head(f"X: {'a' * 40_000}"), 431),
        (head(*(f"X{n}: a" for n in range(MAX_HEADERS + 1))), 431),
    ],
)
def test_heads_that_are_none_or_too_large(where, data, status):
    answer = exchange(where, data)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"application/problem+json" in answer
    assert b'"detail": "expected' in answer


def test_a_head_that_never_ends_takes_no_memory(where):
    """The connection ends at the limit, however much would follow."""
    with socket.create_connection(where, timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError):  # noqa: PT012  (which one, the system decides)
            for _ in range(1000):
                connection.sendall(b"X: " + b"a" * 100_000 + b"\r\n")
            raise AssertionError("it took 100 MB of headers")


def test_a_refused_client_that_still_sends_is_answered(where):
    """The answer must reach a client that reads only when it has sent all: no reset in between."""
    data = head("Content-Length: 8000000", target="/v2/models/none/infer").replace(b"GET", b"POST") + bytes(8_000_000)
    with socket.create_connection(where, timeout=60) as connection:
        connection.sendall(data)
        assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")
        connection.sendall(head("Connection: close"))
        assert b"200 OK" in connection.recv(65536)


@pytest.mark.parametrize("data", [b"", b"GET /healthz HTT", head() + b"GET"], ids=["nothing", "half", "half a second"])
def test_a_head_must_come_in_time(model, monkeypatch, data):
    """Slow clients must not hold connections for ever."""
    monkeypatch.setattr(LimitedProtocol, "head_seconds", 0.2)
    with running(service_of(model)) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        answer = exchange((host, int(port)), data)
    assert b"HTTP/1.1 408 " in answer
    assert answer.endswith(b"}")


def test_a_body_must_come_in_time(model):
    with running(service_of(model, timeout=1.0)) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        begun = head("Content-Length: 10", target="/v2/models/part/infer").replace(b"GET", b"POST") + b"12345"
        answer = exchange((host, int(port)), begun)
    assert b"HTTP/1.1 408 " in answer
    assert b"did not arrive within 1 s" in answer


def test_connections_are_counted(model):
    """One client cannot take them all: who comes too late is told when to come again; who goes makes room."""
    with running(service_of(model, max_connections=4)) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        held = [socket.create_connection((host, int(port)), timeout=60) for _ in range(4)]
        for each in held:
            each.sendall(head())
            assert b"200 OK" in each.recv(65536)
        answer = exchange((host, int(port)), head())
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
        held.pop().close()
        deadline = time.monotonic() + 60
        while b"200 OK" not in exchange((host, int(port)), head("Connection: close")):
            assert time.monotonic() < deadline
        for each in held:
            each.close()
