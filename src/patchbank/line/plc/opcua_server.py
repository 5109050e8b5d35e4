"""The OPC UA server of a station: a process of its own, which talks to the line in JSON lines (`opcua.py` is the other
end). It is run as `python -m patchbank.line.plc.opcua_server`; nothing else imports it.

What comes in: first the options; then {"show": fields}, {"beat": number}. What goes out: {"ready": address} or
{"error": words}, {"alive": true} each second, and what clients ask for: {"trigger": [number, part]}, {"acknowledge":
number}, {"recipe": number}, {"pause": yes}, {"plc_lost": yes}.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

NAMESPACE = "urn:patchbank:line"
NAME = "Station"
EVENT = "ResultReadyEventType"
STATES = ("Preoperational", "Ready", "SingleExecution", "Error")  # by `State`; names of OPC 40100-1
# Name -> type of each variable, in the order in which they are written: what a result says comes before its number.
FIELDS: Mapping[str, str] = {
    "Verdict": "UInt16",
    "Reason": "UInt16",
    "Score": "Double",
    "PValue": "Double",
    "LatencyMs": "Double",
    "PartId": "String",
    "Triggers": "UInt32",
    "Ok": "UInt32",
    "Ng": "UInt32",
    "Review": "UInt32",
    "Error": "UInt32",
    "Late": "UInt32",
    "Missed": "UInt32",
    "MinMs": "Double",
    "MaxMs": "Double",
    "MeanMs": "Double",
    "Recipe": "UInt16",
    "ResultSeq": "UInt32",
    "State": "UInt16",
    "CurrentState": "String",
    "Heartbeat": "UInt16",
}
IN_THE_EVENT = ("ResultSeq", "Verdict", "Reason", "Score", "PValue", "LatencyMs", "PartId")
_ERROR, _FAULT, _STOPPING = 4, 3, 22
_MOST_MEMORY = 1 << 30  # bytes of address space; then this process ends, and is started again
_MOST_PART = 200  # characters
_NO_BEAT = 0.5  # seconds without a beat of the line; then every part is a reject
_FAREWELL = 0.3  # seconds for which the last values can be read
_CONNECTIONS, _SUBSCRIPTIONS, _QUEUE, _MOST_MESSAGE = 16, 32, 1000, 1 << 20


def main() -> None:
    """Serves until the line closes the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the line, whose end is told by the pipe
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    options = json.loads(sys.stdin.buffer.readline())
    try:
        _check_port(options["host"], options["port"])
        asyncio.run(_Station(options).run())
    except Exception as error:  # noqa: BLE001  (the line says it)
        _say(error=f"{type(error).__name__}: {error}")
        sys.exit(1)


def _check_port(host: str, port: int) -> None:
    """Raises OSError for an address that cannot be used, before everything slow is imported."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(1)


def _say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class _Users:
    """Who may open a session: a user with a password, through a channel with a certificate that is trusted."""

    def __init__(self, users: Mapping[str, str], trusted: list[str]) -> None:
        self._users, self._trusted = users, frozenset(trusted)

    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:  # noqa: ARG002
        from asyncua.crypto.permission_rules import User, UserRole

        known = certificate is not None and hashlib.sha256(certificate).hexdigest() in self._trusted
        expected = self._users.get(username or "", "")
        right = hmac.compare_digest(expected.encode(), str(password or "").encode())
        return User(UserRole.User, username) if known and right and expected else None


class _Station:
    """The server and its nodes."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options, self._shown = options, dict(options["shown"])
        self._seq = int(options["seq"])
        self._nodes: dict[str, Any] = {}
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._beat_at = self._client_beat_at = 0.0
        self._silent = self._lost = False

    async def run(self) -> None:
        """Starts, and does what the line says."""
        self._server = await self._made()
        await self._show(self._shown, event=False)
        async with self._server:
            threading.Thread(target=self._read, args=(asyncio.get_running_loop(),), daemon=True).start()
            _say(ready=self._options["address"])
            self._beat_at, told = time.monotonic(), 0.0
            while True:
                with suppress(TimeoutError):
                    line = await asyncio.wait_for(self._lines.get(), 0.1)
                    if not line:
                        break
                    await self._obey(json.loads(line))
                if time.monotonic() - told > 1.0:
                    told = time.monotonic()
                    _say(alive=True)
                await self._watch()
            await self._reject()
            await asyncio.sleep(_FAREWELL)
            os._exit(0)  # asyncua takes a second to end, and there is nothing to keep

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """A thread: what the line says; an empty line at the end."""
        for line in sys.stdin.buffer:
            loop.call_soon_threadsafe(self._lines.put_nowait, line)
        loop.call_soon_threadsafe(self._lines.put_nowait, b"")

    async def _obey(self, message: Mapping[str, Any]) -> None:
        if "show" in message:
            self._shown = dict(message["show"])
            await self._show(self._shown, event=True)
        if "beat" in message:
            self._beat_at = time.monotonic()
            await self._write("Heartbeat", int(message["beat"]) & 0xFFFF)

    async def _watch(self) -> None:
        """Rejects while the line does not beat; tells when the client's heartbeat stops."""
        silent = time.monotonic() - self._beat_at > _NO_BEAT
        if silent != self._silent:
            self._silent = silent
            await (self._reject() if silent else self._show(self._shown, event=False))
        limit = float(self._options["heartbeat_seconds"])
        lost = bool(limit and self._client_beat_at and time.monotonic() - self._client_beat_at > limit)
        if lost != self._lost:
            self._lost = lost
            _say(plc_lost=lost)

    async def _reject(self) -> None:
        await self._show({**self._shown, "Verdict": _ERROR, "Reason": _STOPPING, "State": _FAULT}, event=False)

    async def _show(self, shown: Mapping[str, Any], *, event: bool) -> None:
        before = await self._nodes["ResultSeq"].read_value()
        values = {**shown, "CurrentState": STATES[shown["State"]]}
        for name in FIELDS:
            if name in values:
                await self._write(name, values[name])
        if event and values["ResultSeq"] != before and values["ResultSeq"]:
            for name in IN_THE_EVENT:
                setattr(self._event.event, name, self._variant(name, values[name]))
            await self._event.trigger(message=f"result {values['ResultSeq']}")

    async def _write(self, name: str, value: Any) -> None:
        from asyncua import ua

        await self._server.write_attribute_value(self._nodes[name].nodeid, ua.DataValue(self._variant(name, value)))

    def _variant(self, name: str, value: Any) -> Any:
        from asyncua import ua

        kind = ua.VariantType[FIELDS[name]]
        if kind == ua.VariantType.Double:
            value = float("nan") if value is None else float(value)
        return ua.Variant(value, kind)

    async def _made(self) -> Any:
        from asyncua import Server, ua
        from asyncua.crypto.permission_rules import SimpleRoleRuleset

        server = Server(user_manager=_Users(self._options["users"], self._options["trusted"]))
        await server.init()
        server.set_endpoint(self._options["address"])
        server.set_server_name("patchbank")
        await server.set_application_uri(NAMESPACE)
        server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt], SimpleRoleRuleset())
        server.set_identity_tokens([ua.UserNameIdentityToken])
        await server.load_certificate(self._options["cert_file"])
        await server.load_private_key(self._options["key_file"])
        inner = server.iserver
        inner.allow_remote_admin = False
        inner.max_connections, inner.max_subscriptions = _CONNECTIONS, _SUBSCRIPTIONS
        inner.max_pending_activation_seconds, inner.max_monitored_item_queue_size = 10.0, _QUEUE
        inner.max_unacked_messages_per_subscription = _QUEUE
        server.limits.max_message_size, server.limits.max_chunk_count = _MOST_MESSAGE, 16
        await self._add_nodes(server, await server.register_namespace(NAMESPACE))
        return server

    async def _add_nodes(self, server: Any, space: int) -> None:
        from asyncua import ua

        station = await server.nodes.objects.add_object(ua.NodeId(NAME, space), f"{space}:{NAME}")
        for name, kind in FIELDS.items():
            empty = {"String": "", "Double": 0.0}.get(kind, 0)
            node = ua.NodeId(f"{NAME}.{name}", space)
            self._nodes[name] = await station.add_variable(node, f"{space}:{name}", empty, ua.VariantType[kind])
        for name, call, takes, gives in (
            ("Trigger", self._trigger, [("PartId", "String")], [("Seq", "UInt32")]),
            ("Acknowledge", self._acknowledge, [("Seq", "UInt32")], []),
            ("SelectRecipe", self._recipe, [("Number", "UInt16")], []),
            ("Pause", self._pause, [("Paused", "Boolean")], []),
            ("Heartbeat", self._heartbeat, [], []),
        ):
            method = ua.NodeId(f"{NAME}.{name}()", space)
            await station.add_method(method, f"{space}:{name}", call, _arguments(takes), _arguments(gives))
        fields = [(name, ua.VariantType[FIELDS[name]]) for name in IN_THE_EVENT]
        kind = await server.create_custom_event_type(space, EVENT, ua.ObjectIds.BaseEventType, fields)
        self._event = await server.get_event_generator(kind, station)
        self._event.event.Severity = 1

    async def _trigger(self, _: Any, part: Any) -> Any:
        from asyncua import ua

        self._seq = self._seq % 0xFFFF_FFFF + 1
        _say(trigger=[self._seq, str(part.Value or "")[:_MOST_PART]])
        return [ua.Variant(self._seq, ua.VariantType.UInt32)]

    async def _acknowledge(self, _: Any, seq: Any) -> Any:
        _say(acknowledge=int(seq.Value))
        return []

    async def _recipe(self, _: Any, number: Any) -> Any:
        _say(recipe=int(number.Value))
        return []

    async def _pause(self, _: Any, paused: Any) -> Any:
        _say(pause=bool(paused.Value))
        return []

    async def _heartbeat(self, _: Any) -> Any:
        self._client_beat_at = time.monotonic()
        return []


def _arguments(named: list[tuple[str, str]]) -> list[Any]:
    from asyncua import ua

    made = []
    for name, kind in named:
        argument = ua.Argument()
        argument.Name, argument.ValueRank = name, -1
        argument.DataType = ua.NodeId(getattr(ua.ObjectIds, kind))
        made.append(argument)
    return made


if __name__ == "__main__":
    main()
