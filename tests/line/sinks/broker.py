"""A Mosquitto of our own, which can be killed and comes back on the same port; and one who listens to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv5
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Broker:
    """`start` and `kill` as often as wanted. It keeps sessions on the disk at every change."""

    def __init__(self, folder: Path, *more: str) -> None:
        binary = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        if not binary:
            pytest.skip("mosquitto is not installed: apt-get install mosquitto")
        self.port, self._command = free_port(), [binary, "-c", str(folder / "mosquitto.conf")]
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)
        lines = [
            f"listener {self.port} 127.0.0.1",
            "persistence true",
            f"persistence_location {folder}/",
            "autosave_interval 1",
            "autosave_on_changes true",
            f"user {os.environ.get('USER', 'root')}",
            *(more or ("allow_anonymous true",)),
        ]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def start(self) -> Broker:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while not answers(self.port):
            assert self._process.poll() is None, "mosquitto ended"
            assert time.monotonic() < until, "mosquitto does not listen"
            time.sleep(0.02)
        return self

    def kill(self, by: int = signal.SIGKILL) -> None:
        if self._process:
            self._process.send_signal(by)
            self._process.wait(10)
            self._process = None


class Subscriber:
    """got: (topic, message, retained) of all that came. Its session outlives its connection."""

    def __init__(self, port: int, topic: str) -> None:
        self.got: list[tuple[str, dict[str, Any], bool]] = []
        self.connected = threading.Event()
        self._topic, self._ready = topic, threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=f"test-{uuid.uuid4()}", protocol=MQTTv5)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_disconnect = lambda *_: self.connected.clear()
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(0.05, 0.1)
        keep = Properties(PacketTypes.CONNECT)
        keep.SessionExpiryInterval = 600
        self._client.connect("127.0.0.1", port, clean_start=False, properties=keep)
        self._client.loop_start()
        assert self._ready.wait(20)

    def _on_connect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        client.subscribe(self._topic, qos=1)
        self.connected.set()

    def _on_message(self, client: Client, userdata: Any, message: Any) -> None:
        self.got.append((message.topic, json.loads(message.payload), message.retain))

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
