"""Limits of a connection, which come before any request is there: how large a head may be, how long it may take, how
many connections there may be. uvicorn has none of these with httptools, so one client could take all memory or all
sockets.
"""

from __future__ import annotations

import asyncio
import http
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from patchbank.server.problems import MEDIA_TYPE

MAX_HEAD = 32_768  # bytes of the request's target and headers
MAX_TARGET = 8_192
MAX_HEADERS = 100
HEAD_SECONDS = 10.0
MAX_DISCARDED = 64_000_000  # bytes of a body that still come after its request was refused
MAX_LINGERED = 1_000_000
_LINGER_SECONDS, _LINGERING = 1.0, 64  # for how long refused connections stay, and how many


class _Refused(Exception):  # noqa: N818
    """What a parser's callback raises to end the connection with this status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits. `max_connections` and `head_seconds` are set by who makes the server."""

    max_connections = 256
    head_seconds = HEAD_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = self._discarded = 0
        self._ended = False
        self._refusal: _Refused | None = None
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._end(_Refused(503, "There are too many connections; try again in a second"))
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            self._discarded += len(data)
            if self._discarded > MAX_LINGERED:
                self.transport.close()
        elif not self.transport.is_closing():
            super().data_received(data)

    def on_message_begin(self) -> None:
        self._head_bytes = self._discarded = 0
        self._await_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_TARGET:
            self._refuse(414, f"expected an address of at most {MAX_TARGET} bytes; got more")
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        if len(self.headers) >= MAX_HEADERS:
            self._refuse(431, f"expected at most {MAX_HEADERS} headers; got more")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_is_here()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle is not None and self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > MAX_DISCARDED:
                self.transport.close()
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  (uvicorn's signature)
        self._end(self._refusal or _Refused(400, "expected an HTTP/1.1 request; got something else"))

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD:
            self._refuse(431, f"expected headers of at most {MAX_HEAD} bytes; got more")

    def _refuse(self, status: int, detail: str) -> None:
        self._refusal = _Refused(status, detail)
        raise self._refusal  # the parser hands it on as an error of its own, which ends in `send_400_response`

    def _await_head(self) -> None:
        self._head_is_here()
        self._head_timer = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _head_is_here(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        if not (self._ended or self.transport.is_closing()):
            self._end(_Refused(408, f"expected a request's head within {self.head_seconds:g} s"))

    def _end(self, refusal: _Refused) -> None:
        """Answers on the bare connection, and closes it."""
        problem = {
            "type": "about:blank",
            "title": http.HTTPStatus(refusal.status).phrase,
            "status": refusal.status,
            "detail": refusal.detail,
        }
        body = json.dumps(problem).encode()
        retry = b"retry-after: 1\r\n" if refusal.status == 503 else b""
        self.transport.write(
            STATUS_LINE[refusal.status]
            + b"content-type: " + MEDIA_TYPE.encode() + b"\r\n"
            + b"content-length: " + str(len(body)).encode() + b"\r\n" + retry
            + b"connection: close\r\n\r\n" + body
        )  # fmt: skip
        self._linger()

    def _linger(self) -> None:
        """Closes the connection, but first reads a while what still comes: else the system would reset it, and the
        client lose the answer."""
        self._ended = True
        if len(self.connections) > self.max_connections + _LINGERING or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)
