"""A station on OPC UA: starts the server as a process of its own (`opcua_server.py`), feeds it, and starts it again
when it ends. A fault or an attack there costs the connection to the PLC, and nothing of the line.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import sys
import threading
import time
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from patchbank import ConfigError, MissingExtraError
from patchbank.line.journal import Alarm
from patchbank.line.plc.child import Child
from patchbank.line.plc.modbus_server import address_of
from patchbank.line.plc.protocol import Commands, Shown

logger = logging.getLogger("patchbank.line")
_START_SECONDS = 60.0
_SILENT_SECONDS = 10.0  # without a sign of life; then the process is ended, and started again
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds between two starts
_FAREWELL_SECONDS = 3.0
_LAGS = 10  # messages; beats of the line do not queue up behind more, so that a process that lags shows it
_MOST_USERS = 100
_COMMAND = (sys.executable, "-m", "patchbank.line.plc.opcua_server")


def _to_the_log(what: str, why: str | None) -> None:
    logger.log(logging.INFO if why is None else logging.ERROR, "%s: %s", what, why or "works again")


class OpcuaPlc:
    """Implements `Plc`.

    listen: address and port. cert_file, key_file: the server's own certificate and key (PEM or DER). users_file: a line
    `NAME:PASSWORD` for each user. trusted_clients: folder with the certificates of the clients that may connect.
    heartbeat_seconds: after so long without a call of `Heartbeat` the PLC is lost; watched from the first call on.
    alarm: told when the process ends.
    """

    def __init__(
        self,
        listen: str,
        *,
        cert_file: str,
        key_file: str,
        users_file: str,
        trusted_clients: str,
        heartbeat_seconds: float = 1.0,
        alarm: Alarm = _to_the_log,
    ) -> None:
        if importlib.util.find_spec("asyncua") is None:
            raise MissingExtraError(
                "a PLC of kind opcua needs asyncua, which is not installed: pip install 'patchbank[opcua]'"
            )
        host, port = address_of(listen)
        self.address = f"opc.tcp://[{host}]:{port}" if ip_address(host).version == 6 else f"opc.tcp://{host}:{port}"
        for name, path in (("cert_file", cert_file), ("key_file", key_file)):
            if not Path(path).is_file():
                raise ConfigError(f"{name}: expected the server's own certificate and key; there is no file {path!r}")
        self._options = {
            "address": self.address,
            "host": host,
            "port": port,
            "cert_file": cert_file,
            "key_file": key_file,
            "users": _users(users_file),
            "trusted": _trusted(trusted_clients),
            "heartbeat_seconds": heartbeat_seconds,
        }
        self._alarm = alarm
        self._commands: Commands | None = None
        self._shown, self._beats, self._seq = Shown(), 0, 0
        self._child: Child | None = None
        self._ending = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="patchbank-opcua", daemon=True)

    def open(self, commands: Commands) -> None:
        """Starts the process and waits until it listens. Raises ConfigError if it does not."""
        self._commands = commands
        problem = self._start()
        if problem:
            raise ConfigError(f"the OPC UA server at {self.address} does not start: {problem}")
        self._supervisor.start()

    def show(self, shown: Shown) -> None:
        """Hands the picture on; clients see its verdict before its number."""
        self._shown = shown
        if self._child:
            self._child.send({"show": fields_of(shown)})

    def beat(self) -> None:
        """Hands the heartbeat on."""
        self._beats += 1
        if self._child and self._child.waiting < _LAGS:
            self._child.send({"beat": self._beats})

    def close(self) -> None:
        """Lets the process show ERROR, and ends it."""
        self._ending.set()
        if self._child:
            self._child.stop(_FAREWELL_SECONDS)
        if self._supervisor.ident:
            self._supervisor.join(_FAREWELL_SECONDS)

    def _start(self) -> str:
        """Starts the process; returns what is wrong, or ''."""
        child = Child(_COMMAND)
        child.send({**self._options, "shown": fields_of(self._shown), "seq": self._seq})
        message = child.message(_START_SECONDS) or {}
        if "ready" not in message:
            child.stop()
            return str(message.get("error", f"no sign of life within {_START_SECONDS:g} s"))[:500]
        self._child = child
        child.send({"show": fields_of(self._shown)})  # what came meanwhile
        if self._ending.is_set():
            child.stop(_FAREWELL_SECONDS)
        return ""

    def _supervise(self) -> None:
        """Reads what clients ask for, and starts the process again when it has ended."""
        wait = _FIRST_WAIT
        while self._child and not self._ending.is_set():
            began = time.monotonic()
            while message := self._child.message(_SILENT_SECONDS):
                self._command(message)
            if self._ending.is_set():
                return
            self._child.stop()
            self._alarm("opcua", f"the OPC UA server ended (exit code {self._child.code}), and is started again")
            if time.monotonic() - began > _LONGEST_WAIT:
                wait = _FIRST_WAIT
            while not self._ending.wait(wait):
                wait = min(2 * wait, _LONGEST_WAIT)
                problem = self._start()
                self._alarm("opcua", f"the OPC UA server does not start: {problem}" if problem else None)
                if not problem:
                    break

    def _command(self, message: Mapping[str, Any]) -> None:
        """Obeys what the process may ask for; anything else is not listened to."""
        assert self._commands
        try:
            match message:
                case {"trigger": [int(seq), str(part)]}:
                    self._seq = seq
                    self._commands.trigger(seq, "".join(sign if sign.isprintable() else "?" for sign in part).strip())
                case {"acknowledge": int(seq)}:
                    self._commands.acknowledge(seq)
                case {"recipe": int(number)}:
                    self._commands.recipe(number)
                case {"pause": bool(paused)}:
                    self._commands.pause(paused)
                case {"plc_lost": bool(lost)}:
                    self._commands.plc_lost(lost)
        except Exception:
            logger.exception("OPC UA: a command of the PLC failed")


def fields_of(shown: Shown) -> dict[str, Any]:
    """A picture as the process gets it: the names of `opcua_server.FIELDS`."""
    counters = shown.counters
    return {
        "State": int(shown.state),
        "ResultSeq": shown.result_seq & 0xFFFF_FFFF,
        "Verdict": int(shown.verdict),
        "Reason": int(shown.reason),
        "Score": shown.score,
        "PValue": shown.p_value,
        "LatencyMs": shown.latency_ms,
        "PartId": shown.part_id,
        "Recipe": shown.recipe & 0xFFFF,
        "Triggers": counters.triggers & 0xFFFF_FFFF,
        "Ok": counters.ok & 0xFFFF_FFFF,
        "Ng": counters.ng & 0xFFFF_FFFF,
        "Review": counters.review & 0xFFFF_FFFF,
        "Error": counters.error & 0xFFFF_FFFF,
        "Late": counters.late & 0xFFFF_FFFF,
        "Missed": counters.missed & 0xFFFF_FFFF,
        "MinMs": counters.min_ms,
        "MaxMs": counters.max_ms,
        "MeanMs": counters.mean_ms,
    }


def _users(path: str) -> dict[str, str]:
    """Name -> password. Raises ConfigError."""
    file = Path(path)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        open_to = file.stat().st_mode & 0o077
    except (OSError, ValueError) as error:
        raise ConfigError(f"users_file: cannot read {path}: {error}") from error
    if open_to and sys.platform != "win32":
        raise ConfigError(f"users_file: others may read {path}, which holds passwords: chmod 600 {path}")
    users = {}
    for line in filter(None, map(str.strip, lines)):
        name, colon, password = line.partition(":")
        if not colon or not name or len(password) < 8:
            raise ConfigError(f"users_file: expected NAME:PASSWORD on each line of {path}, 8 or more signs")
        users[name] = password
    if not 1 <= len(users) <= _MOST_USERS:
        raise ConfigError(f"users_file: expected 1 to {_MOST_USERS} users in {path}; got {len(users)}")
    return users


def _trusted(folder: str) -> list[str]:
    """The digests of the certificates in a folder. Raises ConfigError."""
    import ssl

    found = []
    for path in sorted(Path(folder).glob("*")):
        if path.suffix.lower() not in (".pem", ".der", ".crt", ".cer"):
            continue
        try:
            content = path.read_bytes()
            pem = b"-----BEGIN CERTIFICATE-----" in content
            der = ssl.PEM_cert_to_DER_cert(content.decode("ascii").strip()) if pem else content
        except (OSError, ValueError) as error:
            raise ConfigError(f"trusted_clients: expected a certificate, PEM or DER, in {path}; {error}") from error
        found.append(hashlib.sha256(der).hexdigest())
    if not found:
        raise ConfigError(
            f"trusted_clients: expected a folder with certificates (.pem, .der, .crt, .cer) of the clients; "
            f"got none in {folder!r}"
        )
    return found
