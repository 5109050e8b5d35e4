"""Which kinds of cameras, PLCs, outputs and sinks there are: the table of options that each takes, and the class that
is made of it. Classes are imported when a line uses them. Cameras of others are found by the entry point group
`patchbank.cameras`: their table goes to them as it is."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import entry_points
from typing import Any

from patchbank import ConfigError
from patchbank.line import camera_settings as camera
from patchbank.line import connection_settings as connection
from patchbank.validation import check_names

ENTRY_POINTS = "patchbank.cameras"


@dataclass(frozen=True)
class Kind:
    """options: the dataclass of the table. made_by: 'module:name' of what is called with the options as keywords."""

    options: type[Any]
    made_by: str


CAMERAS: Mapping[str, Kind] = {
    "folder": Kind(camera.FolderCameraOptions, "patchbank.line.cameras.folder:FolderCamera"),
    "opencv": Kind(camera.OpenCvOptions, "patchbank.line.cameras.opencv:OpenCvCamera"),
    "aravis": Kind(camera.AravisOptions, "patchbank.line.cameras.aravis:AravisCamera"),
    "fake": Kind(camera.FakeCameraOptions, "patchbank.line.cameras.fake:FakeCamera"),
}
PLCS: Mapping[str, Kind] = {
    "modbus": Kind(connection.ModbusOptions, "patchbank.line.plc.modbus:ModbusPlc"),
    "opcua": Kind(connection.OpcuaOptions, "patchbank.line.plc.opcua:OpcuaPlc"),
}
OUTPUTS: Mapping[str, Kind] = {
    "gpio": Kind(connection.GpioOptions, "patchbank.line.plc.gpio:GpioOutput"),
}
SINKS: Mapping[str, Kind] = {
    "mqtt": Kind(connection.MqttOptions, "patchbank.line.sinks.mqtt:MqttSink"),
    "webhook": Kind(connection.WebhookOptions, "patchbank.line.sinks.webhook:WebhookSink"),
    "csv": Kind(connection.CsvOptions, "patchbank.line.sinks.csv:CsvSink"),
    "folder": Kind(connection.FolderSinkOptions, "patchbank.line.sinks.folder:FolderSink"),
    "server": Kind(connection.ServerOptions, "patchbank.line.sinks.server:ServerSink"),
}
_SECRETS = ("password", "passwd", "secret", "token", "api_key", "key", "username")


@dataclass(frozen=True)
class Chosen:
    """A kind with the values of its table. given: an entry point's own table; else None."""

    kind: str
    options: Any
    made_by: str
    given: Mapping[str, Any] | None = None

    def make(self, **more: Any) -> Any:
        """Calls what takes the options. Raises ConfigError if it is not installed."""
        if self.given is not None:
            (found,) = entry_points(group=ENTRY_POINTS, name=self.kind)
            return found.load()(dict(self.given))
        module, _, name = self.made_by.partition(":")
        values = {each.name: getattr(self.options, each.name) for each in fields(self.options)}
        return getattr(importlib.import_module(module), name)(**values, **more)


def chosen(table: Any, kinds: Mapping[str, Kind], where: str, *, others: bool = False) -> Chosen:
    """What a table with a key `kind` means. others: entry points count, too. Raises ConfigError."""
    if not isinstance(table, dict):
        raise ConfigError(f"[{where}]: expected a table; got {table!r}")
    rest = dict(table)
    kind = rest.pop("kind", None)
    if others and isinstance(kind, str) and kind not in kinds and entry_points(group=ENTRY_POINTS, name=kind):
        return Chosen(kind, None, "", rest)
    if kind not in kinds:
        known = [*kinds, *(each.name for each in entry_points(group=ENTRY_POINTS))] if others else [*kinds]
        raise ConfigError(f"[{where}] kind: expected one of {', '.join(known)}; got {kind!r}")
    return Chosen(kind, built(kinds[kind].options, rest, where), kinds[kind].made_by)


def built(cls: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """A table's dataclass. Raises ConfigError, which names the table."""
    at = f"[{where}] " if where else ""
    known = {each.name for each in fields(cls)}
    for name in values:
        if name not in known and name.lower() in _SECRETS:
            files = sorted(each for each in known if each.endswith("_file"))
            instead = f"use {' or '.join(files)}" if files else "remove it"
            raise ConfigError(f"{at}{name}: a secret does not stand in this file, which many can read; {instead}")
    check_names(values, known, f" in [{where}]" if where else " at the top of the file")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{at}{error}") from error
