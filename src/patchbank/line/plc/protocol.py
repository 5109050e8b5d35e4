"""What passes between a station and its PLC, whatever the field bus.

The station replaces one picture of itself as a whole (`Shown`); the PLC gives commands (`Commands`). The rule of both
is *reject until accept is proven*: a PLC lets a part pass only if the sequence number of the result is that of its
trigger, the verdict is OK, and the heartbeat counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol


class State(IntEnum):
    """Of a station, as the PLC reads it. START: not ready yet. FAULT: needs help; every trigger gets ERROR."""

    START = 0
    READY = 1
    BUSY = 2
    FAULT = 3


class Answer(IntEnum):
    """The verdict as the PLC reads it. Everything but OK is a reject; 0 is never written."""

    OK = 1
    NG = 2
    REVIEW = 3
    ERROR = 4


class Reason(IntEnum):
    """Why a verdict is as it is. 1 to 9: from the model; from 10: why there is no result."""

    none = 0
    ordinary = 1  # OK
    over_threshold = 2
    out_of_scene = 3
    review_rate = 4
    no_calibration = 5
    no_number = 6
    starting = 10
    deadline = 11
    no_frame = 12
    stale_frame = 13
    bad_frame = 14  # torn, black, frozen or not to be decoded
    camera = 15
    model = 16
    inspection = 17
    journal = 18
    paused = 19
    plc_lost = 20
    busy = 21  # a trigger came while the part before was not answered
    stopping = 22
    internal = 23


@dataclass(frozen=True)
class Counters:
    """Since the start of the program. missed: triggers that came while the station was busy, or whose number left a
    gap. late: results after the deadline. Times are those from the trigger to the answer, in ms; 0 before the first."""

    triggers: int = 0
    ok: int = 0
    ng: int = 0
    review: int = 0
    error: int = 0
    late: int = 0
    missed: int = 0
    min_ms: float = 0.0
    max_ms: float = 0.0
    mean_ms: float = 0.0


@dataclass(frozen=True)
class Shown:
    """All that a PLC sees of a station, at one moment. result_seq: the trigger that verdict, reason, score, p_value,
    latency_ms and part_id answer. score, p_value: None without a result. recipe: the number that is in use."""

    state: State = State.START
    result_seq: int = 0
    verdict: Answer = Answer.ERROR
    reason: Reason = Reason.starting
    score: float | None = None
    p_value: float | None = None
    latency_ms: float = 0.0
    part_id: str = ""
    recipe: int = 0
    counters: Counters = field(default_factory=Counters)


class Commands(Protocol):
    """What a PLC may ask of a station. The runner implements it. Every method returns at once and raises nothing; it
    may be called from any thread, but by none that holds a lock which `Plc.show` waits for."""

    def trigger(self, seq: int, part_id: str = "") -> None:
        """A part is there. seq: the PLC's number of it, as the field bus has it (it may run over). The answer comes by
        `Plc.show` with the same `result_seq`. The number of the trigger before is no new one, and is ignored."""
        ...

    def acknowledge(self, seq: int) -> None:
        """The PLC has read the result of this trigger."""
        ...

    def recipe(self, number: int) -> None:
        """Choose the model of this number for the next part; `Shown.recipe` says when it is in use. An unknown number,
        or a model that cannot be used, answers every part with ERROR until another one is chosen."""
        ...

    def pause(self, paused: bool) -> None:
        """While paused, every trigger is answered with ERROR, reason `paused`."""
        ...

    def plc_lost(self, lost: bool) -> None:
        """The PLC's own heartbeat stands still (True), or counts again (False). While it is lost the station is in
        fault."""
        ...


class Idle:
    """Commands that nobody carries out: for a PLC that is opened to see whether it answers."""

    def trigger(self, seq: int, part_id: str = "") -> None:
        """Nothing."""

    def acknowledge(self, seq: int) -> None:
        """Nothing."""

    def recipe(self, number: int) -> None:
        """Nothing."""

    def pause(self, paused: bool) -> None:
        """Nothing."""

    def plc_lost(self, lost: bool) -> None:
        """Nothing."""


class Plc(Protocol):
    """One connection to a PLC. `open` is called first, `close` last; all methods come from the runner's threads, `beat`
    every 100 ms. None of them may block for longer than some milliseconds but `open` and `close`."""

    def open(self, commands: Commands) -> None:
        """Starts to listen or connects. Raises PatchbankError if that is not possible. Until the first `show`, the
        field bus has state START, verdict ERROR."""
        ...

    def show(self, shown: Shown) -> None:
        """Replaces all that the PLC reads, at once: a reader gets the old picture or the new one, never a mixture."""
        ...

    def beat(self) -> None:
        """Counts the heartbeat up by one. Called only while the station's threads live."""
        ...

    def close(self) -> None:
        """Leaves verdict ERROR and state FAULT, and ends. May be called twice."""
        ...


class Output(Protocol):
    """A digital output that rejects or accepts a part: a relay, a GPIO line. It says reject unless told otherwise."""

    def open(self) -> None:
        """Takes the line and sets it to reject. Raises PatchbankError."""
        ...

    def accept(self, accepted: bool) -> None:
        """Sets the line. True for OK only."""
        ...

    def close(self) -> None:
        """Sets the line to reject and lets go of it."""
        ...
