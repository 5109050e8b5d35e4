"""Records, journals, models and lines that tests share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.line.made import record as record

from parts import striped
from patchbank import Config, PatchCore
from patchbank.line.config import LineConfig, parsed
from patchbank.line.journal import Journal
from patchbank.line.kinds import Chosen
from patchbank.line.plc.protocol import Commands, Shown
from patchbank.line.runner import Runner


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "data", ["first", "second"])
    yield made
    made.close()


SMALL = Config(
    image_size=64, coreset_ratio=0.3, max_false_alarms=0.01, confidence=0, review_rate=0, scene_false_alarms=0
)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory) -> Path:
    """A model of striped parts, with the real network: files know no fake one."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("line") / "part.patchbank"
    PatchCore.fit([striped(rng) for _ in range(16)], SMALL).save(path)
    return path


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Good parts."""
    rng = np.random.default_rng(1)
    return [striped(rng) for _ in range(4)]


def write(path: Path, picture: np.ndarray) -> Path:
    """An image file, renamed into its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path.with_name("." + path.name)), picture[:, :, ::-1])
    path.with_name("." + path.name).rename(path)
    return path


def folder_line(root: Path, model: Path, **station: object) -> LineConfig:
    """The smallest line: root/inbox to root/data."""
    (root / "inbox").mkdir(parents=True, exist_ok=True)
    camera = {"kind": "folder", "path": "inbox", "settle_ms": 50}
    tables = {"data": "data", "station": {"cap": {"model": str(model), "camera": camera, **station}}}
    return parsed(tables, root / "line.toml")


def fake_line(root: Path, model: Path, parts: list[np.ndarray], plc: bool = True, **station: object) -> LineConfig:
    """A line with a fake camera and a PLC that notes what it sees."""
    for number, each in enumerate(parts):
        write(root / "parts" / f"{number}.png", each)
    tables = {"model": str(model), "camera": {"kind": "fake", "images": "parts"}, **station}
    config = parsed({"data": "data", "station": {"cap": tables}}, root / "line.toml")
    if not plc:
        return config
    noted = Chosen("noted", None, "", None)
    object.__setattr__(noted, "make", NotedPlc)
    return replace(config, stations=(replace(config.stations[0], plc=noted),))


class NotedPlc:
    """Implements `Plc`: a PLC in this process."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.shown: list[Shown] = []
        self.answers: dict[int, Shown] = {}
        self.beats = 0
        self.commands: Commands | None = None
        self.closed = False

    def open(self, commands: Commands) -> None:
        self.commands = commands

    def show(self, shown: Shown) -> None:
        with self.changed:
            self.shown.append(shown)
            if shown.result_seq:
                self.answers.setdefault(shown.result_seq, shown)
            self.changed.notify_all()

    def beat(self) -> None:
        self.beats += 1

    def close(self) -> None:
        self.closed = True

    def ask(self, seq: int, part_id: str = "", patience: float = 20.0) -> Shown:
        """Triggers, and waits for the answer."""
        assert self.commands is not None
        self.commands.trigger(seq, part_id)
        with self.changed:
            assert self.changed.wait_for(lambda: seq in self.answers, patience), f"trigger {seq} has no answer"
        return self.answers[seq]


def plc_of(runner: Runner) -> NotedPlc:
    return runner.plcs["cap"]
