"""The options of a line's file, once: these dataclasses feed `line.toml` and docs/reference/line-file.md. One class is
one table; those of cameras, PLCs and sinks are in `camera_settings.py` and `connection_settings.py`."""

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
    review: str = option(
        "ng",
        "What the machine is told about a part in REVIEW because of its p-value; any other REVIEW is a reject",
        group="station",
        choices=("ng", "ok"),
    )
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
