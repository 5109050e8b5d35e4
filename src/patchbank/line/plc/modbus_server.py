"""A Modbus TCP server: one thread, many connections, nothing that a client sends or leaves out holds up another one.

Limits: who may connect (`peers`), how many connections, how long one may be silent. A client that does not take its
answers is not read from until it does. When all places are taken, the connection that has been silent longest makes
room, if it was silent for a second: a PLC that lost its connection comes back, and a flood does not throw out one that
asks.
"""

from __future__ import annotations

import errno
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from patchbank import ConfigError
from patchbank.line.plc.modbus_wire import FrameError, Memory, answer, next_frame
from patchbank.util.log import logger

CONNECTIONS = 16
IDLE_SECONDS = 60.0  # without a whole request
_YOUNG_SECONDS = 1.0  # a connection that asked this lately is not given up for a new one
_TICK = 0.05  # seconds between two calls of `on_tick`
_MOST_RECEIVED = 4096  # bytes of one connection, before the others have their turn

Network = IPv4Network | IPv6Network


def address_of(listen: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:1502" or "[::1]:1502". Raises ConfigError."""
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    with suppress(ValueError):
        if colon and port.isdecimal() and int(port) < 65536:
            return str(ip_address(host)), int(port)
    raise ConfigError(f'expected an address and a port to listen on, such as "127.0.0.1:1502"; got {listen!r}')


def networks(peers: Sequence[str], host: str) -> tuple[Network, ...]:
    """Who may connect. peers: addresses or networks ("192.168.1.10", "10.0.0.0/24"). host: where the server listens;
    on loopback this machine may always connect, elsewhere peers must be named. Raises ConfigError."""
    local = ip_address(host).is_loopback
    if not local and not peers:
        raise ConfigError(
            f"{host} can be reached from other machines, and Modbus has no passwords: name who may connect, as in "
            'peers = ["192.168.1.10"]'
        )
    named = ["127.0.0.0/8", "::1", *peers] if local else peers
    try:
        return tuple(ip_network(peer) for peer in named)
    except ValueError as error:
        raise ConfigError(f'expected addresses or networks in peers, such as "192.168.1.10"; {error}') from error


class _Connection:
    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.sock, self.peer = sock, peer
        self.received, self.unsent = bytearray(), b""
        self.asked_at = time.monotonic()


class ModbusServer:
    """Serves a memory. It listens when it is made; `address` says where. Raises ConfigError if it cannot.

    listen: address and port; port 0 takes a free one. on_tick: called about 20 times a second in the server's thread.
    """

    def __init__(
        self,
        listen: str,
        memory: Memory,
        *,
        peers: Sequence[str] = (),
        connections: int = CONNECTIONS,
        idle_seconds: float = IDLE_SECONDS,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        host, port = address_of(listen)
        self._peers = networks(peers, host)
        self._memory, self._on_tick = memory, on_tick
        self._most, self._idle_seconds = connections, idle_seconds
        self._open: set[_Connection] = set()
        self._told: set[str] = set()  # refused addresses that the log has
        self._ending = threading.Event()
        self._listening = _listener(host, port)
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name=f"modbus-{self.address[1]}", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> int:
        """Open connections."""
        return len(self._open)

    def close(self) -> None:
        """Closes all connections. More calls do nothing."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        self._ticked = time.monotonic()
        while not self._ending.is_set():
            try:
                self._turn()
            except Exception:  # noqa: BLE001  (a dead server would look like a PLC that does not ask)
                logger.exception("Modbus: an error in the server")
                time.sleep(_TICK)
        for connection in list(self._open):
            self._drop(connection)
        self._selector.close()
        self._listening.close()

    def _turn(self) -> None:
        """Serves who is ready, and does what is due."""
        for key, _ in self._selector.select(_TICK):
            if key.data is None:
                self._accept()
            else:
                self._serve(key.data)
        now = time.monotonic()
        if now - self._ticked >= _TICK:
            self._ticked = now
            if self._listening.fileno() not in self._selector.get_map():
                self._selector.register(self._listening, selectors.EVENT_READ)
            self._close_silent(now)
            self._guarded_tick()

    def _guarded_tick(self) -> None:
        try:
            self._on_tick()
        except Exception:  # noqa: BLE001  (the server goes on answering, whatever happens to its users)
            logger.exception("Modbus: an error in the line")

    def _accept(self) -> None:
        try:
            sock, address = self._listening.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # it stays in the queue; the next tick tries again
                self._selector.unregister(self._listening)
            return
        host = str(address[0]).partition("%")[0].removeprefix("::ffff:")
        if not any(ip_address(host) in network for network in self._peers):
            sock.close()
            self._tell_once(host, "it is not in peers")
            return
        if len(self._open) >= self._most and not self._make_room():
            sock.close()
            self._tell_once(host, f"all {self._most} connections are in use")
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection = _Connection(sock, host)
        self._open.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _make_room(self) -> bool:
        oldest = min(self._open, key=lambda each: each.asked_at)
        if time.monotonic() - oldest.asked_at < _YOUNG_SECONDS:
            return False
        self._drop(oldest)
        return True

    def _tell_once(self, host: str, why: str) -> None:
        if host not in self._told and len(self._told) < 100:
            self._told.add(host)
            logger.warning("Modbus: a connection from %s was refused: %s", host, why)

    def _serve(self, connection: _Connection) -> None:
        try:
            if not connection.unsent:
                data = connection.sock.recv(_MOST_RECEIVED)
                if not data:
                    self._drop(connection)
                    return
                connection.received += data
                connection.unsent = self._answers(connection)
            if connection.unsent:
                sent = connection.sock.send(connection.unsent)
                connection.unsent = connection.unsent[sent:]
        except (BlockingIOError, InterruptedError):
            pass
        except (OSError, FrameError):
            self._drop(connection)
            return
        except Exception:
            self._drop(connection)  # else it would come up again at once
            raise
        wanted = selectors.EVENT_WRITE if connection.unsent else selectors.EVENT_READ
        self._selector.modify(connection.sock, wanted, connection)

    def _answers(self, connection: _Connection) -> bytes:
        """The answers to the whole frames that were received. Raises FrameError."""
        answers = []
        while (frame := next_frame(connection.received)) is not None:
            connection.asked_at = time.monotonic()
            answers.append(frame.reply(answer(frame.pdu, self._memory)))
        return b"".join(answers)

    def _close_silent(self, now: float) -> None:
        for connection in [each for each in self._open if now - each.asked_at > self._idle_seconds]:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        with suppress(KeyError, ValueError):
            self._selector.unregister(connection.sock)
        connection.sock.close()


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(64)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {host} port {port} for the PLC: {error.strerror or error}") from error
    return sock
