"""POST over HTTP and HTTPS, for sinks: with limits on everything that the other side decides.

No redirect is followed, no proxy is taken from the environment, and a request ends within its time however slowly the
answer drips. `hosts` limits where a connection goes, by name or by the address that the name leads to.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from patchbank import ConfigError
from patchbank.line.sinks.base import Unreachable
from patchbank.version import __version__

_MOST_ANSWER = 1 << 20  # bytes
_MOST_SECRET = 4096


@dataclass(frozen=True)
class Reply:
    """An answer. body: at most 1 MiB of it. retry_after: seconds; 0 = not said."""

    status: int
    body: bytes
    retry_after: float = 0.0


class HttpClient:
    """One connection to one address, kept open between requests. Raises ConfigError for an impossible url."""

    def __init__(self, url: str, *, timeout: float, ca_file: str = "", hosts: Sequence[str] = ()) -> None:
        """timeout: seconds a request may take altogether. ca_file: certificates (PEM) to trust in place of the
        system's. hosts: names, addresses or networks that may be called; () = the url's own."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"url: expected http:// or https:// and a host; got {url!r}")
        if parts.username or parts.password:
            raise ConfigError("url: expected no name or password in it: a secret does not stand in this file")
        try:
            self._port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise ConfigError(f"url: expected a port from 1 to 65535; got {url!r}") from error
        self.host, self.tls = parts.hostname, parts.scheme == "https"
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._timeout, self._hosts = timeout, tuple(hosts)
        self._context = _context(ca_file) if self.tls else None
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()
        if hosts and self.host not in hosts and not _networks(hosts):
            raise ConfigError(f"url: expected a host that is in hosts ({', '.join(hosts)}); got {self.host}")

    @property
    def is_local(self) -> bool:
        """Whether the host is this machine."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def post(self, body: bytes, headers: Mapping[str, str], path: str = "") -> Reply:
        """Sends the body. path: in place of the url's own. Raises Unreachable when no answer came."""
        until = time.monotonic() + self._timeout
        with self._lock:
            try:
                return self._ask(body, headers, path or self.path, until)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                raise Unreachable(f"{self.host}:{self._port}: {_words(error)}") from error

    def close(self) -> None:
        """Closes the connection; a request that is under way in another thread fails."""
        connection = self._connection
        if connection and connection.sock:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _ask(self, body: bytes, headers: Mapping[str, str], path: str, until: float) -> Reply:
        reused = self._connection is not None
        try:
            response = self._send(body, headers, path, until)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            if not reused:
                raise
            self._drop()  # the server closed it since the last request
            response = self._send(body, headers, path, until)
        content = bytearray()
        while len(content) < _MOST_ANSWER:
            self._limit(until)
            chunk = response.read1(min(65536, _MOST_ANSWER - len(content)))
            if not chunk:
                break
            content += chunk
        if response.length == 0:
            response.close()  # all of it was read
        if not response.isclosed() or response.will_close:
            self._drop()  # the answer is longer, or was the last one
        return Reply(response.status, bytes(content), _seconds(response.headers.get("Retry-After", "")))

    def _send(self, body: bytes, headers: Mapping[str, str], path: str, until: float) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = self._connected(until)
        self._limit(until)
        agent = {"User-Agent": f"patchbank/{__version__}", "Content-Length": str(len(body))}
        self._connection.request("POST", path, body, {**agent, **headers})
        self._limit(until)
        return self._connection.getresponse()

    def _connected(self, until: float) -> http.client.HTTPConnection:
        """A connection to an address that was checked: the name is looked up once."""
        error: OSError = OSError("no address")
        for *_, found in socket.getaddrinfo(self.host, self._port, type=socket.SOCK_STREAM):
            address = str(found[0])
            if not self._may(address):
                error = OSError(f"{address} is not in hosts")
                continue
            try:
                sock = socket.create_connection((address, self._port), max(until - time.monotonic(), 0.1))
            except OSError as problem:
                error = problem
                continue
            connection = http.client.HTTPConnection(self.host, self._port)
            connection.auto_open = 0
            connection.sock = sock
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context:
                connection.sock = self._context.wrap_socket(sock, server_hostname=self.host)
            return connection
        raise error

    def _may(self, address: str) -> bool:
        if not self._hosts or self.host in self._hosts:
            return True
        return any(ip_address(address.partition("%")[0]) in network for network in _networks(self._hosts))

    def _limit(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no answer within {self._timeout:g} s")
        if self._connection and self._connection.sock:
            self._connection.sock.settimeout(left)

    def _drop(self) -> None:
        if self._connection:
            self._connection.close()
        self._connection = None


def secret_of(path: str, name: str) -> bytes:
    """The content of a file that holds a secret, without white space at its ends. Raises ConfigError."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST_SECRET + 1).strip()
    except OSError as error:
        raise ConfigError(f"{name}: cannot read {path}: {error.strerror}") from error
    if not content or len(content) > _MOST_SECRET:
        raise ConfigError(f"{name}: expected a file of 1 to {_MOST_SECRET} bytes with the secret; got another: {path}")
    return content


def tls_context(ca_file: str, cert_file: str = "", key_file: str = "") -> ssl.SSLContext:
    """TLS 1.2 or later, with the other side's name checked. ca_file: certificates (PEM) to trust; '' = the system's.
    cert_file, key_file: this side's certificate. Raises ConfigError."""
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if cert_file:
            context.load_cert_chain(cert_file, key_file or None, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = ", ".join(each for each in (ca_file, cert_file, key_file) if each)
        raise ConfigError(f"expected certificates as PEM in {files}; got: {_words(error)}") from error
    return context


def _no_password() -> str:
    """A key with a password would ask at the terminal."""
    raise ValueError("the key has a password; use one without, which only this user can read")


def _context(ca_file: str) -> ssl.SSLContext:
    return tls_context(ca_file)


def _networks(hosts: Sequence[str]) -> list[IPv4Network | IPv6Network]:
    found: list[IPv4Network | IPv6Network] = []
    for host in hosts:
        with suppress(ValueError):
            found.append(ip_network(host))
    return found


def _seconds(text: str) -> float:
    """Retry-After: seconds, or a date."""
    if text.isdecimal():
        return float(text[:9])
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return 0.0


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
