"""Fits that are interrupted at random moments and run again: each must end with the bytes of the uninterrupted fit.

    python tests/fuzz/interrupts.py [COUNT [SEED]]

A moment is a line of patchbank's code that the main thread is about to run: half of them are drawn from all that a fit
runs, half from its distinct lines, so that what happens once (a state is written, a net is thinned) has its share. The
process then gets SIGINT, SIGTERM or SIGKILL. It is run again, and interrupted again up to twice, until it ends. No
network and small images: a fit takes a fraction of a second. POSIX only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import patchbank
from patchbank import Config, PatchCore, Runtime
from patchbank.backbones.fake import FakeBackbone

SOURCE = str(Path(patchbank.__file__).parent)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
SMALL: dict[str, Any] = {"image_size": 64, "coreset_size": 40, "thumbnail_size": 16}
FITS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("auto", {}),
    ("1MB", {}),
    ("1MB", {"sampler": "random"}),
    ("1MB", {"calibration": "holdout"}),
    ("1MB", {"drop_outliers": True}),
    ("auto", {"drop_outliers": True, "calibration": "cross_fit"}),
    ("1MB", {"include": "0.1,0.1 0.9,0.1 0.9,0.9 0.1,0.9"}),
)
Place = tuple[str, int]


def make_images(folder: Path, rng: np.random.Generator) -> list[Path]:
    """60 parts, of which one has a defect and one is no image."""
    base = rng.integers(60, 200, (64, 64, 3))
    for number in range(60):
        image = np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8)
        if number == 40:
            image[10:30, 10:30] = 255
        cv2.imwrite(str(folder / f"{number:02d}.bmp"), image)
    (folder / "05.bmp").write_bytes(b"broken")
    return sorted(folder.iterdir())


class Moments:
    """Counts the lines that the main thread runs; `at` is called before line number `stop` of all, or of `place`."""

    def __init__(self, stop: int = 0, place: Place | None = None, at: Callable[[], None] = lambda: None) -> None:
        self.counts: Counter[Place] = Counter()
        self._stop, self._place, self._at, self._left = stop, place, at, stop

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        if event == "line":
            place = frame.f_code.co_filename[len(SOURCE) + 1 :], frame.f_lineno
            self.counts[place] += 1
            if self._stop and self._place in (None, place):
                self._left -= 1
                if self._left == 0:
                    self._at()
        return self


def in_a_child(work: Callable[[], None]) -> int:
    """Its exit status; 130 after KeyboardInterrupt, minus the signal's number if one has ended it."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            work()
        except KeyboardInterrupt:
            os._exit(130)
        except BaseException:  # noqa: BLE001  (a child of a fork must not come back)
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fit(paths: list[Path], which: tuple[str, dict[str, Any]], folder: Path, moments: Moments) -> None:
    """Fits and saves `folder`/model, under the eyes of `moments`; counts are left in counts.json."""
    memory, options = which
    log = logging.FileHandler(folder / "log")
    logging.getLogger("patchbank").addHandler(log)
    logging.getLogger("patchbank").setLevel(logging.INFO)
    sys.settrace(moments)
    try:
        model = PatchCore.fit(
            paths,
            Config(**SMALL, **options),
            runtime=Runtime(memory=memory),
            backbone=FakeBackbone(),
            skip_unreadable=True,
            checkpoint=folder / "model.partial",
        )
    finally:
        sys.settrace(None)
    model.save(folder / "model")
    (folder / "counts.json").write_text(json.dumps([[*place, count] for place, count in moments.counts.items()]))


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model").read_bytes()).hexdigest()


def main(count: int = 20, seed: int = 0) -> int:
    """Prints what was done; returns the number of fits that ended otherwise than the uninterrupted one."""
    rng = np.random.default_rng(seed)
    failed, interruptions = 0, Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        images = Path(temporary, "images")
        images.mkdir()
        paths = make_images(images, rng)
        whole: dict[int, tuple[str, list[tuple[Place, int]]]] = {}
        for number in range(count):
            kind = number % len(FITS)
            if kind not in whole:
                folder = Path(temporary, f"whole-{kind}")
                folder.mkdir()
                assert in_a_child(lambda: fit(paths, FITS[kind], folder, Moments())) == 0  # noqa: B023
                counts = json.loads((folder / "counts.json").read_text())
                whole[kind] = digest(folder), [((file, line), times) for file, line, times in counts]
            wanted, lines = whole[kind]
            folder = Path(temporary, str(number))
            folder.mkdir()
            told, status = [], -1
            for _ in range(int(rng.integers(1, 4))):
                how = SIGNALS[int(rng.integers(len(SIGNALS)))]
                place: Place | None = None
                if rng.random() < 0.5:
                    place, times = lines[int(rng.integers(len(lines)))]
                else:
                    times = sum(each for _, each in lines)
                stop = int(rng.integers(1, times + 1))
                moments = Moments(stop, place, lambda: os.kill(os.getpid(), how))  # noqa: B023
                told.append(f"{how.name} at {place or 'line'} no. {stop}")
                status = in_a_child(lambda: fit(paths, FITS[kind], folder, moments))  # noqa: B023
                interruptions[how.name if status else "came too late"] += 1
                if status not in (0, 130, -how):
                    break
                if status == 0:
                    break
            if status != 0:
                status = in_a_child(lambda: fit(paths, FITS[kind], folder, Moments()))  # noqa: B023
            left = sorted(path.name for path in folder.iterdir() if path.name not in ("model", "log", "counts.json"))
            interruptions["resumed"] += (folder / "log").read_text().count("resumed at image")
            interruptions["warnings"] += (folder / "log").read_text().count("cannot")
            if status != 0 or digest(folder) != wanted or left:
                failed += 1
                print(f"FAILED {number}: {FITS[kind]}: {told}: status {status}, left {left}", flush=True)
    print(f"{count} fits, seed {seed}: {dict(interruptions)}; {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(min(1, main(*map(int, sys.argv[1:]))))
