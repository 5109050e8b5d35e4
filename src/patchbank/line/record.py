"""What is kept of one answered part: who asked, what was answered, by which model, when, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from patchbank.line.plc.protocol import Reason

SCHEMA = 1
_TIMES = ("at", "triggered_at", "frame_at", "answered_at")


def writable(text: str) -> str:
    """The text as a file or a database can hold it: bytes of a file's name that are no UTF-8 are written out."""
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, kw_only=True)
class Record:
    """One answered part. Times are datetimes in UTC; JSON has them as ISO 8601.

    id: UUID of version 7, made from `at`; who gets the same id twice keeps one. at: when the answer was decided.
    source: the file's name, or the camera's. source_key: what tells a file from another one of its name; None for a
    camera. trigger: the trigger's sequence number, as the PLC counts or as the line does. recipe: the number of the
    model that was chosen, 0 = the station's own.

    verdict: 'ok', 'ng', 'review' or 'error'. output: 'ok' or 'ng', what the machine was told. code: the reason as one
    word (`Reason`); reason: in words. score: higher = more anomalous; None without a result. threshold: of the score.
    p_value: share of good images that look at least this odd, 0..1. in_scene: False = another scene; scene: the
    measurements behind that, as `Result.to_dict` has them.

    model_name: the file's name without its ending; model_sha256: its digest; model_version: of the bank, from 1.
    latency_ms: from the trigger to the answer. late: the result came after the deadline and was not sent; the record
    of the answer that was sent has the same `trigger`. frame: the camera's number of the picture.

    image_sha256: digest of the kept image file; None: not kept. image_format: its kind ('png', 'jpeg', ...). width,
    height: of the image in pixels. heat: the patch grid (`grids.encoded`); None without a result. regions: what was
    flagged, as `Region.to_dict` has it.
    """

    id: str
    at: datetime
    site: str
    line: str
    station: str
    source: str
    verdict: str
    output: str
    code: str
    reason: str
    trigger: int = 0
    recipe: int = 0
    part_id: str = ""
    batch: str = ""
    source_key: str | None = None
    score: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    in_scene: bool | None = None
    scene: dict[str, Any] | None = None
    model_name: str = ""
    model_sha256: str = ""
    model_version: int = 0
    software: str = ""
    triggered_at: datetime | None = None
    frame_at: datetime | None = None
    answered_at: datetime | None = None
    latency_ms: float | None = None
    late: bool = False
    frame: int | None = None
    image_sha256: str | None = None
    image_format: str | None = None
    width: int | None = None
    height: int | None = None
    heat: dict[str, Any] | None = None
    regions: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with `schema`, the number of this layout: 1. Fields may be added to a layout."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in _TIMES:
            if values[name] is not None:
                values[name] = values[name].isoformat(timespec="microseconds")
        return {"schema": SCHEMA, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """The record that `to_dict` has made. Fields that are unknown here, of a later patchbank, are left out. Raises
        ValueError for another layout."""
        if values.get("schema") != SCHEMA:
            raise ValueError(f"schema: expected {SCHEMA}; got {values.get('schema')!r}")
        known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        for name in _TIMES:
            if known.get(name) is not None:
                known[name] = datetime.fromisoformat(known[name])
        return cls(**known)

    @property
    def reason_number(self) -> int:
        """The reason as a PLC gets it."""
        return Reason[self.code].value
