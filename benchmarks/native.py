"""What does the compiled part save of whole fits and predictions? Each of its two functions, and each instruction set.

    python benchmarks/native.py [--quick] [--out DIR] [--sets NAME ...]

The same fit and the same predictions, with NumPy alone, with either function in C, and with both; and with both as
they are on processors that have fewer instructions than this one. Ways take turns, so that a slow spell of the machine
meets all of them; each counts with its best of several rounds. Times are processor times, of all threads, which other
programs on the machine change less than wall time; `search_ms` is wall time. All ways must give the same bank and the
same scores, to the bit.

`saves` is the share of the whole with NumPy alone. Of a fit, only what follows the network is compared: the network
takes the same time each way, give or take more than what is looked for.

    export NPY_DISABLE_CPU_FEATURES="AVX2 FMA3 AVX512F AVX512CD AVX512_SKX" OPENBLAS_CORETYPE=Nehalem
    python benchmarks/native.py

compares C of baseline instructions with a NumPy that has no better ones either, as on x86 processors without AVX2.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from _common import DATA, arguments, save
from patchbank import Config, PatchCore, native
from patchbank.bank import k_center_bounds as bounds
from patchbank.search import exact

SETS = ("bottle", "screw", "mtd")
MOST_IMAGES = 40
ROUNDS = 2
OLD = os.environ.get("OPENBLAS_CORETYPE") == "Nehalem"
QUICK_SPEEDUP = 0.7  # a smoke test on a busy machine must not fail

# Way: what PATCHBANK_NATIVE says; whether search and coreset use C.
WAYS = {
    "numpy": ("0", False, False),
    "search": ("", True, False),
    "coreset": ("", False, True),
    "both": ("", True, True),
    "both, avxvnni": ("avxvnni", True, True),
    "both, avx2": ("avx2", True, True),
    "both, any": ("any", True, True),
}


@contextmanager
def way(name: str) -> Iterator[None]:
    """Inside, the library is used as the way says."""
    level, search, coreset = WAYS[name]
    off = SimpleNamespace(available=lambda: False)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, {"PATCHBANK_NATIVE": level}))
        if not search:
            stack.enter_context(mock.patch.object(exact, "native", off))
        if not coreset:
            stack.enter_context(mock.patch.object(bounds, "native", off))
        yield


def ways() -> list[str]:
    """Those that this processor can tell apart; C of baseline instructions and NumPy, where NumPy is held back."""
    if OLD:
        return ["numpy", "both, any"]
    found = {}
    for name in WAYS:
        with way(name):
            found.setdefault((native.instructions(), *WAYS[name][1:]), name)
    return list(found.values())


class Clock:
    """Notes the processor time at which each stage of a fit began and ended, by its progress reports."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:  # noqa: ARG002  (the protocol)
        now = time.process_time()
        self.times.setdefault(stage, [now, now])[1] = now

    def seconds(self, stage: str) -> float:
        first, last = self.times.get(stage, (0.0, 0.0))
        return last - first


Times = dict[str, np.ndarray]  # by way


def timed_fit(images: list[Any], config: Config) -> tuple[PatchCore, np.ndarray]:
    """A model, and seconds of the whole fit, of what follows the network, and of coreset and calibration in that."""
    clock, start = Clock(), time.process_time()
    model = PatchCore.fit(images, config, progress=clock)
    whole = time.process_time() - start
    after = whole - clock.seconds("embed")
    return model, np.array([whole, after, clock.seconds("coreset"), clock.seconds("calibrate")])


def timed_predictions(model: PatchCore, tests: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and seconds of each whole prediction and, by the wall clock, of its search: (2, tests)."""
    scores, times = np.empty(len(tests)), np.empty((2, len(tests)))
    for number, image in enumerate(tests):
        start = time.process_time()
        result = model.predict(image)
        times[:, number] = time.process_time() - start, result.timings["search"]
        scores[number] = result.score
    return scores, times


def compare(name: str, images: list[Any], tests: list[Any], config: Config, rounds: int) -> dict[str, Any]:
    """Seconds of a fit and milliseconds of a prediction, each way, and what ways save of NumPy's."""
    fits: Times = {}
    predictions: Times = {}
    answers = set()
    for _ in range(rounds):
        for each in ways():
            with way(each):
                model, fit = timed_fit(images, config)
                scores, predict = timed_predictions(model, tests)
            fits[each] = np.minimum(fits.get(each, np.inf), fit)
            predictions[each] = np.minimum(predictions.get(each, np.inf), predict)
            answers.add((model.bank.vectors.tobytes(), scores.tobytes()))
    if len(answers) != 1:
        raise SystemExit(f"{name}: banks or scores are not the same bits each way")
    numpy, median = fits["numpy"], {each: 1e3 * np.median(times, axis=1) for each, times in predictions.items()}
    row = {
        "set": name,
        "images": len(images),
        "bank": len(model.bank),
        "fit_s": round(float(numpy[0]), 2),
        "after_network_s": {each: round(float(times[1]), 3) for each, times in fits.items()},
        "coreset_s": {each: round(float(times[2]), 3) for each, times in fits.items()},
        "calibrate_s": {each: round(float(times[3]), 3) for each, times in fits.items()},
        "fit_saves": {each: round(float((numpy[1] - times[1]) / numpy[0]), 3) for each, times in fits.items()},
        "predict_ms": {each: round(float(ms[0]), 2) for each, ms in median.items()},
        "search_ms": {each: round(float(ms[1]), 2) for each, ms in median.items()},
        "predict_saves": {each: round(float(1 - ms[0] / median["numpy"][0]), 3) for each, ms in median.items()},
    }
    print(row, flush=True)
    return row


def main() -> int:
    options = arguments(__doc__ or "", SETS)
    if not native.available():
        print("the compiled part was not built here", file=sys.stderr)
        return 1
    sets = [name for name in options.sets if (DATA / name).is_dir()]
    if options.quick or not sets:
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 256, (192, 192, 3), dtype=np.uint8) for _ in range(16)]
        rows = [compare("noise", images[:12], images[12:], Config(image_size=192), 1)]
    else:
        rows = []
        for name in sets:
            train = sorted((DATA / name / "train/good").iterdir())
            kinds = sorted((DATA / name / "test").iterdir())
            tests = [path for kind in kinds for path in sorted(kind.iterdir())[:2]]
            rows.append(compare(name, train[:: -(-len(train) // MOST_IMAGES)], tests, Config(), ROUNDS))
    save(options.out, "native_old" if OLD else "native", {"instructions": native.instructions(), "rows": rows})
    slow = [
        row for row in rows if options.quick and row["predict_ms"]["numpy"] < QUICK_SPEEDUP * row["predict_ms"]["both"]
    ]
    for row in slow:
        print(f"slower than NumPy alone: {row}", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
