"""What a station counts since its start."""

from __future__ import annotations

from patchbank import Verdict
from patchbank.line.plc.protocol import Counters

_MOST_GAP = 1000  # a larger gap in the triggers' numbers is a PLC that began anew


class Counting:
    """Counters that are added to; used under the station's lock."""

    def __init__(self) -> None:
        self.triggers = self.late = self.missed = 0
        self.verdicts = dict.fromkeys(Verdict, 0)
        self._times, self._sum, self._min, self._max = 0, 0.0, 0.0, 0.0
        self.last_seq: int | None = None

    def triggered(self, seq: int) -> None:
        """A trigger of this number has come. Numbers run over at 65536."""
        self.triggers += 1
        if self.last_seq is not None and 0 < (gap := (seq - self.last_seq - 1) % 65_536) < _MOST_GAP:
            self.missed += gap
        self.last_seq = seq

    def answered(self, verdict: Verdict, seconds: float) -> None:
        """A part has its answer, so long after its trigger."""
        self.verdicts[verdict] += 1
        milliseconds = 1000 * seconds
        self._min = min(self._min, milliseconds) if self._times else milliseconds
        self._max = max(self._max, milliseconds)
        self._times += 1
        self._sum += milliseconds

    @property
    def now(self) -> Counters:
        """As a PLC sees them."""
        of = self.verdicts
        return Counters(
            triggers=self.triggers,
            ok=of[Verdict.OK],
            ng=of[Verdict.NG],
            review=of[Verdict.REVIEW],
            error=of[Verdict.ERROR],
            late=self.late,
            missed=self.missed,
            min_ms=self._min,
            max_ms=self._max,
            mean_ms=self._sum / self._times if self._times else 0.0,
        )
