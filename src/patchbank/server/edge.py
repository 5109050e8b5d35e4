"""The edge of the application, which every request passes: its id, its log line, its numbers, the headers that protect
a browser, bodies that are too large or too slow, and an answer whatever happens inside.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from patchbank.server import context
from patchbank.server.logs import access, event, logger
from patchbank.server.problems import Problem, as_problem, busy, respond

if TYPE_CHECKING:
    from patchbank.server.service import Service

# Nothing but what this server itself serves: no other host, no script in a page, no frame around it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_QUIET = ("/healthz", "/readyz", "/metrics", "/v2/health/")  # asked every few seconds: logged at "debug"
_STATUS_CLIENT_GONE = 499
SMALL_BODY = 1_000_000  # bytes that a body may have where nothing else is said
_KEY = "patchbank.exchange"


class Edge:
    """ASGI middleware around the whole application. `app` is the FastAPI application, whose problems it says."""

    def __init__(self, inner: ASGIApp, app: FastAPI, service: Service) -> None:
        self._inner, self._app, self._service = inner, app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        request_id = context.begin(Headers(scope=scope).get("x-request-id"))
        exchange = scope[_KEY] = _Exchange(self._service, scope, request_id, receive, send)
        with self._service.under_way():
            try:
                await self._inner(scope, exchange.receive, exchange.send)
            except asyncio.CancelledError:  # the service stops, and cannot wait any longer
                await exchange.fail(self._app, busy("The service was stopped before there was a result", 10, "stopped"))
            except Exception as error:  # noqa: BLE001  (whatever it is, the client gets an answer and the log the rest)
                await exchange.fail(self._app, error)
            finally:
                exchange.end()


class _Exchange:
    """One request and its answer."""

    def __init__(self, service: Service, scope: Scope, request_id: str, receive: Receive, send: Send) -> None:
        self._service, self._scope, self._id = service, scope, request_id
        self._receive, self._send = receive, send
        self._start, self._got, self._sent = time.perf_counter(), 0, 0
        self._status, self._whole, self._limit = 0, False, SMALL_BODY
        self._seconds, self._held, self._streamed = service.settings.timeout, 0, False

    def allow_body(self, limit: int) -> None:
        """Sets how many bytes the body may have. Raises Problem for one that says that it has more."""
        self._limit = limit
        length = Headers(scope=self._scope).get("content-length", "")
        if length.isdigit() and int(length[:20]) > limit:
            raise too_large(limit)

    def stream_body(self, limit: int, seconds: float) -> None:
        """As `allow_body`, for a body that goes to the disk as it comes, and has so many seconds to arrive."""
        self.allow_body(limit)
        self._seconds, self._streamed = seconds, True

    async def receive(self) -> Message:
        """The next part of the body. Raises Problem for one that is too large, or too slow."""
        if self._whole:
            return await self._receive()  # who waits for the client to go may wait long
        left = self._seconds - (time.perf_counter() - self._start)
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.001))
        except TimeoutError:
            raise Problem(
                408, "slow", f"The body did not arrive within {self._seconds:g} s",
                headers={"Connection": "close"},
            ) from None  # fmt: skip
        if message["type"] == "http.request":
            self._whole = not message.get("more_body", False)
            size = len(message.get("body", b""))
            if not self._streamed:
                self._service.hold(size)
                self._held += size
            self._got += size
            if self._got > self._limit:
                raise too_large(self._limit)
        return message

    async def send(self, message: Message) -> None:
        """Sends a part of the answer; its head gets the headers that all answers have."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._id
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
            if self._scope["scheme"] == "https":
                headers.setdefault("Strict-Transport-Security", "max-age=31536000")
        elif message["type"] == "http.response.body":
            self._sent += len(message.get("body", b""))
        await self._send(message)

    async def fail(self, app: FastAPI, error: Exception) -> None:
        """Answers for an exception, if no answer has begun."""
        problem = as_problem(error)
        if problem.status == 500:
            event(logging.ERROR, f"unforeseen {type(error).__name__}", request_id=self._id)
            logger.error("its traceback", exc_info=error)
        if self._status:
            raise error  # half an answer is out: the connection is closed, so that nobody takes it for a whole one
        await respond(app, self._scope["path"], problem)(self._scope, self.receive, self.send)

    def end(self) -> None:
        """Counts and logs."""
        self._service.hold(-self._held)
        seconds = time.perf_counter() - self._start
        method, path = self._scope["method"], self._scope["path"]
        route = getattr(self._scope.get("route"), "path_format", "") or "other"
        status = self._status or _STATUS_CLIENT_GONE
        known = method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
        self._service.metrics.requests.labels(known, route, str(status)).inc()
        self._service.metrics.request_seconds.labels(known, route).observe(seconds)
        quiet = status < 400 and path.startswith(_QUIET)
        event(
            logging.DEBUG if quiet else logging.INFO,
            "request",
            to=access,
            method=method,
            path=path,
            status=status,
            ms=round(1000 * seconds, 1),
            bytes_in=self._got,
            bytes_out=self._sent,
            client=(self._scope.get("client") or ("",))[0],
            who=self._scope.get("state", {}).get("who", ""),
            request_id=self._id,
        )


def allow_body(request: Request, limit: int) -> None:
    """Sets how many bytes the request's body may have. Raises Problem for one that says that it has more."""
    request.scope[_KEY].allow_body(limit)


def stream_body(request: Request, limit: int, seconds: float) -> None:
    """As `allow_body`, for a body that goes to the disk as it comes, and has so many seconds to arrive."""
    request.scope[_KEY].stream_body(limit, seconds)


def too_large(limit: int) -> Problem:
    """413 for a body over the limit, in bytes."""
    return Problem(413, "too-large", f"expected a body of at most {limit:,} bytes; got more")
