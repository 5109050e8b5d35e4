"""Tuning: the same images for every candidate, a choice that follows its rule, and honest words about defects."""

from __future__ import annotations

import dataclasses
import math
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parts import noisy
from patchbank import Config
from patchbank.cli.tune import _table
from patchbank.config import PRESETS, Runtime
from patchbank.errors import DatasetError, WeightsNotFoundError
from patchbank.evaluation.datasets import read_dataset
from patchbank.evaluation.tune import NOISE, Trial, candidates, choose, difference_error, standard_error, tied, tune
from patchbank.imaging.images import read_image


@pytest.fixture
def folder(tmp_path, rng):
    base = cv2.resize(rng.integers(60, 200, (8, 8)).astype(np.uint8), (96, 96))
    for number in range(20):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), noisy(base, rng, 3))
    return tmp_path


class Detector:
    """Scores an image by its largest difference to the mean of the good ones; larger sizes take longer."""

    def __init__(self, paths, config):
        self.mean = np.mean([read_image(path) for path in paths], axis=0)
        self.seconds = 0.002 if config.image_size == (64,) else 0.02
        self.blind = config.image_size == (64,)

    def predict(self, image):
        time.sleep(self.seconds)
        difference = np.abs(read_image(image) - self.mean).max()
        return SimpleNamespace(score=0.0 if self.blind else float(difference), anomaly_map=np.zeros((4, 4), np.float32))


AMONG = {"small": Config(image_size=64), "large": Config(image_size=128)}


def run(folder, budget_ms, **more):
    return tune(
        read_dataset(folder),
        Config(),
        Runtime(),
        budget_ms,
        among=AMONG,
        fit=lambda paths, config, _: Detector(paths, config),
        **more,
    )


def test_the_better_one_is_chosen_if_it_is_within_the_budget(folder):
    report = run(folder, 500)
    assert report.chosen.name == "large"
    assert report.chosen.image_auroc > 0.9
    assert report.defects == "planted"
    assert [trial.name for trial in report.trials] == ["small", "large"]
    assert report.trials[0].image_auroc == 0.5  # it scores everything alike


def test_the_budget_rules_a_better_one_out(folder):
    report = run(folder, 10)
    assert report.chosen.name == "small"
    assert [trial.within_budget for trial in report.trials] == [True, False]


def test_if_all_are_too_slow_the_fastest_is_chosen_and_said_so(folder):
    report = run(folder, 0.01)
    assert report.chosen.name == "small"
    assert not report.chosen.within_budget
    assert len(report.trials) == 1  # larger ones can only be slower


def test_labelled_defects_are_used_where_there_are_any(folder, tmp_path, rng):
    root = tmp_path / "set"
    (root / "train").mkdir(parents=True)
    (root / "test/hole").mkdir(parents=True)
    (root / "test/good").mkdir()
    (root / "train/good").symlink_to(folder, target_is_directory=True)
    cv2.imwrite(str(root / "test/hole/a.png"), rng.integers(0, 256, (96, 96)).astype(np.uint8))
    (root / "test/hole/b.png").write_bytes(b"broken")
    report = run(root, 500)
    assert (report.defects, report.n_defective) == ("labelled", 1)


def test_held_out_images_are_not_learned(folder):
    learned = []

    def fit(paths, config, _):
        learned.append(list(paths))
        return Detector(paths, config)

    report = tune(read_dataset(folder), Config(), Runtime(), 500, among=AMONG, fit=fit)
    assert learned[0] == learned[1]
    assert len(learned[0]) + report.n_good == 20


def test_too_few_images(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((96, 96), np.uint8))
    with pytest.raises(DatasetError, match="at least 10"):
        run(tmp_path, 50)


def test_images_that_offer_nothing_to_plant(tmp_path):
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(DatasetError, match="labelled"):
        run(tmp_path, 50)


def test_many_channel_and_twelve_bit_images_can_be_tuned_on(tmp_path, rng):
    base = cv2.resize(rng.integers(500, 3000, (8, 8, 4)).astype(np.float32), (96, 96))
    for number in range(24):
        noisy = np.clip(base + rng.normal(0, 30, base.shape), 0, 4095).astype(np.uint16)
        np.save(tmp_path / f"{number}.npy", noisy)
    config = Config(image_size=96, channels=4, white=4095.0, coreset_size=200, distance_scaling=0)
    report = tune(read_dataset(tmp_path), config, Runtime(), 5000, among={"only": config})
    assert report.chosen.image_auroc > 0.6


def test_candidates_are_the_presets_and_sizes_between_smallest_first():
    found = candidates(Config(seed=7))
    assert set(PRESETS) <= set(found)
    assert all(config.seed == 7 for config in found.values())
    sides = [config.image_size[0] for config in found.values()]
    assert sides == sorted(sides)
    assert found["balanced"] == Config(seed=7)


def test_a_network_of_ones_own_stays():
    assert {c.backbone for c in candidates(Config(backbone="resnet18")).values()} == {"resnet18"}


def test_candidates_without_weights_are_named_and_the_others_tried(folder):
    """Unless none is left: then the error says how to get them."""

    def fit(paths, config, runtime):
        if config.backbone == "efficientnet_lite1":
            raise WeightsNotFoundError("run: pip install x")
        return Detector(paths, config)

    among = {"a": Config(image_size=128), "b": Config(backbone="efficientnet_lite1")}
    report = tune(read_dataset(folder), Config(), Runtime(), 5000, among=among, fit=fit)
    assert [trial.name for trial in report.trials] == ["a"]
    assert report.to_dict()["missing"] == {"b": "run: pip install x"}
    with pytest.raises(WeightsNotFoundError, match="pip install x"):
        tune(read_dataset(folder), Config(), Runtime(), 5000, among={"b": among["b"]}, fit=fit)


@given(
    st.lists(st.tuples(st.floats(1, 100), st.floats(0.5, 1), st.floats(0, 0.1), st.booleans()), min_size=1, max_size=8)
)
def test_the_choice_is_the_cheapest_of_the_good_ones(values):
    trials = [Trial(str(n), Config(), *value) for n, value in enumerate(values)]
    chosen = choose(trials)
    allowed = [trial for trial in trials if trial.within_budget]
    if not allowed:
        assert chosen.ms == min(trial.ms for trial in trials)
        return
    best = max(allowed, key=lambda trial: trial.image_auroc)
    assert chosen.within_budget
    assert chosen.image_auroc >= best.image_auroc - best.standard_error
    assert not any(t.ms < chosen.ms and t.image_auroc >= best.image_auroc - best.standard_error for t in allowed)


def test_standard_error_closed_form_and_simulation(rng):
    assert standard_error(1.0, 10, 20) == 0
    assert standard_error(0.5, 1, 1) == pytest.approx(0.5)  # one pair: a coin
    shift, n, m = 1.0, 30, 40
    bad, good = rng.normal(shift, 1, (2000, n, 1)), rng.normal(0, 1, (2000, 1, m))
    areas = (bad > good).mean(axis=(1, 2))
    assert standard_error(float(areas.mean()), n, m) == pytest.approx(areas.std(), rel=0.15)


def test_presets_are_changes_of_the_defaults():
    assert Config.preset("balanced") == Config()
    for name, changes in PRESETS.items():
        assert Config.preset(name) == dataclasses.replace(Config(), **changes)
    assert Config.preset("fast", image_size=128).image_size == (128,)


# --- no choice within the noise ---


def trial(name, ms, scores, n_good, within=True):
    good, bad = np.array(scores[:n_good]), np.array(scores[n_good:])
    area = float((bad[:, None] > good).mean())
    return Trial(name, Config(), ms, area, standard_error(area, len(bad), n_good), within, tuple(scores))


def test_one_image_makes_no_difference_even_if_the_best_is_perfect():
    """At an AUROC of 1 the own standard error is 0: any other candidate seemed worse, by one odd image."""
    perfect = trial("large", 40, [*range(20), *range(20, 60)], 20)
    nearly = trial("balanced", 20, [*range(19), 30.5, *range(20, 60)], 20)
    blind = trial("small", 5, [k % 7 for k in range(60)], 20)
    assert perfect.image_auroc == 1 > nearly.image_auroc
    assert perfect.standard_error == 0
    trials = [blind, nearly, perfect]
    assert [each.name for each in tied(trials, 20)] == ["balanced", "large"]
    assert choose(trials, 20).name == "balanced"  # the cheaper one
    assert choose(trials, 20, "large").name == "large"  # what was given stays
    assert choose(trials, 20, "small").name == "balanced"  # unless it is worse


def test_the_error_of_a_difference_is_that_of_a_simulation(rng):
    n, m = 30, 40

    def drawn():
        good, bad = rng.normal(0, 1, m), rng.normal(1, 1, n)
        return [np.concatenate([good + rng.normal(0, 0.5, m), bad + rng.normal(0, 0.5, n)]) for _ in range(2)]

    def area(scores):
        return (scores[m:, None] > scores[:m]).mean()

    pairs = [drawn() for _ in range(400)]
    spread = np.std([area(a) - area(b) for a, b in pairs])
    assert np.mean([difference_error(a, b, m) for a, b in pairs]) == pytest.approx(spread, rel=0.15)
    alarms = np.mean([abs(area(a) - area(b)) > NOISE * difference_error(a, b, m) for a, b in pairs])
    assert alarms < 0.09  # 5 %, over these 400
    assert difference_error(pairs[0][0], pairs[0][0], m) == 0
    assert difference_error([0, 0, 1], [0, 1, 0], 2) == math.inf  # one defect tells nothing about others


def test_a_tune_says_what_it_cannot_tell_apart(folder):
    among = {"small": Config(image_size=128), "given": Config()}
    report = tune(
        read_dataset(folder),
        Config(),
        Runtime(),
        500,
        among=among,
        fit=lambda paths, config, _: Detector(paths, config),
    )
    assert set(report.tied) == {"small", "given"}  # both score alike
    assert report.chosen.name == report.default == "given"
    assert report.to_dict()["tied"] == list(report.tied)
    text = _table(report)
    assert text[-1] == "* chosen: given"
    assert "cannot tell them apart (95 %); the options that were given stay" in text[-2]
