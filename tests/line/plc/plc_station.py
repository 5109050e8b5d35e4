"""A station without camera and model: what a PLC meets, for tests of the field buses."""

from __future__ import annotations

import queue
import random
import socket
import threading
from dataclasses import replace

from patchbank.line.plc.protocol import Answer, Counters, Plc, Reason, Shown, State


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def verdict_of(part: str) -> Answer:
    """The verdict that this station gives to a part: by its name, so that a mixed-up result is seen."""
    return Answer(sum(part.encode()) % 4 + 1)


class Station:
    """Implements `Commands` and answers triggers on a thread, as the runner does."""

    def __init__(self, plc: Plc, *, seconds: float = 0.002) -> None:
        self.plc, self.seconds = plc, seconds
        self.triggers: list[tuple[int, str]] = []
        self.acknowledged: list[int] = []
        self.recipes: list[int] = []
        self.pauses: list[bool] = []
        self.lost: list[bool] = []
        self.beating = True
        self.shown = Shown(state=State.READY)
        self._parts: queue.Queue[tuple[int, str] | None] = queue.Queue()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work), threading.Thread(target=self._beat)]

    def __enter__(self) -> Station:
        self.plc.open(self)
        self.plc.show(self.shown)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._parts.put(None)
        for thread in self._threads:
            thread.join()
        self.plc.close()

    def trigger(self, seq: int, part_id: str = "") -> None:
        if self.triggers and self.triggers[-1][0] == seq:
            return
        self.triggers.append((seq, part_id))
        self._parts.put((seq, part_id))

    def acknowledge(self, seq: int) -> None:
        self.acknowledged.append(seq)

    def recipe(self, number: int) -> None:
        self.recipes.append(number)
        self.shown = replace(self.shown, recipe=number)
        self.plc.show(self.shown)

    def pause(self, paused: bool) -> None:
        self.pauses.append(paused)

    def plc_lost(self, lost: bool) -> None:
        self.lost.append(lost)

    def _work(self) -> None:
        randomly = random.Random(0)
        while (part := self._parts.get()) is not None:
            seq, name = part
            self.plc.show(replace(self.shown, state=State.BUSY))
            self._ended.wait(randomly.random() * self.seconds)
            count = self.shown.counters.triggers + 1
            # Every field follows from the number: a mixture of two pictures is seen.
            self.shown = Shown(
                state=State.READY,
                result_seq=seq,
                verdict=verdict_of(name),
                reason=Reason.ordinary,
                score=seq * 65.537,
                p_value=seq % 10_000 / 10_000,
                latency_ms=float(seq),
                part_id=name,
                recipe=self.shown.recipe,
                counters=Counters(triggers=count, ok=count, ng=count, review=count, error=count),
            )
            self.plc.show(self.shown)

    def _beat(self) -> None:
        while not self._ended.wait(0.1):
            if self.beating:
                self.plc.beat()
