"""Every option of a line's file, once: these dataclasses feed `line.toml` and docs/reference/line-file.md. One class is
one table; the tables of cameras, PLCs and sinks are by kind (`kinds.py` says which code takes them)."""

from __future__ import annotations

from dataclasses import dataclass

from patchbank import ConfigError
from patchbank.config import option
from patchbank.line.units import days, size
from patchbank.validation import names_checked, validate


@names_checked
@dataclass(frozen=True, kw_only=True)
class LineOptions:
    """The top of the file."""

    data: str = option("", "Folder of the journal and its images; made where it is missing", group="line")
    site: str = option("", "Name of the plant, in records and topics", group="line")
    line: str = option("", "Name of the line, in records and topics", group="line")

    def __post_init__(self) -> None:
        validate(self)
        if not self.data:
            raise ConfigError('data: expected the folder of the journal, as data = "/var/lib/patchbank/L3"; got none')


@names_checked
@dataclass(frozen=True, kw_only=True)
class StationOptions:
    """[station.NAME]: one place where parts are inspected."""

    model: str = option("", "The model's file, .patchbank. When the file is replaced, the station takes the new one "
                        "between two parts, after its self-test", group="station")  # fmt: skip
    deadline_ms: int | None = option(
        None,
        "Time from the trigger to the answer; what is not answered by then is ERROR. Unset: 1000, or 60000 for files",
        group="station",
        low=1,
        high=600_000,
    )
    review_rate: float | None = option(
        None,
        "Largest p-value that is REVIEW; 0 = none. Unset: the model's own",
        group="station",
        low=0.0,
        high=0.5,
    )
    review: str = option("ng", "What the machine is told about a part in REVIEW", group="station", choices=("ng", "ok"))
    out_of_scene: str = option(
        "ng",
        "Verdict about a picture of another scene (another part, a moved camera, no light)",
        group="station",
        choices=("ng", "review"),
    )
    alarm_after_out_of_scene: int = option(
        5, "So many pictures of another scene in a row are an alarm; 0 = never", group="station", low=0, high=10_000
    )
    max_frame_age_ms: int = option(
        100,
        "Frames that were taken longer ago are ERROR, if the camera makes them by itself; with a trigger, frames from "
        "before it are",
        group="station",
        low=1,
        high=60_000,
    )
    check_frames: bool = option(
        True,
        "Frames that show nothing, that end in the middle, or that are the one before once more are ERROR; false for "
        "cameras whose pictures may be so (files are never checked)",
        group="station",
    )
    interval_ms: int = option(0, "Without a PLC: a trigger so often; 0 = none", group="station", low=0, high=86_400_000)
    require_record: bool = option(
        False, "A part is OK only when its record is on the disk; else ERROR", group="station"
    )
    batch: str = option("", "Name of the batch, in records", group="station")

    def __post_init__(self) -> None:
        validate(self)
        if not self.model:
            raise ConfigError('model: expected a model\'s file, as model = "cap.patchbank"; got none')


@names_checked
@dataclass(frozen=True, kw_only=True)
class FolderCameraOptions:
    """kind = "folder": every file that comes into a folder is a part, and its name without the ending the part's id."""

    path: str = option("", "The folder that is watched", group="camera")
    settle_ms: int = option(
        500,
        "A file is taken when it was renamed into the folder, or when nobody has changed it for so long",
        group="camera",
        low=50,
        high=60_000,
    )
    done: str = option(
        "done", "Folder for files whose record is on the disk; inside of path, unless it is absolute", group="camera"
    )
    bad: str = option("bad", "The same for files that could not be inspected", group="camera")

    def __post_init__(self) -> None:
        validate(self)
        if not self.path:
            raise ConfigError('path: expected the folder that is watched, as path = "inbox"; got none')


@names_checked
@dataclass(frozen=True, kw_only=True)
class FakeCameraOptions:
    """kind = "fake": shows the images of a folder in turn, and fails as cameras do, to try a line out."""

    images: str = option("", "Folder of at least two images", group="camera")
    faults: tuple[str, ...] = option(
        (),
        "What goes wrong: some of hang, exception, frozen, stale, black, torn, incomplete, dies",
        group="camera",
    )
    fault_rate: float = option(
        0.0, "With so large a share of the pictures, one of the faults happens", group="camera", low=0.0, high=1.0
    )
    hang_ms: int = option(5000, "How long it hangs, or is dead", group="camera", low=1, high=3_600_000)
    seed: int = option(0, "Seed of the faults", group="camera", low=0, high=2**32 - 1)

    def __post_init__(self) -> None:
        validate(self)
        known = ("hang", "exception", "frozen", "stale", "black", "torn", "incomplete", "dies")
        for each in self.faults:
            if each not in known:
                raise ConfigError(f"faults: expected some of {', '.join(known)}; got {each!r}")
        if not self.images:
            raise ConfigError('images: expected a folder of images, as images = "parts"; got none')


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
class RetainOptions:
    """[retain]: how long images stay; "0d" = images of that verdict are not kept."""

    ok: str = option("7d", "Images of OK parts", group="retain")
    review: str = option("365d", "Images of parts in REVIEW", group="retain")
    ng: str = option("365d", "Images of NG parts", group="retain")
    error: str = option("30d", "Images that could not be inspected", group="retain")
    records: str = option("730d", "Records, once every sink has them and their image is gone", group="retain")
    min_free: str = option(
        "1GB",
        "What stays free of the disk: below it, the oldest images go before their time, those of OK parts first",
        group="retain",
    )

    def __post_init__(self) -> None:
        validate(self)
        for name in ("ok", "review", "ng", "error", "records"):
            days(getattr(self, name), name)
        size(self.min_free, "min_free")
