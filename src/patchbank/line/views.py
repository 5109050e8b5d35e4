"""A line at one moment, for people and for those who are told its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from patchbank.line.parts import Answered
from patchbank.line.plc.protocol import Shown, State

# After OPC 40100-1 (Machine Vision).
OPC_STATES = {
    State.START: "Preoperational",
    State.READY: "Ready",
    State.BUSY: "SingleExecution",
    State.FAULT: "Error",
}


@dataclass(frozen=True, eq=False)
class StationView:
    """A station at one moment, for people. camera: what was found. failure: why there is none. last: the last answer
    that was sent."""

    name: str
    shown: Shown
    camera: str
    failure: str
    paused: bool
    model: str
    model_version: int
    last: Answered | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        shown = self.shown
        last = self.last and {
            "trigger": self.last.part.seq,
            "part_id": self.last.part.part_id,
            "verdict": str(self.last.decided.verdict),
            "code": self.last.decided.reason.name,
            "at": self.last.at.isoformat(timespec="milliseconds"),
            "latency_ms": round(1000 * self.last.latency, 1),
        }
        return {
            "state": shown.state.name.lower(),
            "opc_state": OPC_STATES[shown.state],
            "paused": self.paused,
            "recipe": shown.recipe,
            "camera": self.failure or self.camera,
            "model": self.model,
            "model_version": self.model_version,
            "counters": {name: round(value, 1) for name, value in asdict(shown.counters).items()},
            "last": last,
        }


@dataclass(frozen=True, eq=False)
class LineView:
    """A line at one moment. backlogs: by sink, what is owed and what was refused."""

    stations: tuple[StationView, ...]
    alarms: Mapping[str, str]
    backlogs: Mapping[str, tuple[int, int]]
    waiting: int
