"""How often somebody may guess: failed logins are counted for each person and address, each address and each person."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from patchbank.server.problems import Problem

WINDOW_S = 60.0
MOST_PAIR, MOST_ALONE = 5, 30  # failed attempts a minute: of a person at an address; of either alone
_MOST_KEYS = 10_000


class Attempts:
    """Failed logins of the last minute. clock: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, name: str, address: str) -> None:
        """Raises Problem if there were too many."""
        for key, most in _keys(name, address):
            recent = self._recent(key)
            if len(recent) >= most:
                wait = max(1, round(WINDOW_S - (self._now() - recent[-most])) + 1)
                raise Problem(
                    429,
                    "too-many-attempts",
                    f"There were too many failed attempts to sign in; wait {wait} s",
                    headers={"Retry-After": str(wait)},
                )

    def failed(self, name: str, address: str) -> None:
        """Counts a failure."""
        for key, _ in _keys(name, address):
            recent = self._recent(key)
            recent.append(self._now())
            self._failed[key] = recent
            self._failed.move_to_end(key)
        while len(self._failed) > _MOST_KEYS:
            self._failed.popitem(last=False)

    def succeeded(self, name: str, address: str) -> None:
        """Forgets the failures of this person at this address."""
        self._failed.pop(_keys(name, address)[0][0], None)

    def _recent(self, key: str) -> deque[float]:
        times = self._failed.get(key, deque(maxlen=MOST_ALONE))
        while times and times[0] <= self._now() - WINDOW_S:
            times.popleft()
        return times

    def _now(self) -> float:
        return self._clock()


def _keys(name: str, address: str) -> tuple[tuple[str, int], ...]:
    who = name.casefold()[:200]
    return ((f"pair {address} {who}", MOST_PAIR), (f"address {address}", MOST_ALONE), (f"name {who}", MOST_ALONE))
