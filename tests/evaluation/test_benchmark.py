"""The benchmark over categories: what is fitted on, what is reported, and that one bad category loses only itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_model import Failure, FakeModel

from patchbank.config import Config, Runtime
from patchbank.errors import BackboneError, DatasetError
from patchbank.evaluation.benchmark import benchmark
from patchbank.evaluation.evaluate import KEYS
from patchbank.util.progress import Progress

GOOD = {"good/0.png": 0.5, "good/1.png": 0.6, "dent/0.png": 3.0, "dent/1.png": 2.0, "scratch/0.png": 1.4}
POOR = GOOD | {"scratch/0.png": 0.1}


class Fitter:
    """Stands in for PatchCore.fit; one set of scores a category, in order."""

    def __init__(self, *scores: dict[str, float]) -> None:
        self.scores = list(scores)
        self.calls: list[tuple[list[str], Config, Runtime]] = []

    def __call__(self, paths: Sequence[Path], config: Config, runtime: Runtime, progress: Progress) -> FakeModel:
        progress("embed", 0, len(paths))
        self.calls.append(([path.name for path in paths], config, runtime))
        return FakeModel(self.scores.pop(0))


@pytest.fixture
def root(category: Path) -> Path:
    shutil.copytree(category, category.parent / "tile")
    return category.parent


def test_every_category_is_fitted_on_its_good_images_and_evaluated(root: Path) -> None:
    fit, config, runtime = Fitter(GOOD, POOR), Config(seed=3), Runtime(threads=1)
    report = benchmark(root, config, runtime, fit=fit)
    assert fit.calls == [(["0.png", "1.png", "2.png"], config, runtime)] * 2
    assert [(c.name, c.n_train, c.bank_size) for c in report.categories] == [("part", 3, 3), ("tile", 3, 3)]
    assert [c.evaluation.image_auroc for c in report.categories] == [1.0, pytest.approx(4 / 6)]
    assert report.means["image_auroc"] == pytest.approx((1 + 4 / 6) / 2)
    assert report.means["miss_rate"] == pytest.approx(1 / 6)
    assert report.failed == {}


def test_the_table_and_the_json(root: Path) -> None:
    report = benchmark(root, fit=Fitter(GOOD, POOR))
    values = report.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert list(values["categories"]["part"]) == ["n_train", "fit_seconds", "bank_size", *KEYS, "verdicts"]
    rows = report.rows()
    assert [row["category"] for row in rows] == ["part", "tile", "mean"]
    assert len({tuple(row) for row in rows}) == 1
    assert rows[-1]["n_test"] is None  # no mean of counts
    assert rows[-1]["aupro"] == values["mean"]["aupro"] is not None


def test_a_mean_leaves_out_what_was_not_measured(root: Path) -> None:
    shutil.rmtree(root / "tile" / "ground_truth")
    report = benchmark(root, fit=Fitter(GOOD, GOOD))
    assert report.categories[1].evaluation.aupro is None
    assert report.means["aupro"] == report.categories[0].evaluation.aupro


def test_a_category_with_bad_data_is_named_and_the_others_go_on(root: Path) -> None:
    (root / "part" / "ground_truth/dent/0_mask.png").unlink()
    report = benchmark(root, fit=Fitter(GOOD))
    assert [c.name for c in report.categories] == ["tile"]
    assert "dent/0.png" in report.failed["part"]
    (root / "tile" / "ground_truth/dent/0_mask.png").unlink()
    with pytest.raises(DatasetError, match="none of its categories can be used"):
        benchmark(root, fit=Fitter())


def test_a_fault_that_is_not_the_datas_stops_the_benchmark(root: Path) -> None:
    """A missing network would fail every category after minutes; it must be said at once."""

    def fit(*_: object) -> FakeModel:
        raise BackboneError("no network")

    with pytest.raises(BackboneError):
        benchmark(root, fit=fit)


def test_unreadable_training_images_are_counted_and_named(root: Path) -> None:
    def fit(*_: object) -> FakeModel:
        return FakeModel(GOOD, skipped=(Failure("train/good/1.png: is empty"),))

    category = benchmark(root / "part", fit=fit).categories[0]
    assert (category.n_train, category.skipped) == (2, ("train/good/1.png: is empty",))


def test_progress_names_the_category(root: Path) -> None:
    stages: list[str] = []
    benchmark(root / "part", progress=lambda stage, done, total: stages.append(stage), fit=Fitter(GOOD))
    assert list(dict.fromkeys(stages)) == ["part: embed", "part: evaluate"]
