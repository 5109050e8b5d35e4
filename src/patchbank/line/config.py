"""Reads a line's file. Whatever is wrong with it is one error before anything starts.

Paths in the file are relative to the folder that the file is in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from patchbank import ConfigError
from patchbank.config import read_toml
from patchbank.line.kinds import CAMERAS, OUTPUTS, PLCS, SINKS, Chosen, built, chosen
from patchbank.line.retention import Policy
from patchbank.line.settings import LineOptions, RetainOptions, StationOptions
from patchbank.line.units import days, size
from patchbank.validation import check_names

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MOST_RECIPE = 65_535
_PATHS = ("path", "images", "trusted_clients")  # and all that end in _file
TOP = ("station", "sink", "server", "retain")
PARTS = ("camera", "plc", "output", "recipes")


@dataclass(frozen=True)
class StationConfig:
    """[station.NAME] and the tables below it. model: the file; recipes: others, by number from 1."""

    name: str
    options: StationOptions
    model: Path
    recipes: Mapping[int, Path]
    camera: Chosen
    plc: Chosen | None = None
    output: Chosen | None = None

    @property
    def deadline(self) -> float:
        """Seconds from the trigger to the answer."""
        own = self.options.deadline_ms
        return (own if own is not None else 60_000 if self.camera.kind == "folder" else 1000) / 1000


@dataclass(frozen=True)
class LineConfig:
    """A line's file. sinks: by name, which records are owed to: the kind, unless the table has a `name`."""

    path: Path
    options: LineOptions
    data: Path
    stations: tuple[StationConfig, ...]
    sinks: Mapping[str, Chosen]
    policy: Policy


def load(path: str | Path) -> LineConfig:
    """Reads the file. Raises ConfigError."""
    file = Path(path).absolute()
    return parsed(read_toml(file), file)


def parsed(values: Mapping[str, Any], path: Path) -> LineConfig:
    """What the tables of a file mean. Raises ConfigError."""
    rest = dict(values)
    tables = {name: rest.pop(name) for name in TOP if name in rest}
    check_names(rest, [*(each.name for each in fields(LineOptions)), *TOP], " at the top of the file")
    options = built(LineOptions, rest, "")
    base = path.parent
    stations = tables.get("station", {})
    if not isinstance(stations, dict) or not stations:
        raise ConfigError("station: expected at least one table [station.NAME]; got none")
    retain = built(RetainOptions, _table(tables.get("retain", {}), "retain"), "retain")
    return LineConfig(
        path=path,
        options=options,
        data=base / options.data,
        stations=tuple(_station(name, table, base) for name, table in stations.items()),
        sinks=_sinks(tables, base),
        policy=_policy(retain),
    )


def _station(name: str, table: Any, base: Path) -> StationConfig:
    where = f"station.{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"[{where}]: expected a name of up to 64 letters, digits and _ . -, beginning with a letter or digit"
        )
    rest = dict(_table(table, where))
    parts = {part: rest.pop(part) for part in PARTS if part in rest}
    check_names(rest, [*(each.name for each in fields(StationOptions)), *PARTS], f" in [{where}]")
    options = built(StationOptions, rest, where)
    if "camera" not in parts:
        raise ConfigError(f"[{where}.camera]: expected a table with a kind; got none")
    camera = chosen(parts["camera"], CAMERAS, f"{where}.camera", others=True)
    plc = chosen(parts["plc"], PLCS, f"{where}.plc") if "plc" in parts else None
    output = chosen(parts["output"], OUTPUTS, f"{where}.output") if "output" in parts else None
    made = StationConfig(
        name=name,
        options=options,
        model=_model(options.model, base, where),
        recipes=_recipes(parts.get("recipes", {}), base, f"{where}.recipes"),
        camera=_placed(camera, base),
        plc=_placed(plc, base) if plc else None,
        output=_placed(output, base) if output else None,
    )
    if options.interval_ms and plc:
        raise ConfigError(f"[{where}] interval_ms: expected 0, because the PLC triggers; got {options.interval_ms}")
    return made


def _recipes(table: Any, base: Path, where: str) -> dict[int, Path]:
    found = {}
    for key, value in _table(table, where).items():
        if not (key.isdecimal() and 1 <= int(key) <= _MOST_RECIPE):
            raise ConfigError(f"[{where}] {key}: expected a number from 1 to {_MOST_RECIPE} as the key")
        if not isinstance(value, str) or not value:
            raise ConfigError(f"[{where}] {key}: expected a model's file; got {value!r}")
        found[int(key)] = _model(value, base, where)
    return found


def _model(text: str, base: Path, where: str) -> Path:
    path = base / text
    if path.suffix != ".patchbank":
        raise ConfigError(f"[{where}] model: expected a file that ends in .patchbank; got {text!r}")
    return path


def _sinks(tables: Mapping[str, Any], base: Path) -> dict[str, Chosen]:
    """[server] is the sink of that name; each [[sink]] has the name of its kind, or its own."""
    listed = tables.get("sink", [])
    if not isinstance(listed, list):
        raise ConfigError("sink: expected [[sink]], with two brackets: there may be several")
    found: dict[str, Chosen] = {}
    for number, table in enumerate(listed, 1):
        where = f"sink {number}"
        rest = dict(_table(table, where))
        name = rest.pop("name", rest.get("kind"))
        sink = chosen(rest, {key: kind for key, kind in SINKS.items() if key != "server"}, where)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"[{where}] name: expected up to 64 letters, digits and _ . -; got {name!r}")
        if name in found or name == "server":
            raise ConfigError(f"[{where}] name: {name!r} is taken; give each sink a name of its own")
        found[name] = _placed(sink, base)
    if "server" in tables:
        table = {"kind": "server", **_table(tables["server"], "server")}
        found["server"] = _placed(chosen(table, SINKS, "server"), base)
    return found


def _policy(retain: RetainOptions) -> Policy:
    kept = {verdict: days(getattr(retain, verdict), verdict) for verdict in ("ok", "review", "ng", "error")}
    return Policy(kept, days(retain.records, "records"), size(retain.min_free, "min_free"))


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"[{where}]: expected a table; got {value!r}")
    return value


def _placed(made: Chosen, base: Path) -> Chosen:
    """The same, its paths relative to the file's folder: options that name a file or a folder."""
    if made.options is None:
        return made
    changes = {}
    for each in fields(made.options):
        value = getattr(made.options, each.name)
        if value and (each.name in _PATHS or each.name.endswith("_file")):
            changes[each.name] = str(base / value)
    return replace(made, options=replace(made.options, **changes)) if changes else made
