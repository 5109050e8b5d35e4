"""The options of PLCs, outputs, sinks and the service, by kind. They are checked as far as that goes without a
connection; the rest is said by what they make."""

from __future__ import annotations

from dataclasses import dataclass

from patchbank import ConfigError
from patchbank.config import option
from patchbank.validation import names_checked, validate


@names_checked
@dataclass(frozen=True, kw_only=True)
class ModbusOptions:
    """kind = "modbus": the station is a Modbus TCP server (docs/operate/plc.md)."""

    listen: str = option("127.0.0.1:1502", "Address and port to listen on", group="plc")
    peers: tuple[str, ...] = option(
        (), "Addresses or networks that may connect; required unless it listens on this machine only", group="plc"
    )
    heartbeat_seconds: float = option(
        1.0,
        "The PLC's heartbeat is lost when it has not changed for so long, once it has begun; 0 = not watched",
        group="plc",
        low=0.0,
        high=3600.0,
    )

    def __post_init__(self) -> None:
        validate(self)
        from patchbank.line.plc.modbus_server import address_of, networks

        networks(self.peers, address_of(self.listen)[0])


@names_checked
@dataclass(frozen=True, kw_only=True)
class OpcuaOptions:
    """kind = "opcua": the station is an OPC UA server (docs/operate/plc.md), in a process of its own. Needs the extra
    `opcua`."""

    listen: str = option("127.0.0.1:4840", "Address and port to listen on", group="plc")
    cert_file: str = option("", "The server's own certificate (PEM or DER)", group="plc")
    key_file: str = option("", "Its private key (PEM or DER)", group="plc")
    users_file: str = option("", "File of users: a line NAME:PASSWORD for each", group="plc")
    trusted_clients: str = option("", "Folder of the certificates of the clients that may connect", group="plc")
    heartbeat_seconds: float = option(
        1.0,
        "The client's heartbeat is lost when it has not come for so long, once it has begun; 0 = not watched",
        group="plc",
        low=0.0,
        high=3600.0,
    )

    def __post_init__(self) -> None:
        validate(self)
        _required(self, "cert_file", "key_file", "users_file", "trusted_clients")
        from patchbank.line.plc.modbus_server import address_of

        address_of(self.listen)


@names_checked
@dataclass(frozen=True, kw_only=True)
class GpioOptions:
    """kind = "gpio": a digital output of this computer, on for each accepted part (docs/operate/plc.md). Linux; needs
    the extra `gpio`."""

    chip: str = option("/dev/gpiochip0", "The device of the lines", group="output")
    line: int | None = option(None, "The number of the line on it", group="output", low=0, high=65_535)
    pulse_ms: int = option(
        500, "For so long an accepted part sets the line; then it rejects", group="output", low=1, high=60_000
    )
    active_low: bool = option(False, "Accept is the low level", group="output")

    def __post_init__(self) -> None:
        validate(self)
        if self.line is None:
            raise ConfigError("line: expected the number of the line on the chip; got none")


_CA = "File of the authorities that sign its certificate (PEM); empty = the system's"


@names_checked
@dataclass(frozen=True, kw_only=True)
class MqttOptions:
    """kind = "mqtt": results to TOPIC/SITE/LINE/STATION/result, with QoS 1; states, retained, to .../state. Needs the
    extra `line`."""

    url: str = option("", "The broker: mqtt://HOST:PORT, or mqtts:// for TLS", group="sink")
    topic: str = option("patchbank", "Where topics begin", group="sink")
    username_file: str = option("", "File of two lines: name and password", group="sink")
    ca_file: str = option("", _CA, group="sink")
    cert_file: str = option("", "Own certificate (PEM), if the broker asks for one", group="sink")
    key_file: str = option("", "Its private key (PEM)", group="sink")
    client_id: str = option("", "Name for the broker; empty = a random one", group="sink")
    protocol: str = option("5", "Version of MQTT", group="sink", choices=("5", "3.1.1"))
    timeout_s: float = option(
        10.0, "Seconds that an answer may take; then it is tried again", group="sink", low=0.1, high=600.0
    )

    def __post_init__(self) -> None:
        validate(self)
        _required(self, "url")


@names_checked
@dataclass(frozen=True, kw_only=True)
class WebhookOptions:
    """kind = "webhook": one POST for each record, signed as https://www.standardwebhooks.com says."""

    url: str = option("", "Address that takes the records", group="sink")
    secret_file: str = option("", "File of the secret that messages are signed with", group="sink")
    ca_file: str = option("", _CA, group="sink")
    hosts: tuple[str, ...] = option((), "Hosts that may be asked, if only some may", group="sink")
    timeout_s: float = option(
        10.0, "Seconds that an answer may take; then it is tried again", group="sink", low=0.1, high=600.0
    )

    def __post_init__(self) -> None:
        validate(self)
        _required(self, "url", "secret_file")


@names_checked
@dataclass(frozen=True, kw_only=True)
class CsvOptions:
    """kind = "csv": a row for each record, in one file a day."""

    path: str = option("", "Folder of the files", group="sink")

    def __post_init__(self) -> None:
        validate(self)
        _required(self, "path")


@names_checked
@dataclass(frozen=True, kw_only=True)
class FolderSinkOptions:
    """kind = "folder": a JSON file for each record, DAY/STATION/ID.json, its image beside it."""

    path: str = option("", "Folder of the files", group="sink")
    with_images: str = option("rejected", "Whose images", group="sink", choices=("none", "rejected", "all"))

    def __post_init__(self) -> None:
        validate(self)
        _required(self, "path")


@names_checked
@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """The service (`patchbank serve`) that gets every record, and the states of the stations."""

    url: str = option("", "Its address: https://HOST:PORT; http:// only on this machine", group="server")
    token_file: str = option("", "File of a token with the scope `ingest`", group="server")
    stream: str = option("", "The stream of all records; empty = the one with the station's name", group="server")
    with_images: str = option("all", "Whose images", group="server", choices=("none", "rejected", "all"))
    ca_file: str = option("", _CA, group="server")
    timeout_s: float = option(
        30.0, "Seconds that an answer may take; then it is tried again", group="server", low=0.1, high=600.0
    )

    def __post_init__(self) -> None:
        validate(self)
        _required(self, "url", "token_file")


def _required(options: object, *names: str) -> None:
    for name in names:
        if not getattr(options, name):
            raise ConfigError(f"{name}: expected a text; got none")
