"""Do thresholds keep their promise on real good images?

    python benchmarks/thresholds.py [--quick] [--out DIR]

Each data set's good images, of training and test, are dealt out at random, many times. Some make a bank, as `fit` does,
and calibrate it by leave-one-out and by cross-fitting; the others are new to it, and the share of them that is flagged
is the actual false-alarm rate. For the hold-out, half of the new images calibrate and the other half are tested, in
many draws a bank. Then, where a data set comes with a split of its own, one model of its training images inspects
its good test images: nobody has dealt those.

Beside each figure stands what scores that are exchangeable, calibration and new images alike, would give with as many
images: exact, by counting, whatever the scores' distribution. Features are computed once an image, at 128 px. The sets
run side by side, each in a process with one thread.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import multiprocessing
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from _common import DATA, arguments, save
from patchbank import Config, PatchCore, read_dataset
from patchbank.calibration.held_out import HeldOut, score_cross_fitted, score_held_out
from patchbank.calibration.thresholds import Calibration, rank
from patchbank.features.embedding import CalibrationPatches, ImageStatistics, Patches
from patchbank.features.extract import described
from patchbank.fit.fit import with_expected
from patchbank.fit.stream import PatchStream
from patchbank.search.searcher import build_searcher
from patchbank.util.parallel import one_blas_thread
from patchbank.util.progress import silent

FloatArray = npt.NDArray[np.float32]
CONFIG = Config(image_size=128, thumbnail_size=0, spare_ratio=0.0)
RATES = (0.01, 0.02, 0.05, 0.1)
CONFIDENCES = (0.0, 0.9, 0.95)
LEVELS = (0.05, 0.1)  # of p-values
SETS = ("bottle", "screw", "mtd", "elpv")
LEARN = 60  # images a bank: 5 % at 95 % takes 59
NEW = 100  # images, at most, that each bank is tested on
SPLITS = 10
MOST = 500  # images of a set
MOST_TRAINING = 300  # for its own split: 1 % at 95 % takes 299
BANKS = 2  # for the hold-out, each with all other images, in many draws
DRAWS = 200
METHODS = ("holdout", "leave_one_out", "cross_fit")


def good_images(name: str) -> tuple[list[Any], list[Any]]:
    """The good images of training and of test; ELPV (functional cells) comes without a split."""
    if name == "elpv":
        from elpv_dataset.utils import load_dataset

        images, probability, _ = load_dataset()
        return [images[i] for i in np.flatnonzero(probability == 0)], []
    data = read_dataset(DATA / name)
    return list(data.train_paths), [sample.path for sample in data.test if not sample.defective]


def at_hand(name: str) -> bool:
    """Whether a set is on this machine; says so if not."""
    found = importlib.util.find_spec("elpv_dataset") is not None if name == "elpv" else (DATA / name).is_dir()
    if not found:
        print(f"{name}: not on this machine, left out")
    return found


def features_of(images: Sequence[Any], config: Config) -> tuple[list[Patches], Config]:
    """Every image's patches, and the config with what the backbone fills in."""
    model = PatchCore.fit(images[:2], dataclasses.replace(config, calibration="none"))
    found = [patches for _, patches, *_ in described(images, model._describe, model.config)]
    assert all(isinstance(patches, Patches) for patches in found), found
    return found, dataclasses.replace(model.config, calibration=config.calibration)


def synthetic(n: int) -> list[Patches]:
    """Images of 12 x 12 patches in 16 dimensions, with a spread of their own each."""
    rng = np.random.default_rng(0)
    place, look = np.arange(144, dtype=np.int32), ImageStatistics(100.0, 0.5, 96, 96)
    scales = rng.lognormal(0, 0.3, n)
    return [Patches(s * rng.standard_normal((144, 16), np.float32), place, (12, 12), (96, 96), look) for s in scales]


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Image scores and largest map values, (n,) float32 each."""

    scores: FloatArray
    peaks: FloatArray

    @classmethod
    def of(cls, held: Iterable[HeldOut]) -> Scores:
        scores, peaks = zip(*((each.score, each.peak) for each in held), strict=True)
        return cls(np.array(scores, np.float32), np.array(peaks, np.float32))

    def take(self, numbers: npt.NDArray[np.integer]) -> Scores:
        return Scores(self.scores[numbers], self.peaks[numbers])


@one_blas_thread()
def scored(learn: Sequence[Patches], new: Sequence[Patches], config: Config, methods: Sequence[str]) -> dict[str, Any]:
    """What `fit` would do with the first images, and `predict` with the others: scores, by where they come from."""
    stream = PatchStream(
        dataclasses.replace(config, calibration="leave_one_out"), 1 << 40, len(learn), lambda _: False, silent
    )
    for patches in learn:
        stream.add(patches)
    sample = stream.sample()
    bank, _, images = stream.finish(tuple(map(str, range(len(learn)))))
    searcher = build_searcher(bank.vectors, config)
    bank = with_expected(bank, searcher, sample, config.distance_scaling)
    unknown = [CalibrationPatches(-1, patches) for patches in new]  # no vector of the bank comes from image -1
    found = {"new": Scores.of(score_held_out(unknown, bank, searcher, config))}
    if "leave_one_out" in methods:
        found["leave_one_out"] = Scores.of(score_held_out(images, bank, searcher, config))
    if "cross_fit" in methods:
        found["cross_fit"] = Scores.of(score_cross_fitted(images, bank, searcher, config))
    return found


class Tally:
    """What a kind of calibration has shown, over the splits."""

    def __init__(self, method: str) -> None:
        self.method, self.n, self.tested = method, 0, 0
        self.rates: dict[tuple[str, float, float], list[float]] = {}
        self.small: dict[float, list[float]] = {level: [] for level in LEVELS}

    def add(self, held: Scores, new: Scores) -> None:
        """A calibration, and good images that it has not seen."""
        self.n, self.tested = len(held.scores), len(new.scores)
        for rate in RATES:
            for confidence in CONFIDENCES:
                if rank(self.n, rate, confidence) is None:
                    continue
                made = calibration(held, self.method, rate, confidence)
                for what, values, threshold in (
                    ("images", new.scores, made.threshold),
                    ("pixels", new.peaks, made.pixel_threshold),
                ):
                    self.rates.setdefault((what, rate, confidence), []).append(float((values > threshold).mean()))
        made = calibration(held, self.method, 0.5, 0.0)
        p = np.array([made.p_value(float(score)) for score in new.scores])
        for level in LEVELS:
            self.small[level].append(float((p <= level).mean()))

    def rows(self) -> list[dict[str, Any]]:
        """The promises: actual rates, and in how many splits they were over the limit."""
        rows = []
        for (what, rate, confidence), found in sorted(self.rates.items()):
            k = rank(self.n, rate, confidence)
            assert k
            rates = np.array(found)
            rows.append(
                {
                    "what": what,
                    "max_false_alarms": rate,
                    "confidence": confidence,
                    "mean_rate": round(float(rates.mean()), 5),
                    "exchangeable_mean": round((self.n - k + 1) / (self.n + 1), 5),
                    "q95_rate": round(float(np.quantile(rates, 0.95)), 5),
                    "exceeded": round(float((rates > rate + 1e-9).mean()), 4),
                    "exchangeable_exceeded": round(exchangeable_exceeded(self.n, k, self.tested, rate), 4),
                }
            )
        return rows

    def p_values(self) -> list[dict[str, Any]]:
        """Shares of new good images with a small p-value."""
        return [
            {
                "level": level,
                "share": round(float(np.mean(found)), 5),
                "exchangeable": round(math.floor(level * (self.n + 1) + 1e-9) / (self.n + 1), 5),
            }
            for level, found in self.small.items()
        ]


def calibration(held: Scores, method: str, rate: float, confidence: float) -> Calibration:
    return Calibration(held.scores, held.peaks, ("",) * len(held.scores), method, rate, confidence)


def exchangeable_exceeded(n: int, k: int, m: int, rate: float) -> float:
    """P(more than rate * m of m new scores lie over the k-th smallest of n), if all n + m are exchangeable, without
    ties: j of them do with probability C(n - k + j, j) C(k - 1 + m - j, m - j) / C(n + m, m)."""
    allowed = math.floor(rate * m + 1e-9)
    under = sum(math.comb(n - k + j, j) * math.comb(k - 1 + m - j, m - j) for j in range(allowed + 1))
    return 1 - under / math.comb(n + m, m)


def measure(name: str, pool: list[Patches], config: Config, splits: int = SPLITS) -> list[dict[str, Any]]:
    """Random splits of one set's good images: a row for each way to calibrate."""
    tallies = {method: Tally(method) for method in METHODS}
    start = time.perf_counter()
    for number in range(splits):
        rng = np.random.default_rng([0, number])
        order = rng.permutation(len(pool))
        holdout = number < BANKS
        known, new = order[:LEARN], order[LEARN : None if holdout else LEARN + NEW]
        seeded = dataclasses.replace(config, seed=number)
        found = scored([pool[i] for i in known], [pool[i] for i in new], seeded, METHODS)
        for method in METHODS[1:]:
            tallies[method].add(found[method], found["new"].take(np.arange(min(NEW, len(new)))))
        for _ in range(DRAWS if holdout else 0):
            drawn, half = rng.permutation(len(new)), len(new) // 2
            tallies["holdout"].add(found["new"].take(drawn[:half]), found["new"].take(drawn[half:]))
    print(f"{name}: {splits} splits in {time.perf_counter() - start:.0f} s", flush=True)
    return [
        {
            "set": name,
            "calibration": method,
            "bank_images": LEARN,
            "calibration_images": tally.n,
            "new_images": tally.tested,
            "splits": len(tally.small[LEVELS[0]]),
            "promises": tally.rows(),
            "p_values": tally.p_values(),
        }
        for method, tally in tallies.items()
    ]


def own_split(name: str, train: list[Patches], test: list[Patches], config: Config) -> list[dict[str, Any]]:
    """One model of all training images, on the set's own good test images."""
    found = scored(train, test, config, METHODS[1:])
    rows = []
    for method in METHODS[1:]:
        for rate in (0.01, 0.05):
            made = calibration(found[method], method, rate, 0.95)
            rows.append(
                {
                    "set": name,
                    "calibration": method,
                    "training_images": len(train),
                    "test_images": len(test),
                    "max_false_alarms": rate,
                    "confidence": 0.95,
                    "supported": made.support.satisfied,
                    "flagged": int((found["new"].scores > made.threshold).sum()),
                    "with_a_flagged_pixel": int((found["new"].peaks > made.pixel_threshold).sum()),
                }
            )
    print(rows, flush=True)
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), sharex=True, sharey=True)
    colours = dict(zip(METHODS, ("tab:blue", "tab:orange", "tab:green"), strict=True))
    markers = dict(zip(dict.fromkeys(row["set"] for row in rows), "osD^v", strict=False))
    titles = ("on average: mean over the splits", "with 95 % confidence: 95 % of the splits are at or below")
    for axes, confidence, key, title in zip(panels, (0.0, 0.95), ("mean_rate", "q95_rate"), titles, strict=True):
        for row in rows:
            told = [p for p in row["promises"] if p["what"] == "images" and p["confidence"] == confidence]
            axes.plot(
                [100 * p["max_false_alarms"] for p in told],
                [100 * p[key] for p in told],
                marker=markers[row["set"]],
                color=colours[row["calibration"]],
                label=f"{row['set']}, {row['calibration']}",
                linewidth=1,
            )
        axes.plot([0, 100 * RATES[-1]], [0, 100 * RATES[-1]], "k--", linewidth=1)
        axes.set(xlabel="stated: at most, % of good images", title=title)
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("actual, % of new good images flagged")
    panels[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def run(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One set: random splits, then its own."""
    rng = np.random.default_rng(1)
    train, test = good_images(name)
    train = [train[i] for i in rng.permutation(len(train))[: MOST - len(test)]]
    pool, config = features_of([*train, *test], CONFIG)
    rows = measure(name, pool, config)
    known, new = pool[: len(train)][:MOST_TRAINING], pool[len(train) :]
    return rows, own_split(name, known, new, config) if new else []


def main() -> None:
    options = arguments(__doc__ or "")
    rows: list[dict[str, Any]] = []
    own: list[dict[str, Any]] = []
    if options.quick:
        rows = measure("synthetic", synthetic(160), dataclasses.replace(CONFIG, coreset_size=40), splits=4)
    else:
        names = [name for name in SETS if at_hand(name)]
        os.environ["OMP_NUM_THREADS"] = "1"
        with ProcessPoolExecutor(max(1, len(names)), multiprocessing.get_context("spawn")) as pool:
            for found, split in pool.map(run, names):
                rows, own = rows + found, own + split
    save(options.out, "thresholds", {"image_size": CONFIG.image_size[0], "rows": rows, "own_split": own})
    plot(rows, options.out / "thresholds.png")
    for told in rows[0]["promises"] if options.quick else ():  # the hold-out's draws of a bank: theory is exact
        assert abs(told["mean_rate"] - told["exchangeable_mean"]) < 0.01, told
        assert abs(told["exceeded"] - told["exchangeable_exceeded"]) < 0.1, told


if __name__ == "__main__":
    main()
