"""A station: it waits for parts, and answers every one of them by its deadline.

One thread takes the pictures, the inspector's threads inspect, the deadlines' thread says ERROR where nothing was said
in time. A trigger is answered even if all others hang.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from patchbank import CameraError
from patchbank.line.answering import Answering
from patchbank.line.cameras.base import Frame
from patchbank.line.config import StationConfig
from patchbank.line.deadlines import Deadlines
from patchbank.line.decide import error
from patchbank.line.grabber import HANGS, Grabber
from patchbank.line.inspecting import Inspecting
from patchbank.line.models import Loaded, Slot
from patchbank.line.parts import Part
from patchbank.line.plc.protocol import Reason, State

logger = logging.getLogger("patchbank.line")
_IDLE = 0.1
_MOST_TRIGGERS = 1000  # that wait; all but the last one have their answer already


class Station:
    """Implements `Commands`. slots: the models, by number of the recipe; 0 is the station's own."""

    def __init__(
        self,
        config: StationConfig,
        *,
        answering: Answering,
        grabber: Grabber,
        slots: Mapping[int, Slot],
        deadlines: Deadlines,
        alarm: Callable[[str, str | None], None],
        once: bool = False,
    ) -> None:
        """once: ends by itself when what is there is answered."""
        self.name, self.config, self.answering, self.grabber = config.name, config, answering, grabber
        self.follows_triggers = not grabber.self_paced or bool(config.plc and config.camera.kind != "folder")
        self._slots, self._deadlines, self._once = slots, deadlines, once
        self._alarms = alarm
        at_a_time = 1 if self.follows_triggers or config.plc or config.output else 2
        self._places, self._at_a_time = threading.Semaphore(at_a_time), at_a_time
        self._inspecting = Inspecting(
            config.name,
            config.options,
            answering=answering,
            grabber=grabber,
            slots=slots,
            state=lambda: self.state,
            alarm=self._alarm,
            finished=self._places.release,
        )
        self._waiting: deque[Part] = deque()
        self._changed = threading.Condition(answering.lock)
        self._unanswered: Part | None = None
        self._recipe = 0
        self._started = self._ending = self._lost = self.paused = False
        self.failure = ""  # of the camera, for people
        self._ticked = time.monotonic()
        self._next_trigger = 0.0
        self.thread = threading.Thread(target=self._run, name=f"patchbank-{config.name}", daemon=True)

    # --- commands ---

    def trigger(self, seq: int, part_id: str = "") -> None:
        """A part is there."""
        with self._changed:
            if not self.follows_triggers:
                logger.warning("station %s: trigger %d of the PLC is not for a folder: its files are", self.name, seq)
                return
            if seq == self.answering.counting.last_seq:
                return
            self._begin(seq, part_id)

    def acknowledge(self, seq: int) -> None:
        """The PLC has read a result; nothing depends on it."""

    def recipe(self, number: int) -> None:
        """The model of the next parts."""
        with self._changed:
            self._recipe = number
            why = None if number in self._slots else f"there is no recipe {number}: parts are ERROR"
            self._alarm("recipe", why)
            self._show()

    def pause(self, paused: bool) -> None:
        """Triggers are answered with ERROR meanwhile."""
        with self._changed:
            self.paused = paused
            self._show()

    def plc_lost(self, lost: bool) -> None:
        """The PLC's heartbeat."""
        with self._changed:
            self._lost = lost
            self._alarm("plc", "its heartbeat stands still: parts are ERROR" if lost else None)
            self._show()

    # --- state ---

    @property
    def state(self) -> State:
        """As the PLC sees it."""
        if not self._started:
            return State.START
        if self.failure or self._lost or self._ending or self._recipe not in self._slots:
            return State.FAULT
        return State.BUSY if self._unanswered and not self._unanswered.answered else State.READY

    @property
    def loaded(self) -> Loaded:
        """The model in use; the station's own, if the recipe is unknown."""
        return self._slots.get(self._recipe, self._slots[0]).current

    @property
    def alive(self) -> bool:
        """Whether the station can answer: its thread works."""
        patience = self.config.deadline + HANGS + 1.0
        return not self._started or (self.thread.is_alive() and time.monotonic() - self._ticked < patience)

    def start(self) -> None:
        """Takes parts from now on."""
        self._started = True
        self._ticked = time.monotonic()
        self._show()
        self.thread.start()

    def stop(self, timeout: float) -> None:
        """Takes no more parts, and waits for those under way."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        end = time.monotonic() + timeout
        if self.thread.ident is not None:
            self.thread.join(timeout)
        for _ in range(self._at_a_time):
            self._places.acquire(timeout=max(0.0, end - time.monotonic()))
        with self._changed:
            left = [part for part in (*self._waiting, self._unanswered) if part and not part.answered]
        for part in left:
            if part.frame is not None and part.frame.content is not None:
                continue  # a file stays, and is a part of the next start
            self.answering.answer(part, error(Reason.stopping, "the line is stopped"), lambda: State.FAULT)
        self._show()

    # --- parts ---

    def _begin(self, seq: int, part_id: str, frame: Frame | None = None) -> Part:
        """A part from its trigger, or from its frame, on; under the lock."""
        now = time.monotonic()
        before, counting = self._unanswered, self.answering.counting
        part = Part(seq, part_id, now, datetime.now(UTC), now + self.config.deadline, self._recipe, frame)
        if frame and frame.taken and frame.content is None:  # a camera's own trigger was earlier
            part.triggered, part.deadline = frame.taken, frame.taken + self.config.deadline
            part.triggered_at -= timedelta(seconds=now - frame.taken)
        if self.follows_triggers and before and not before.answered:
            counting.missed += 1
            missed = error(Reason.busy, "the next trigger came before the answer")
            self.answering.answer(before, missed, lambda: State.BUSY, frame=before.frame)
        counting.triggered(seq)
        self._unanswered = part
        a_file = frame is not None and frame.content is not None
        if not a_file and (refused := self._refusal()):
            self._inspecting.fail(part, *refused, frame)
            return part
        self._deadlines.schedule(part.deadline, lambda: self._inspecting.deadline(part))
        if frame is None:
            while len(self._waiting) >= _MOST_TRIGGERS:
                self._waiting.popleft()
            self._waiting.append(part)
            self._changed.notify_all()
        self._show()
        return part

    def _refusal(self) -> tuple[Reason, str] | None:
        """Why no part can be inspected now."""
        if not self._started:
            return Reason.starting, "the station is not ready yet"
        if self._ending:
            return Reason.stopping, "the line is stopped"
        if self.paused:
            return Reason.paused, "the station is paused"
        if self._lost:
            return Reason.plc_lost, "the PLC's heartbeat stands still"
        if self._recipe not in self._slots:
            return Reason.model, f"there is no recipe {self._recipe}"
        return None

    # --- the station's thread ---

    def _run(self) -> None:
        while not self._ending:
            self._ticked = time.monotonic()
            try:
                if not (self._one_trigger() if self.follows_triggers else self._one_frame()):
                    self._idle()
            except Exception:
                logger.exception("station %s: an error in the line itself", self.name)
                time.sleep(_IDLE)

    def _one_trigger(self) -> bool:
        """Takes the picture of the oldest part that waits. False if none does."""
        with self._changed:
            if not self._waiting and not self._changed.wait_for(lambda: self._waiting or self._ending, self._rest()):
                return False
            if not self._waiting:
                return True
            part = self._waiting.popleft()
        while not self._places.acquire(timeout=_IDLE):
            self._ticked = time.monotonic()
            if part.answered or self._ending:
                return True
        self._with_place(lambda: self._picture(part))
        return True

    def _one_frame(self) -> bool:
        """Takes the next frame of a camera that makes them by itself. False if there is none."""
        if self.config.camera.kind == "folder" and self._refusal():  # files wait
            time.sleep(_IDLE)
            return False
        if not self._places.acquire(timeout=_IDLE):
            return True
        return self._with_place(self._next_frame)

    def _next_frame(self) -> bool | None:
        frame = self._grab(_IDLE)
        if frame is None or (self._ending and frame.content is not None):  # the next start takes the file
            return False
        with self._changed:
            part = self._begin((self.answering.counting.last_seq or 0) + 1, frame.part_id, frame)
        return self._inspecting.begin(part, frame, None) or None

    def _with_place(self, work: Callable[[], bool | None]) -> bool:
        """Gives the place back, unless an inspection has it now (True). Returns whether there was something to do."""
        inspects: bool | None = None
        try:
            inspects = work()
        finally:
            if not inspects:
                self._places.release()
        return inspects is not False

    def _picture(self, part: Part) -> bool | None:
        if part.answered:
            return None
        frame = None
        while frame is None and (left := part.deadline - time.monotonic()) > 0:
            try:
                frame = self._grab(left, part)
            except CameraError as problem:
                self._inspecting.fail(part, Reason.camera, str(problem))
                return None
            if frame and self.grabber.self_paced and part.triggered - frame.taken > self._check_age:
                frame = None  # of a trigger before
        if frame is None:
            return None  # the deadline says so
        return self._inspecting.begin(part, frame, None if self.grabber.self_paced else part.triggered) or None

    @property
    def _check_age(self) -> float:
        return self.config.options.max_frame_age_ms / 1000

    def _grab(self, timeout: float, part: Part | None = None) -> Frame | None:
        """The camera's answer; what is wrong with it becomes the station's state. Raises CameraError for a part."""
        try:
            frame = self.grabber.grab(timeout)
        except CameraError as problem:
            self._camera_fails(str(problem))
            if part:
                raise
            time.sleep(_IDLE)
            return None
        self._camera_fails("")
        return frame

    def _camera_fails(self, why: str) -> None:
        if why != self.failure:
            with self._changed:
                self.failure = why
                self._alarm("camera", why or None)
                self._show()

    def _rest(self) -> float:
        """How long to wait for a trigger; with `interval_ms`, gives it itself."""
        every = self.config.options.interval_ms / 1000
        now = time.monotonic()
        if self._once and not self.answering.counting.triggers and not self.config.plc:
            every, self._next_trigger = max(every, 1.0), now
        if not every:
            return _IDLE
        if now >= self._next_trigger:
            self._next_trigger = now + every
            self._begin((self.answering.counting.last_seq or 0) + 1 & 0xFFFF, "")
        return min(_IDLE, self._next_trigger - now)

    def _idle(self) -> None:
        """Nothing is to be done: keeps the camera open; ends, if it should."""
        if self.follows_triggers and not self.grabber.opened:
            try:
                self.grabber.open(HANGS)
                self._camera_fails("")
            except CameraError as problem:
                self._camera_fails(str(problem))
        if self._once and self._is_done():
            self._ending = True

    def _is_done(self) -> bool:
        if self.follows_triggers:
            return bool(self.answering.counting.triggers) and bool(self._unanswered and self._unanswered.answered)
        return bool(self.failure) or bool(getattr(self.grabber.camera, "is_empty", True))

    def _alarm(self, what: str, why: str | None) -> None:
        self._alarms(f"{self.name}: {what}", why)

    def _show(self) -> None:
        self.answering.show(self.state, self._recipe)
