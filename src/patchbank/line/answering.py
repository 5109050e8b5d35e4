"""The answers of one station: each part gets exactly one, whoever is first, and the PLC sees it at once.

This is where a verdict becomes what the machine is told. A result that comes after the answer, or after the deadline,
is recorded as late and never sent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from patchbank import PatchbankError, Result, Verdict
from patchbank.line.cameras.base import Frame
from patchbank.line.counting import Counting
from patchbank.line.decide import Decided, error
from patchbank.line.journal import Journal
from patchbank.line.models import Loaded
from patchbank.line.parts import Answered, Part
from patchbank.line.plc.protocol import Answer, Output, Plc, Reason, Shown, State
from patchbank.line.recorder import Recorder

logger = logging.getLogger("patchbank.line")
_ANSWERS = {Verdict.OK: Answer.OK, Verdict.NG: Answer.NG, Verdict.REVIEW: Answer.REVIEW, Verdict.ERROR: Answer.ERROR}


class Answering:
    """What a station has answered, and how.

    lock: held while an answer is chosen and shown. last: the last answer that was sent.
    """

    def __init__(
        self,
        name: str,
        *,
        batch: str,
        require_record: bool,
        recorder: Recorder,
        journal: Journal,
        plc: Plc | None,
        output: Output | None,
        alarm: Callable[[str, str | None], None],
    ) -> None:
        self.name, self.lock, self.counting = name, threading.RLock(), Counting()
        self.last: Answered | None = None
        self.shown = Shown()
        self._batch, self._require_record = batch, require_record
        self._recorder, self._journal = recorder, journal
        self._plc, self._output, self._alarm = plc, output, alarm

    def answer(
        self,
        part: Part,
        decided: Decided,
        state: Callable[[], State],
        *,
        frame: Frame | None = None,
        result: Result | None = None,
        loaded: Loaded | None = None,
        written: Callable[[bool], None] | None = None,
    ) -> None:
        """Answers a part, unless it has its answer; then, a result is recorded as late. written: is called when the
        record is on the disk."""
        kept = False
        if self._require_record and decided.output == "ok" and not part.answered:
            decided, kept = self._kept_first(part, decided, frame, result, loaded, written)
        with self.lock:
            now = time.monotonic()
            if not part.answered and result is not None and now > part.deadline:
                self.answer(part, too_late(part), state, frame=frame, written=written)
            if part.answered:
                if result is None:
                    return
                self.counting.late += 1
                late = True
            else:
                part.answered, late = True, False
                self.counting.answered(decided.verdict, now - part.triggered)
                self._show(part, decided, result, now - part.triggered, state())
            answered = _answered(part, decided, now, late, frame, result, loaded, written)
            if not late:
                self.last, part.frame = answered, None  # the deadline's thread holds the part for a while
        if late or not kept:
            self._recorder.record(self.name, self._batch, answered)

    def show(self, state: State, recipe: int) -> None:
        """Shows a state and a recipe, with the last result."""
        with self.lock:
            before = self.shown
            counters = self.counting.now
            self._put(
                Shown(
                    state, before.result_seq, before.verdict, before.reason, before.score, before.p_value,
                    before.latency_ms, before.part_id, recipe, counters,
                )
            )  # fmt: skip

    def _show(self, part: Part, decided: Decided, result: Result | None, latency: float, state: State) -> None:
        self._put(
            Shown(
                state=state,
                result_seq=part.seq,
                verdict=_ANSWERS[decided.verdict],
                reason=decided.reason,
                score=result.score if result else None,
                p_value=result.p_value if result else None,
                latency_ms=1000 * latency,
                part_id=part.part_id,
                recipe=self.shown.recipe,
                counters=self.counting.now,
            )
        )
        if self._output:
            try:
                self._output.accept(decided.output == "ok")
            except Exception as problem:
                logger.exception("station %s: the output cannot be set", self.name)
                self._alarm(f"{self.name}: output", f"cannot be set: {problem}")

    def _put(self, shown: Shown) -> None:
        self.shown = shown
        if self._plc:
            try:
                self._plc.show(shown)
            except Exception as problem:
                logger.exception("station %s: the PLC cannot be told", self.name)
                self._alarm(f"{self.name}: plc", f"cannot be told: {problem}")

    def _kept_first(
        self,
        part: Part,
        decided: Decided,
        frame: Frame | None,
        result: Result | None,
        loaded: Loaded | None,
        written: Callable[[bool], None] | None,
    ) -> tuple[Decided, bool]:
        """With `require_record`: an OK part is recorded before it is OK. If that takes too long it is ERROR."""
        answered = _answered(part, decided, time.monotonic(), False, frame, result, loaded, written)
        try:
            future = self._recorder.record_now(self.name, self._batch, answered)
        except (PatchbankError, ValueError) as problem:
            return error(Reason.journal, f"the record cannot be written: {problem}"), False
        try:
            future.result(max(0.0, part.deadline - time.monotonic()))
        except (TimeoutError, OSError) as problem:
            self._journal.withdraw(future)
            return error(Reason.journal, f"the record could not be written in time: {problem}"), False
        if written:
            written(True)
        return decided, True


def too_late(part: Part) -> Decided:
    """Nothing was answered by the deadline."""
    return error(Reason.deadline, f"no result within {1000 * (part.deadline - part.triggered):.0f} ms (deadline_ms)")


def _answered(
    part: Part,
    decided: Decided,
    now: float,
    late: bool,
    frame: Frame | None,
    result: Result | None,
    loaded: Loaded | None,
    written: Callable[[bool], None] | None,
) -> Answered:
    latency = now - part.triggered
    at = max(datetime.now(UTC), part.triggered_at + timedelta(microseconds=1))
    return Answered(part, decided, at, latency, late, frame, result, loaded, written)
