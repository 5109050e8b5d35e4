"""What the verdicts say by default, and whether their promises hold.

    python benchmarks/verdicts.py [--quick] [--sets ...] [--out DIR]

First, each data set whole, with the defaults: how many good images and defects come out OK, REVIEW and NG, as
`patchbank evaluate --json` prints it. ELPV comes without a split: four in five functional cells train, the others and
the cells that are certainly defective are tested (as in `default_size.py`).

Then the good images alone, of training and test together, dealt out at random, many times: some make a bank and
calibrate it by leave-one-out, as `fit` does; the others are new to it. The share of them that is NG is the actual
false-alarm rate, which the default promises to be at most 5 % with 95 % confidence. Beside the rule stand two others:
suspects that count like all images, and left-out scores that may also use the spare vectors (`spare_ratio`). Images
are 128 px wide there, so that hundreds of fits take minutes. A split has only some hundred new images, among which a
valid promise is exceeded by chance, too: how often is counted exactly, for scores that are exchangeable.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np

from _common import DATA, arguments, save
from patchbank import Config, PatchCore, evaluate, read_dataset
from patchbank.bank.memory_bank import ArchivedVectors
from patchbank.calibration.held_out import score_held_out
from patchbank.calibration.thresholds import Calibration, rank
from patchbank.evaluation.datasets import Dataset, Sample
from patchbank.features.embedding import CalibrationPatches, Patches
from patchbank.fit.fit import with_expected
from patchbank.fit.stream import PatchStream
from patchbank.fitted.versions import rows_of
from patchbank.search.searcher import build_searcher
from patchbank.util.parallel import one_blas_thread
from patchbank.util.progress import silent
from thresholds import Scores, at_hand, exchangeable_exceeded, features_of, good_images, synthetic

SETS = ("bottle", "screw", "mtd", "elpv")
GOAL = {"defects OK": 8.0, "good REVIEW": 6.0, "good NG": 2.5}  # per cent, on average over the sets
SMALL = Config(image_size=128, thumbnail_size=0)
LEARN = (40, 80, 160)  # images a bank
NEW = 100
SPLITS = 12
MOST = 360  # images of a set


def elpv() -> Dataset:
    """The solar cells as a data set, by the files of their package."""
    spec = importlib.util.find_spec("elpv_dataset")
    assert spec
    assert spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    with (folder / "labels.csv").open(newline="") as file:
        cells = [line for line in csv.reader(file, delimiter=" ", skipinitialspace=True) if line]
    sure = [(folder / name, float(probability), kind.strip()) for name, probability, kind in cells]
    good = np.random.default_rng(0).permutation([n for n, cell in enumerate(sure) if cell[1] == 0])
    cut = int(0.8 * len(good))
    train = [Sample(sure[n][0], False, "good", None, "train") for n in good[:cut]]
    test = [Sample(sure[n][0], False, "good", None, "test") for n in good[cut:]]
    test += [Sample(path, True, kind, None, "test") for path, probability, kind in sure if probability == 1]
    return Dataset(folder, "csv", tuple(train), tuple(test))


def whole(name: str) -> dict[str, Any]:
    """One set with the defaults."""
    data = elpv() if name == "elpv" else read_dataset(DATA / name)
    blind = dataclasses.replace(data, test=tuple(dataclasses.replace(sample, mask=None) for sample in data.test))
    start = time.perf_counter()
    model = PatchCore.fit(data.train_paths)
    evaluation = evaluate(model, blind)
    calibration = model.calibration
    assert calibration
    print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return {
        "set": name,
        "training_images": len(data.train),
        "suspects": [each.name for each in calibration.suspects],
        "promise": calibration.support.guarantee,
        "bounds": dataclasses.asdict(calibration.bounds),
        "image_auroc": evaluation.image_auroc,
        "threshold": calibration.threshold,
        "review_above": calibration.review_above,
        "verdicts": evaluation.verdicts,
    }


def shares(counts: dict[str, int]) -> dict[str, float]:
    """Per cent."""
    return {verdict: 100 * count / sum(counts.values()) for verdict, count in counts.items()}


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Prints the verdicts by set, and their means, which it returns."""
    print(f"{'set':<8} {'good: OK':>9} {'REVIEW':>7} {'NG':>7}   {'defects: OK':>11} {'REVIEW':>7} {'NG':>7}   %")
    found = [(row["set"], shares(row["verdicts"]["good"]), shares(row["verdicts"]["defective"])) for row in rows]
    means = tuple(
        {verdict: float(np.mean([each[side][verdict] for each in found])) for verdict in ("ok", "review", "ng")}
        for side in (1, 2)
    )
    for name, good, bad in [*found, ("mean", *means)]:
        left = f"{good['ok']:>9.1f} {good['review']:>7.1f} {good['ng']:>7.1f}"
        print(f"{name:<8} {left}   {bad['ok']:>11.1f} {bad['review']:>7.1f} {bad['ng']:>7.1f}")
    return {"good": means[0], "defective": means[1]}


@one_blas_thread()
def scored(learn: list[Patches], new: list[Patches], config: Config) -> dict[str, Scores]:
    """What `fit` and `predict` would give: left-out scores, without and with the spare vectors, and new images'."""
    stream = PatchStream(config, 1 << 40, len(learn), lambda _: False, silent)
    for patches in learn:
        stream.add(patches)
    sample = stream.sample()
    bank, spares, images = stream.finish(tuple(map(str, range(len(learn)))))
    searcher = build_searcher(bank.vectors, config)
    bank = with_expected(bank, searcher, sample, config.distance_scaling)
    both = ArchivedVectors.joined([rows_of(bank), spares])
    larger = dataclasses.replace(bank, **vars(both))
    unknown = [CalibrationPatches(-1, patches) for patches in new]  # no vector of the bank comes from image -1
    return {
        "new": Scores.of(score_held_out(unknown, bank, searcher, config)),
        "bank": Scores.of(score_held_out(images, bank, searcher, config)),
        "bank and spares": Scores.of(score_held_out(images, larger, build_searcher(larger.vectors, config), config)),
    }


def simulated(name: str, pool: list[Patches], config: Config, learn: int, splits: int) -> list[dict[str, Any]]:
    """Random splits of one set's good images: a row for each way to calibrate."""
    found: dict[tuple[str, bool], list[tuple[float, ...]]] = {}
    for number in range(splits):
        order = np.random.default_rng([learn, number]).permutation(len(pool))
        known, new = order[:learn], order[learn : learn + NEW]
        scores = scored([pool[i] for i in known], [pool[i] for i in new], dataclasses.replace(config, seed=number))
        values = scores["new"].scores
        for source in ("bank", "bank and spares"):
            held = scores[source]
            for with_suspects in (False, True):
                names = tuple(map(str, range(learn)))
                made = Calibration(
                    *(held.scores, held.peaks, names, "leave_one_out", 0.05, 0.95), with_suspects=with_suspects
                )
                p = np.array([made.p_value(float(score)) for score in values])
                flagged = values > made.threshold
                counted, bounds, m = int(made.counted.sum()), made.bounds, len(values)
                k = rank(counted, 0.05, 0.95) or counted
                row = (
                    *(float(flagged.mean()), float(((p <= 0.1) & ~flagged).mean()), float((p <= 0.1).mean())),
                    *(bounds.if_bad, bounds.if_good, bounds.suspects),
                    exchangeable_exceeded(counted, k, m, bounds.if_bad),
                    exchangeable_exceeded(learn, k, m, bounds.if_good),
                )
                found.setdefault((source, with_suspects), []).append(row)
    rows = []
    for (source, with_suspects), each in found.items():
        ng, review, small, bad, good, suspects, chance_bad, chance_good = np.array(each).T
        rows.append(
            {
                "set": name,
                "left_out_scores": source,
                "suspects_count": with_suspects,
                "images": learn,
                "splits": splits,
                "ng": round(float(ng.mean()), 5),
                "review": round(float(review.mean()), 5),
                "p_at_most_0.1": round(float(small.mean()), 5),
                "stated_if_bad": round(float(bad.mean()), 5),
                "stated_if_good": round(float(good.mean()), 5),
                "suspects": round(float(suspects.mean()), 3),
                "over_if_bad": int((ng > bad + 1e-9).sum()),
                "over_if_good": int((ng > good + 1e-9).sum()),
                "expected_over_if_bad": round(float(chance_bad.sum()), 2),
                "expected_over_if_good": round(float(chance_good.sum()), 2),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    options = arguments(__doc__ or "", SETS)
    names = [name for name in options.sets if not options.quick and at_hand(name)]
    rows = [whole(name) for name in names]
    simulation: list[dict[str, Any]] = []
    if options.quick:
        config = dataclasses.replace(SMALL, coreset_size=40)
        simulation = simulated("synthetic", synthetic(120), config, 60, 4)
        assert all(row["ng"] <= row["stated_if_good"] for row in simulation if row["left_out_scores"] == "bank")
    for name in names:
        train, test = good_images(name)
        chosen = np.random.default_rng(1).permutation(len(train))[: MOST - len(test)]
        pool, config = features_of([*(train[i] for i in chosen), *test], SMALL)
        for learn in LEARN:
            if len(pool) >= learn + 50:
                simulation += simulated(name, pool, config, learn, SPLITS)
    means = table(rows) if rows else None
    save(options.out, "verdicts", {"goal": GOAL, "rows": rows, "means": means, "simulation": simulation})


if __name__ == "__main__":
    main()
