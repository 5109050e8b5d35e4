"""Opens every part of a line once, and says what each answered: `patchbank run --check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from patchbank import PatchbankError, PatchCore, Runtime
from patchbank.line.config import LineConfig, StationConfig
from patchbank.line.frames import FrameCheck, for_model
from patchbank.line.grabber import Grabber
from patchbank.line.images import free_bytes
from patchbank.line.journal import Journal
from patchbank.line.kinds import Chosen
from patchbank.line.plc.protocol import Idle

_PATIENCE = 10.0  # seconds for a camera


@dataclass(frozen=True)
class Checked:
    """What a part of the line answered. what: which part. failed: the error; None if all is well."""

    what: str
    answer: str
    failed: Exception | None = None


def check(config: LineConfig, runtime: Runtime) -> Iterator[Checked]:
    """Opens each part, closes it again, and goes on with the next one, whatever happens."""
    yield _tried("journal", lambda: _journal(config))
    loaded: dict[Path, PatchCore] = {}
    for station in config.stations:
        for path in dict.fromkeys((station.model, *station.recipes.values())):
            yield _tried(f"{station.name}: model {path.name}", lambda path=path: _model(path, runtime, loaded))  # type: ignore[misc]
        yield _tried(f"{station.name}: camera", lambda station=station: _camera(station, loaded))  # type: ignore[misc]
        for what, part in (("plc", station.plc), ("output", station.output)):
            if part is not None:
                yield _tried(f"{station.name}: {what}", lambda part=part: _opened(part))  # type: ignore[misc]
    for name, sink in config.sinks.items():
        yield _tried(f"sink {name}", lambda name=name, sink=sink: _asked(name, sink))  # type: ignore[misc]


def _tried(what: str, work: Callable[[], str]) -> Checked:
    try:
        return Checked(what, work())
    except (PatchbankError, OSError) as error:
        return Checked(what, str(error), error)
    except Exception as error:  # noqa: BLE001  (a driver may raise anything; the other parts are still checked)
        return Checked(what, f"{type(error).__name__}: {error}", error)


def _journal(config: LineConfig) -> str:
    journal = Journal(config.data, policy=config.policy)
    owed = sum(owed for owed, _ in journal.backlogs().values())
    journal.close()
    return f"{config.data}, {free_bytes(config.data) / 1e9:.1f} GB free, {owed} deliveries wait"


def _model(path: Path, runtime: Runtime, loaded: dict[Path, PatchCore]) -> str:
    model = loaded[path] = PatchCore.load(path, runtime=runtime)
    made_by = model.made_by
    about = f"version {made_by.version}, sha256 {made_by.sha256[:12]}"
    if not model.self_test_images:
        return f"{about}, without a self-test"
    return f"{about}, self-test passed ({model.run_self_test().difference:.1e})"


def _camera(station: StationConfig, loaded: dict[Path, PatchCore]) -> str:
    """Opens it, and takes a picture, unless that would take a file away."""
    grabber = Grabber(station.name, station.camera.make)
    try:
        found = grabber.open(_PATIENCE)
        if grabber.self_paced:
            return found
        frame = grabber.grab(_PATIENCE)
        if frame is None:
            return f"{found}; no picture came within {_PATIENCE:.0f} s"
        fault = FrameCheck(_PATIENCE, station.options.check_frames).fault(frame, None, frame.taken)
        if station.model in loaded:
            for_model(frame, loaded[station.model])
        shape = "" if frame.image is None else f", {frame.image.shape[1]}x{frame.image.shape[0]} {frame.image.dtype}"
        return f"{found}; a picture came{shape}{f', but {fault.text}' if fault else ''}"
    finally:
        grabber.close()


def _asked(name: str, sink: Chosen) -> str:
    made = sink.make(name=name)
    try:
        return str(made.check())
    finally:
        made.close()


def _opened(part: object) -> str:
    made = part.make()  # type: ignore[attr-defined]
    try:
        made.open(Idle()) if hasattr(made, "show") else made.open()
        return "opened"
    finally:
        with suppress(Exception):
            made.close()
