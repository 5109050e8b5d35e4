"""From a frame to an answer: is it to be judged, what does the model say of it, what is told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial

from patchbank import Busy, ConfigError, ImageError, Result
from patchbank.line.answering import Answering, too_late
from patchbank.line.cameras.base import Frame
from patchbank.line.decide import Rules, decide, error
from patchbank.line.frames import FrameCheck, for_model
from patchbank.line.grabber import Grabber
from patchbank.line.models import Loaded, Slot
from patchbank.line.parts import Part
from patchbank.line.plc.protocol import Reason, State
from patchbank.line.settings import StationOptions

logger = logging.getLogger("patchbank.line")


class Inspecting:
    """Of one station. slots: the models, by number of the recipe. state: asked for the state to show. alarm: what, and
    why; None: it is over. finished: called when an inspection is over, and its part answered."""

    def __init__(
        self,
        name: str,
        options: StationOptions,
        *,
        answering: Answering,
        grabber: Grabber,
        slots: Mapping[int, Slot],
        state: Callable[[], State],
        alarm: Callable[[str, str | None], None],
        finished: Callable[[], object],
    ) -> None:
        self._name, self._answering, self._grabber, self._slots = name, answering, grabber, slots
        self._state, self._alarm, self._finished = state, alarm, finished
        self._rules = Rules(options.review_rate, options.review, options.out_of_scene)
        self._check = FrameCheck(options.max_frame_age_ms / 1000, options.check_frames)
        self._strange, self._most_strange = 0, options.alarm_after_out_of_scene

    def fail(self, part: Part, reason: Reason, text: str, frame: Frame | None = None) -> None:
        """Answers a part with ERROR."""
        self._answering.answer(part, error(reason, text), self._state, frame=frame, written=self._written(frame))

    def deadline(self, part: Part) -> None:
        """Answers a part that has no answer yet: its time is over."""
        if not part.answered:
            frame = part.frame
            self._answering.answer(part, too_late(part), self._state, frame=frame, written=self._written(frame))

    def begin(self, part: Part, frame: Frame, triggered: float | None) -> bool:
        """Looks at a part's frame, and hands it to the inspector. True if an inspection is under way now: `finished` is
        called at its end. triggered: monotonic time before which no frame counts; None for a camera that makes them by
        itself."""
        part.frame = frame
        if frame.content is None:
            fault = self._check.fault(frame, triggered, time.monotonic())
            if fault:
                self.fail(part, fault.reason, fault.text, frame)
        if part.answered:
            return False
        slot = self._slots.get(part.recipe)
        if slot is None:
            self.fail(part, Reason.model, f"there is no recipe {part.recipe}", frame)
            return False
        try:
            loaded, future = _submitted(slot, frame)
        except (ImageError, Busy) as problem:
            self.fail(part, _reason_of(problem), str(problem), frame)
            return False
        future.add_done_callback(partial(self._done, part, frame, loaded))
        return True

    def _done(self, part: Part, frame: Frame, loaded: Loaded, future: Future[Result]) -> None:
        try:
            problem = future.exception()
            if problem is not None:
                self.fail(part, _reason_of(problem), str(problem) or type(problem).__name__, frame)
                return
            result = future.result()
            decided = decide(result, self._rules)
            self._count_strange(decided.reason is Reason.out_of_scene)
            written = self._written(frame, True)
            self._answering.answer(
                part, decided, self._state, frame=frame, result=result, loaded=loaded, written=written
            )
        except Exception as problem:
            logger.exception("station %s: an error in the line itself", self._name)
            self.fail(part, Reason.internal, f"{type(problem).__name__}: {problem}", frame)
        finally:
            self._finished()

    def _written(self, frame: Frame | None, usable: bool = False) -> Callable[[bool], None] | None:
        """What to do when the record is on the disk: the file may go. Without a record it stays."""
        if frame is None:
            return None
        return lambda kept: self._grabber.done(frame, usable) if kept else None

    def _count_strange(self, strange: bool) -> None:
        self._strange = self._strange + 1 if strange else 0
        if self._most_strange and self._strange in (0, self._most_strange):
            why = f"{self._most_strange} pictures in a row are of another scene: look at part, camera and light"
            self._alarm("scene", why if self._strange else None)


def _submitted(slot: Slot, frame: Frame) -> tuple[Loaded, Future[Result]]:
    """Hands a frame to the model in use, and to the next one if it has just been exchanged."""
    loaded = slot.current
    try:
        return loaded, loaded.inspector.submit(for_model(frame, loaded.model))
    except ConfigError:
        loaded = slot.current
        return loaded, loaded.inspector.submit(for_model(frame, loaded.model))


def _reason_of(problem: BaseException) -> Reason:
    return Reason.bad_frame if isinstance(problem, ImageError) else Reason.inspection
