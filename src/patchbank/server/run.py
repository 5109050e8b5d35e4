"""Starting and stopping the service: sockets, TLS, signals, and an end within a bound."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn

from patchbank import ConfigError, PatchCore, Runtime
from patchbank.server.app import create_app
from patchbank.server.logs import event, logger, logging_to_stderr
from patchbank.server.metrics import Metrics
from patchbank.server.models import ModelHost
from patchbank.server.protocol import LimitedProtocol
from patchbank.server.registering import deploy_new, described, name_of
from patchbank.server.service import Service
from patchbank.server.settings import Settings
from patchbank.server.stations import prove
from patchbank.store.engine import Store, open_store

_INFO = 20
_KEEP_ALIVE_S = 30


def serve(
    models: Sequence[str | Path], settings: Settings, runtime: Runtime, started: Callable[[str], None] = print
) -> None:
    """Serves until SIGTERM or SIGINT, then ends what is under way. started: is told the address.

    Raises ConfigError for an address or a certificate that cannot be used, ModelFileError or BackboneError for a model.
    """
    tls = _tls(settings)
    with ExitStack() as stack:
        stack.enter_context(logging_to_stderr(settings.log_format, settings.log_level))
        listener = stack.enter_context(bound(settings))
        store = stack.enter_context(open_store(settings.data, settings.database))
        service = _service(models, settings, runtime, store)
        server = Server(service, tls)
        server.run_until_stopped(listener, started)


def _service(models: Sequence[str | Path], settings: Settings, runtime: Runtime, store: Store) -> Service:
    metrics = Metrics()
    names = [name_of(path) for path in models]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"expected model files of different names; {name!r} is there twice")
    for name, path in zip(names, models, strict=True):
        model = PatchCore.load(path, runtime=runtime)
        prove(model)  # before anything is noted of it
        digest = store.models.put_file(Path(path))
        new = described(model, digest, store.models.path(digest).stat().st_size)
        version, deployed = store.write(deploy_new, name, new)
        said = "deployed" if deployed else "known already: what is deployed now stays"
        event(_INFO, f"model file {said}", model=name, version=version.number, sha256=digest)
    return Service(settings, store, ModelHost(settings, runtime, metrics), metrics)


class Server(uvicorn.Server):
    """uvicorn's server, which on a signal first says that it is not ready, and ends with 0."""

    def __init__(self, service: Service, tls: ssl.SSLContext | None = None) -> None:
        settings = service.settings
        self.service, self._tls = service, tls
        limited = {"max_connections": settings.max_connections}
        super().__init__(
            uvicorn.Config(
                create_app(service),
                http=type("Protocol", (LimitedProtocol,), limited),
                ws="none",
                lifespan="on",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(settings.proxies),
                forwarded_allow_ips=list(settings.proxies),
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(settings.stop_timeout)),
                ssl_context_factory=(lambda *_: tls) if tls else None,
                reset_contextvars=True,
            )
        )

    def run_until_stopped(self, listener: socket.socket, started: Callable[[str], None]) -> None:
        """Serves on a bound socket. started: is told the address, once requests are answered."""
        with asyncio.Runner() as runner:
            runner.run(self._run(listener, started))

    async def _run(self, listener: socket.socket, started: Callable[[str], None]) -> None:
        self.loop = asyncio.get_running_loop()
        with self.capture_signals():
            await asyncio.gather(self._serve([listener]), self._tell(listener, started))
        event(_INFO, "stopped")

    async def _tell(self, listener: socket.socket, started: Callable[[str], None]) -> None:
        while not (self.started or self.should_exit):
            await asyncio.sleep(0.01)
        if self.started:
            address = address_of(listener, self.service.settings)
            event(
                _INFO, "started", address=address, models=",".join(each.name for each in self.service.stations.models())
            )
            started(address)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which leaves the application open if it is in a hurry."""
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop the service, a second one at once. SIGHUP reads the certificate again."""
        if threading.current_thread() is not threading.main_thread():  # who runs it there stops it with `handle_exit`
            yield
            return
        loop, before = asyncio.get_running_loop(), {}
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK"):
            if (number := getattr(signal, name, None)) is not None:
                handle = self._reload if name == "SIGHUP" else partial(self.handle_exit, number)
                before[number] = signal.signal(number, _in_loop(loop, handle))
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None = None) -> None:  # noqa: ARG002  (uvicorn's signature)
        """First: not ready, and after a delay no new requests. Again: now."""
        if self.service.stopping:
            self.force_exit = self.should_exit = True
            return
        event(_INFO, "stopping", signal=signal.Signals(sig).name)
        self.service.stop()
        asyncio.get_running_loop().call_later(self.service.settings.stop_delay, self.stop_now)

    def stop_now(self) -> None:
        """Not ready, and no new requests, without a delay. To be called in the loop."""
        self.service.stop()
        self.should_exit = True

    def _reload(self) -> None:
        settings = self.service.settings
        if self._tls is None:
            return
        try:
            self._tls.load_cert_chain(str(settings.tls_cert), settings.tls_key)
            event(_INFO, "certificate read again")
        except (OSError, ssl.SSLError) as error:
            logger.error("the certificate cannot be read; the one before stays in use: %s", error)


def _in_loop(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
    """A signal's handler that has the work done between two steps of the loop."""

    def handle(_: int, __: FrameType | None) -> None:
        loop.call_soon_threadsafe(work)

    return handle


@contextmanager
def bound(settings: Settings) -> Iterator[socket.socket]:
    """A socket with the address, which nobody can connect to yet. Raises ConfigError where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host: expected an address of this machine; got {settings.host!r} ({error})") from error
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {reason}; choose another --port, or end the program "
            "that uses it"
        ) from error
    try:
        yield listener
    finally:
        listener.close()


def address_of(listener: socket.socket, settings: Settings) -> str:
    """The address as a browser takes it."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{settings.scheme}://{host}:{listener.getsockname()[1]}"


def _tls(settings: Settings) -> ssl.SSLContext | None:
    """What speaks TLS 1.2 or later with the certificate; None without one. Raises ConfigError for files that cannot be
    used."""
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=lambda: "")
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"tls_cert, tls_key: expected a certificate and its unencrypted key as PEM files; got "
            f"{settings.tls_cert} and {settings.tls_key} ({error})"
        ) from error
    return context
