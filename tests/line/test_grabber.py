"""Calling a driver that raises, hangs, or is slow: who asks gets an answer, and the camera comes back."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

import pytest

from patchbank import CameraError
from patchbank.line.cameras.base import Frame
from patchbank.line.grabber import Grabber


class Driver:
    """Waits for `go` in each call."""

    def __init__(self, self_paced: bool = False) -> None:
        self.self_paced, self.go, self.opened, self.closed = self_paced, threading.Event(), 0, 0
        self.go.set()
        self.problem: Exception | None = None

    def open(self) -> str:
        self.opened += 1
        if self.problem:
            raise self.problem
        return "a driver"

    def grab(self, timeout: float) -> Frame:
        self.go.wait(20)
        if self.problem:
            raise self.problem
        return Frame(self.opened, datetime.now(UTC), time.monotonic())

    def done(self, frame: Frame, usable: bool) -> None:
        raise RuntimeError("of no concern")

    def close(self) -> None:
        self.closed += 1


def test_a_driver_that_raises_is_closed_and_opened_again():
    made: list[Driver] = []
    grabber = Grabber("cap", lambda: made.append(Driver()) or made[-1])
    assert grabber.open(20) == "a driver"
    (driver,) = made
    driver.problem = ValueError("what drivers raise")
    with pytest.raises(CameraError, match="what drivers raise"):
        grabber.grab(20)
    assert (driver.closed, grabber.opened) == (1, "")
    with pytest.raises(CameraError, match="what drivers raise"):
        grabber.grab(20)  # it cannot be opened
    with pytest.raises(CameraError, match="what drivers raise"):
        grabber.grab(20)  # not tried again within a second
    assert driver.opened == 2
    driver.problem = None
    grabber._thread.failed_at = -1.0
    assert grabber.grab(20).number == 3
    grabber.done(grabber.grab(20), True)
    grabber.close()


def test_a_driver_that_hangs_is_left_behind_and_its_late_picture_is_nobodys(monkeypatch):
    monkeypatch.setattr("patchbank.line.grabber.HANGS", 0.3)
    made: list[Driver] = []
    grabber = Grabber("cap", lambda: made.append(Driver()) or made[-1])
    grabber.open(20)
    made[0].go.clear()
    with pytest.raises(CameraError, match="does not answer"):
        grabber.grab(0.05)
    with pytest.raises(CameraError, match="has not answered for"):
        grabber.grab(0.05)
    time.sleep(0.3)
    assert grabber.grab(20).number == 1
    assert len(made) == 2
    made[0].go.set()  # it comes back, and is closed
    end = time.monotonic() + 20
    while not made[0].closed and time.monotonic() < end:
        time.sleep(0.01)
    assert made[0].closed
    grabber.close()


def test_a_folder_that_is_slow_is_waited_for():
    driver = Driver(self_paced=True)
    grabber = Grabber("cap", lambda: driver)
    grabber.open(20)
    driver.go.clear()
    threading.Timer(0.5, driver.go.set).start()
    assert grabber.grab(0.05).number == 1
    grabber.close()
