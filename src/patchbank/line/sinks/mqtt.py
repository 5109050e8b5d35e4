"""Records to an MQTT broker: `TOPIC/SITE/LINE/STATION/result` with QoS 1, and each station's state, retained.

The broker's PUBACK is the acknowledgement. A message that was sent and not acknowledged is sent again with the same
`id` in it: subscribers take an id once. A state is told by a connection of its own for each station, so that the broker
itself tells when the program ends without a word (last will).
"""

from __future__ import annotations

import json
import queue
import re
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from patchbank import ConfigError, MissingExtraError
from patchbank.line.images import Images
from patchbank.line.record import Record
from patchbank.line.sinks.base import Outcome, Unreachable
from patchbank.line.sinks.http_client import secret_of, tls_context

if TYPE_CHECKING:
    from paho.mqtt.client import Client

SCHEMA = 1  # of a state; a result has its record's
_NOT_IN_TOPICS = re.compile(r"[+#/\x00-\x1f\x7f-\x9f]")
_KEEPALIVE = 15  # seconds
_FAREWELL = 2.0  # seconds for the last messages


class MqttSink:
    """Implements `Sink`. The options are those of `MqttOptions`."""

    batch = 100

    def __init__(
        self,
        *,
        name: str,
        url: str,
        topic: str = "patchbank",
        username_file: str = "",
        ca_file: str = "",
        cert_file: str = "",
        key_file: str = "",
        client_id: str = "",
        protocol: str = "5",
        timeout_s: float = 10.0,
    ) -> None:
        self.name, self._topic, self._timeout = name, topic, timeout_s
        self._options = _Options(url, username_file, ca_file, cert_file, key_file, protocol)
        self._client_id = client_id or f"patchbank-{secrets.token_hex(6)}"
        self._link: _Link | None = None
        self._sent: dict[int, str] = {}  # message number -> id, of what is not acknowledged
        self._acknowledged: set[str] = set()
        self._stations: dict[str, _StateLink] = {}
        self._closing = threading.Event()

    def check(self) -> str:
        """Connects and says to what. Raises Unreachable."""
        link = _Link(self._options, f"{self._client_id}-check")
        try:
            link.wait(self._timeout)
        finally:
            link.close()
        return f"connected to {self._options.where}"

    def deliver(self, records: Sequence[Record], images: Images) -> Outcome:  # noqa: ARG002  (texts only)
        """Publishes the records and waits for the broker's acknowledgements."""
        if self._link is None:
            self._link = _Link(self._options, self._client_id)
        link, until = self._link, time.monotonic() + self._timeout
        link.wait(self._timeout)
        waiting = set(self._sent.values())
        for record in records:
            if record.id not in waiting and record.id not in self._acknowledged:
                self._sent[link.publish(self._topic_of(record), _payload(record))] = record.id
        wanted = {record.id for record in records}
        problem = self._await(wanted, link, until)
        delivered = sorted(wanted & self._acknowledged)
        self._acknowledged -= wanted
        if not delivered:
            raise Unreachable(problem or f"{self._options.where} acknowledged nothing within {self._timeout:g} s")
        return Outcome(delivered)

    def state(self, station: str, state: Mapping[str, Any]) -> None:
        """Publishes the station's state, retained. `site` and `line` in it are in the topic."""
        if self._closing.is_set():
            return
        if station not in self._stations:
            where = [_level(str(state.get(part) or "")) for part in ("site", "line")]
            topic = "/".join((self._topic, *where, _level(station), "state"))
            self._stations[station] = _StateLink(self._options, f"{self._client_id}-{_level(station)}", topic, station)
        self._stations[station].tell(state)

    def close(self) -> None:
        """Says of each station that it has stopped, and disconnects."""
        self._closing.set()
        for station in self._stations.values():
            station.close()
        if self._link:
            self._link.close()

    def _await(self, wanted: set[str], link: _Link, until: float) -> str:
        """Takes acknowledgements until all are there, the time is over, or the broker is gone. Returns a problem."""
        problem = ""
        while not wanted <= self._acknowledged and time.monotonic() < until and not self._closing.is_set():
            try:
                number, refusal = link.acknowledged.get(timeout=0.2)
            except queue.Empty:
                if not link.connected.is_set():
                    return link.why
                continue
            id = self._sent.pop(number, "")
            if refusal:
                problem = f"{self._options.where} refuses a message: {refusal}"
                wanted = wanted - {id}
            elif id:
                self._acknowledged.add(id)
        return problem

    def _topic_of(self, record: Record) -> str:
        levels = (_level(each) for each in (record.site, record.line, record.station))
        return "/".join((self._topic, *levels, "result"))


class _Options:
    """How to reach the broker. Raises ConfigError, or MissingExtraError without paho-mqtt."""

    def __init__(
        self, url: str, username_file: str, ca_file: str, cert_file: str, key_file: str, protocol: str
    ) -> None:
        try:
            import paho.mqtt.client  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                "a sink of kind mqtt needs paho-mqtt, which is not installed: pip install 'patchbank[line]'"
            ) from error
        parts = urlsplit(url)
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path not in ("", "/"):
            raise ConfigError(f'url: expected "mqtt://HOST:PORT" or "mqtts://HOST:PORT"; got {url!r}')
        if parts.username or parts.password:
            raise ConfigError("url: expected no name or password in it: use username_file")
        try:
            self.port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
        except ValueError as error:
            raise ConfigError(f"url: expected a port from 1 to 65535; got {url!r}") from error
        self.host, self.where = parts.hostname, f"{parts.hostname}:{self.port}"
        self.context = tls_context(ca_file, cert_file, key_file) if parts.scheme == "mqtts" else None
        if not self.context and (ca_file or cert_file):
            raise ConfigError(f'url: expected "mqtts://" with ca_file or cert_file; got {url!r}')
        self.login = secret_of(username_file, "username_file").decode(errors="replace") if username_file else ""
        self.version = {"3.1.1": 4, "5": 5}[protocol]

    def client(self, client_id: str) -> Client:
        """A client that is not connected yet."""
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        version = MQTTProtocolVersion(self.version)
        client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version)
        client.suppress_exceptions = True
        if self.context:
            client.tls_set_context(self.context)
        if self.login:
            name, _, password = self.login.partition("\n")
            client.username_pw_set(name.strip(), password.strip() or None)
        client.max_inflight_messages_set(MqttSink.batch)
        client.reconnect_delay_set(1, 15)
        return client


class _Link:
    """A connection that comes back by itself. acknowledged: (message number, '' or why it was refused)."""

    def __init__(self, options: _Options, client_id: str) -> None:
        self.connected, self.why = threading.Event(), f"{options.where} does not answer"
        self.acknowledged: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._where = options.where
        self.client = options.client(client_id)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_publish = self._on_publish
        self.prepare()
        self.client.connect_async(options.host, options.port, _KEEPALIVE)
        self.client.loop_start()

    def prepare(self) -> None:
        """What comes before the connection."""

    def wait(self, seconds: float) -> None:
        """Waits for the connection. Raises Unreachable."""
        if not self.connected.wait(seconds):
            raise Unreachable(self.why)

    def publish(self, topic: str, payload: bytes) -> int:
        """Queues a message with QoS 1; returns its number. It is sent again after a new connection."""
        return self.client.publish(topic, payload, qos=1).mid

    def close(self) -> None:
        """Disconnects; the broker tells no last will."""
        self.client.disconnect()
        self.client.loop_stop()

    def _on_connect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:  # noqa: ARG002
        if reason.is_failure:
            self.why = f"{self._where} refuses the connection: {reason}"
        else:
            self.connected.set()

    def _on_disconnect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:  # noqa: ARG002
        if self.connected.is_set():
            self.why = f"the connection to {self._where} was lost: {reason}"
        self.connected.clear()

    def _on_publish(self, client: Client, userdata: Any, mid: int, reason: Any, properties: Any) -> None:  # noqa: ARG002
        self.acknowledged.put((mid, str(reason) if reason.is_failure else ""))


class _StateLink(_Link):
    """The state of one station: the newest is told, also after a new connection."""

    def __init__(self, options: _Options, client_id: str, topic: str, station: str) -> None:
        self._state_topic, self._station = topic, station
        self._newest: bytes | None = None
        self._flying: set[int] = set()  # numbers of messages that are not acknowledged
        self._stale: set[int] = set()  # those of them that paho sends again after a new connection, after the newest
        super().__init__(options, client_id)

    def prepare(self) -> None:
        """The last will has to be said before the connection."""
        self.client.will_set(self._state_topic, self._message({"state": "lost"}), qos=1, retain=True)

    def tell(self, state: Mapping[str, Any]) -> None:
        """Tells it now, or when there is a connection."""
        self._newest = self._message(state)
        if self.connected.is_set():
            self._publish_newest()

    def close(self) -> None:
        if self.connected.is_set():
            self._newest = self._message({"state": "stopped"})
            self._publish_newest(_FAREWELL)
        super().close()

    def _publish_newest(self, seconds: float = 0.0) -> None:
        info = self.client.publish(self._state_topic, self._newest, qos=1, retain=True)
        self._flying.add(info.mid)
        if seconds:
            info.wait_for_publish(seconds)

    def _on_connect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        super()._on_connect(client, userdata, flags, reason, properties)
        if self.connected.is_set() and self._newest is not None:
            self._publish_newest()

    def _on_disconnect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        super()._on_disconnect(client, userdata, flags, reason, properties)
        self._stale |= self._flying

    def _on_publish(self, client: Client, userdata: Any, mid: int, reason: Any, properties: Any) -> None:  # noqa: ARG002
        """A state of before the new connection must not be the one that stays."""
        self._flying.discard(mid)
        if mid in self._stale:
            self._stale.discard(mid)
            self._publish_newest()

    def _message(self, state: Mapping[str, Any]) -> bytes:
        return json.dumps({"schema": SCHEMA, "station": self._station, **state}, ensure_ascii=False).encode()


def _payload(record: Record) -> bytes:
    values = record.to_dict()
    del values["heat"]  # kilobytes that no subscriber reads
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def _level(text: str) -> str:
    """A level of a topic: without separators and wildcards, never empty."""
    return _NOT_IN_TOPICS.sub("_", text) or "_"
