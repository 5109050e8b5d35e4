"""Does a line answer every part in time, and keep up, for hours?

    python benchmarks/line.py [--quick] [--out DIR]

faults: triggers of a PLC to a camera that hangs, raises, freezes, dies, and gives old, black, torn and incomplete
frames, while the disk is full for a stretch and the recipe unknown for another: the share that is answered by the
deadline + 20 ms, and how many parts with a fault were OK. pace: two stations on folders against `predict_each` on the
same images. half_load: from trigger to verdict at half of what the machine can do, against a lone `predict`. hours:
triggers as fast as they are answered; memory, threads and descriptors at a third of them and at the end.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from _common import arguments, save, training_images
from patchbank import Config, PatchCore
from patchbank.line.cameras.fake import FAULTS, FakeCamera
from patchbank.line.config import LineConfig, parsed
from patchbank.line.kinds import Chosen
from patchbank.line.plc.protocol import Answer, Commands, Shown
from patchbank.line.runner import Runner

LATE = 0.020  # seconds after the deadline
ANSWERED = 0.999  # the share that must be answered by then


@dataclass
class _None:
    """The options of a PLC that has none."""


class NotedPlc:
    """Implements `Plc` in this process: notes when each trigger had its answer."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.answers: dict[int, tuple[float, Shown]] = {}
        self.commands: Commands | None = None

    def open(self, commands: Commands) -> None:
        self.commands = commands

    def show(self, shown: Shown) -> None:
        with self.changed:
            self.answers.setdefault(shown.result_seq, (time.monotonic(), shown))
            self.changed.notify_all()

    def beat(self) -> None:
        pass

    def close(self) -> None:
        pass

    def ask(self, seq: int, patience: float) -> tuple[float, Shown | None]:
        """Seconds until the answer, and the answer; None if there is none."""
        assert self.commands
        start = time.monotonic()
        self.commands.trigger(seq)
        with self.changed:
            if not self.changed.wait_for(lambda: seq in self.answers, patience):
                return patience, None
        at, shown = self.answers.pop(seq)
        return at - start, shown


class Watched(FakeCamera):
    """Notes which fault each trigger met."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.seq, self.met = 0, dict[int, str]()

    def grab(self, timeout: float) -> Any:
        seq, place = self.seq, len(self.happened)
        try:
            return super().grab(timeout)
        finally:
            self.met[seq] = self.happened[place]


def part(rng: np.random.Generator) -> Any:
    """A striped part, as good as any other."""
    stripes = 100 + 40 * np.sin(np.arange(128) / 6)[None, :, None]
    return np.clip(np.broadcast_to(stripes, (96, 128, 3)) + rng.normal(0, 4, (96, 128, 3)), 0, 255).astype(np.uint8)


def small(root: Path) -> tuple[Path, list[Any]]:
    """A small model of striped parts, and parts that are OK."""
    rng = np.random.default_rng(0)
    config = Config(
        image_size=64, coreset_ratio=0.3, max_false_alarms=0.01, confidence=0, review_rate=0, scene_false_alarms=0
    )
    model = PatchCore.fit([part(rng) for _ in range(16)], config)
    model.save(root / "small.patchbank")
    parts = [each for each in (part(rng) for _ in range(40)) if model.predict(each).verdict == "ok"]
    return root / "small.patchbank", parts


def triggered(root: Path, model: Path, deadline_ms: int) -> LineConfig:
    """A line with a fake camera and a noted PLC."""
    camera = {"kind": "fake", "images": "parts"}
    station = {"model": str(model), "deadline_ms": deadline_ms, "camera": camera}
    config = parsed({"data": "data", "station": {"cap": station}, "retain": {"ok": "0d"}}, root / "line.toml")
    plc = Chosen("noted", _None(), "__main__:NotedPlc")
    return replace(config, stations=(replace(config.stations[0], plc=plc),))


def with_camera(runner: Runner, make: Any) -> None:
    """Gives the first station another camera, before it is opened."""
    grabber = runner.stations[0].grabber
    grabber._make = make
    grabber._camera = grabber._thread.camera = make()


def faults(root: Path, count: int) -> dict[str, Any]:
    """Every trigger has its answer in time, and none with a fault is OK."""
    model, parts = small(root)
    deadline = 0.15
    runner = Runner(triggered(root, model, int(1000 * deadline)))
    cameras: list[Watched] = []

    def make() -> Watched:
        cameras.append(Watched(parts, faults=FAULTS, fault_rate=0.2, hang_ms=400, seed=len(cameras)))
        return cameras[-1]

    with_camera(runner, make)
    times, wrong, verdicts = [], 0, dict.fromkeys(Answer, 0)
    with runner:
        plc: Any = runner.plcs["cap"]
        chosen = random.Random(0)
        for number in range(1, count + 1):
            seq = number & 0xFFFF or 1
            for camera in cameras:
                camera.seq = number
            if number % count in (count // 3, count // 2):  # the disk is full for a stretch
                full = number % count == count // 3
                pages = runner.journal._writing.execute("PRAGMA page_count").fetchone()[0] if full else 1 << 30
                runner.journal._writing.execute(f"PRAGMA max_page_count = {pages}")
            if number % count in (2 * count // 3, 3 * count // 4):  # an unknown recipe for another one
                plc.commands.recipe(9 if number % count == 2 * count // 3 else 0)
            took, shown = plc.ask(seq, deadline + 5)
            times.append(took)
            verdict = shown.verdict if shown else Answer.ERROR
            verdicts[verdict] += 1
            met = [camera.met.get(number, "") for camera in cameras]
            wrong += verdict == Answer.OK and (any(met) or 2 * count // 3 <= number < 3 * count // 4)
            if chosen.random() < 0.1:
                time.sleep(0.01)
    written = sum(not each.late for each in runner.reader().records())
    in_time = float(np.mean(np.array(times) <= deadline + LATE))
    return {
        "triggers": count,
        "deadline_ms": 1000 * deadline,
        "answered by the deadline + 20 ms": in_time,
        "latest answer, ms": round(1000 * max(times), 1),
        "OK with a fault": wrong,
        "verdicts": {verdict.name: number for verdict, number in verdicts.items()},
        "records": written,
        "cameras": len(cameras),
    }


def real(root: Path, quick: bool) -> tuple[Path, list[Path]]:
    """A model of real images where they are, and images to inspect."""
    paths = training_images("bottle")
    if not paths:
        rng = np.random.default_rng(0)
        for number in range(60):
            cv2.imwrite(str(root / f"{number:03d}.png"), part(rng))
        paths = sorted(root.glob("*.png"))
    config = Config(image_size=128 if quick else 384, coreset_size=500 if quick else 8000)
    PatchCore.fit(paths[: 12 if quick else 60], config).save(root / "real.patchbank")
    return root / "real.patchbank", (paths * 20)[: 24 if quick else 400]


def pace(root: Path, model: Path, images: list[Path]) -> dict[str, Any]:
    """Images a second."""
    loaded = PatchCore.load(model)
    list(loaded.predict_each(images[:4]))
    start = time.perf_counter()
    list(loaded.predict_each(images))
    alone = time.perf_counter() - start
    stations = {}
    for name in ("left", "right"):
        (root / name).mkdir()
        stations[name] = {"model": str(model), "camera": {"kind": "folder", "path": name}}
    for number, path in enumerate(images):
        shutil.copyfile(path, root / ("left", "right")[number % 2] / f"{number:05d}{path.suffix}")
    runner = Runner(parsed({"data": "pace", "station": stations}, root / "line.toml"), once=True)
    runner.open()
    time.sleep(1)  # files have to stand still
    start = time.perf_counter()
    runner.start()
    runner.wait(threading.Event())
    took = time.perf_counter() - start
    runner.stop()
    return {
        "images": len(images),
        "predict_each, images a second": round(len(images) / alone, 2),
        "two stations, images a second": round(len(images) / took, 2),
        "ratio": round(alone / took, 3),
    }


def half_load(root: Path, model: Path, images: list[Path]) -> dict[str, Any]:
    """From trigger to verdict, at half of the rate that one image at a time allows."""
    loaded = PatchCore.load(model)
    pictures = [cv2.imread(str(path))[:, :, ::-1].copy() for path in images[:20]]
    alone = []
    for number in range(len(images)):
        start = time.perf_counter()
        loaded.predict(pictures[number % len(pictures)])
        alone.append(time.perf_counter() - start)
    runner = Runner(triggered(root / "half", model, 60_000))
    with_camera(runner, lambda: FakeCamera(pictures))
    every, times = 2 * float(np.median(alone)), []
    with runner:
        plc: Any = runner.plcs["cap"]
        for seq in range(1, len(images) + 1):
            due = time.monotonic() + every
            times.append(plc.ask(seq, 60.0)[0])
            time.sleep(max(0.0, due - time.monotonic()))
    lone, line = (1000 * float(np.quantile(each, 0.99)) for each in (alone, times))
    return {"predict, p99 ms": round(lone, 1), "line, p99 ms": round(line, 1), "ratio": round(line / lone, 3)}


def hours(root: Path, count: int) -> dict[str, Any]:
    """What grows."""
    import psutil

    model, parts = small(root)
    runner = Runner(triggered(root, model, 5000))
    with_camera(runner, lambda: FakeCamera(parts))
    process, seen = psutil.Process(), []
    with runner:
        plc: Any = runner.plcs["cap"]
        for number in range(1, count + 1):
            plc.ask(number & 0xFFFF or 1, 10.0)
            if number in (count // 3, count):
                runner.journal.flush()
                seen.append((process.memory_info().rss / 1e6, process.num_threads(), process.num_fds()))
    names = ("memory, MB", "threads", "descriptors")
    return {"triggers": count} | {
        name: {"at a third": round(before, 1), "at the end": round(after, 1)}
        for name, before, after in zip(names, *seen, strict=True)
    }


def main() -> None:
    options = arguments(__doc__ or "")
    quick = options.quick
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("faults", "hours", "pace", "half"):
            (root / name).mkdir()
        results: dict[str, Any] = {"quick": quick}
        results["faults"] = faults(root / "faults", 150 if quick else 10_000)
        results["hours"] = hours(root / "hours", 300 if quick else 28_800)
        model, images = real(root, quick)
        results["pace"] = pace(root / "pace", model, images)
        results["half_load"] = half_load(root, model, images)
    for name, value in results.items():
        print(name, value)
    found = results["faults"]
    assert found["OK with a fault"] == 0, "a part with a fault was OK"
    assert sum(found["verdicts"].values()) == found["triggers"]
    if quick:
        assert results["hours"]["threads"]["at the end"] <= results["hours"]["threads"]["at a third"] + 2
        return
    assert found["answered by the deadline + 20 ms"] >= ANSWERED
    save(options.out, "line", results)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
