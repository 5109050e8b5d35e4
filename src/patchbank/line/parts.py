"""A part on its way through a station."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from patchbank import Result
from patchbank.line.cameras.base import Frame
from patchbank.line.decide import Decided
from patchbank.line.models import Loaded


@dataclass(eq=False)
class Part:
    """A part from its trigger on. seq: the trigger's number. triggered, deadline: monotonic times. answered: it has its
    answer, and gets no other one."""

    seq: int
    part_id: str
    triggered: float
    triggered_at: datetime
    deadline: float
    recipe: int = 0
    frame: Frame | None = None
    answered: bool = False


@dataclass(frozen=True, eq=False)
class Answered:
    """What is to be recorded of a part. at: when it was answered. latency: seconds since the trigger. late: the result
    was not sent. written: is called when the record is on the disk (True), or will never be (False)."""

    part: Part
    decided: Decided
    at: datetime
    latency: float
    late: bool = False
    frame: Frame | None = None
    result: Result | None = None
    loaded: Loaded | None = None
    written: Callable[[bool], None] | None = None
