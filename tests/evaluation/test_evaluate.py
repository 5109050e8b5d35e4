"""Evaluation of a model whose scores are known: every figure by hand, and nothing lost or counted wrongly."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_model import FakeModel, write_mask

from parts import striped
from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.errors import DatasetError
from patchbank.evaluation.datasets import read_dataset
from patchbank.evaluation.evaluate import TIMED, evaluate, read_mask
from patchbank.imaging.images import write_png

SCORES = {"good/0.png": 0.5, "good/1.png": 1.5, "dent/0.png": 3.0, "dent/1.png": 2.0, "scratch/0.png": 1.0}
KEYS = [
    "image_auroc",
    "image_ap",
    "image_f1",
    "pixel_auroc",
    "pixel_ap",
    "aupro",
    "n_test",
    "ms_per_image",
    "threshold",
    "false_alarm_rate",
    "miss_rate",
    "n_unreadable",
    "verdicts",
]


def test_every_figure_by_hand(category: Path) -> None:
    """Falling: dents at 3 and 2, a good one at 1.5, the scratch at 1, a good one at 0.5; the threshold is 1."""
    evaluation = evaluate(FakeModel(SCORES), read_dataset(category))
    values = evaluation.to_dict()
    assert list(values) == KEYS
    assert values["image_auroc"] == pytest.approx(5 / 6)
    assert values["image_ap"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert values["image_f1"] == pytest.approx(2 * 3 / (4 + 3))
    assert (values["n_test"], values["threshold"]) == (5, 1.0)
    assert values["false_alarm_rate"] == pytest.approx(1 / 2)
    assert values["miss_rate"] == pytest.approx(1 / 3)  # a score equal to the threshold is not over it
    # 36 anomalous pixels; of 564 normal ones, 12 score 1.5 (the good image's patch) and the others 0.5.
    assert values["pixel_auroc"] == pytest.approx((24 * 564 + 12 * 552) / (36 * 564))
    assert values["pixel_ap"] == pytest.approx((24 * 1 + 12 * 36 / 48) / 36)
    assert values["aupro"] == pytest.approx((2 / 3 * 12 / 564 + (0.3 - 12 / 564)) / 0.3)
    assert values["ms_per_image"] > 0
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_kinds_and_rows(category: Path) -> None:
    evaluation = evaluate(FakeModel(SCORES), read_dataset(category))
    assert {kind: (k.n, k.image_auroc, k.recall) for kind, k in evaluation.kinds.items()} == {
        "dent": (2, 1.0, 1.0),
        "scratch": (1, 0.5, 0.0),
    }
    rows = [(row.path.name, row.kind, row.defective, row.score, row.is_anomalous) for row in evaluation.rows]
    assert rows[0] == ("0.png", "dent", True, 3.0, True)
    assert rows[2] == ("0.png", "good", False, 0.5, False)
    assert evaluation.pixel is not None
    assert evaluation.pixel.n_regions == 3


def test_without_masks_there_are_no_pixel_metrics(category: Path) -> None:
    dataset = read_dataset(category)
    blind = replace(dataset, test=tuple(replace(sample, mask=None) for sample in dataset.test))
    values = evaluate(FakeModel(SCORES), blind).to_dict()
    assert (values["pixel_auroc"], values["pixel_ap"], values["aupro"]) == (None, None, None)
    assert values["image_auroc"] == pytest.approx(5 / 6)


def test_without_a_threshold_there_are_no_error_rates(category: Path) -> None:
    values = evaluate(FakeModel(SCORES, threshold=None), read_dataset(category)).to_dict()
    assert (values["threshold"], values["false_alarm_rate"], values["miss_rate"]) == (None, None, None)


def test_one_class_only(category: Path) -> None:
    dataset = read_dataset(category)
    good = replace(dataset, test=tuple(sample for sample in dataset.test if not sample.defective))
    values = evaluate(FakeModel(SCORES), good).to_dict()
    assert (values["image_auroc"], values["image_ap"], values["image_f1"], values["miss_rate"]) == (None,) * 4
    assert values["false_alarm_rate"] == 0.5


def test_unreadable_images_are_left_out_and_named(category: Path) -> None:
    scores = {name: score for name, score in SCORES.items() if name != "dent/1.png"}
    evaluation = evaluate(FakeModel(scores), read_dataset(category))
    assert evaluation.n_test == len(evaluation.rows) == 4
    assert evaluation.to_dict()["n_unreadable"] == 1
    assert [(s.path.name, "is damaged" in s.reason) for s in evaluation.skipped] == [("1.png", True)]
    assert evaluation.kinds["dent"].n == 1


def test_nothing_readable_and_nothing_to_test_are_errors(category: Path) -> None:
    dataset = read_dataset(category)
    with pytest.raises(DatasetError, match=r"none of 5 test images can be read: .* is damaged"):
        evaluate(FakeModel({}), dataset)
    with pytest.raises(DatasetError, match="expected test images"):
        evaluate(FakeModel(SCORES), replace(dataset, test=()))


def test_a_black_mask_of_a_defective_image_is_named(category: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its pixels count as normal, which must not go unnoticed; a white one is an error."""
    write_mask(category / "ground_truth/scratch/0_mask.png", value=0)
    evaluate(FakeModel(SCORES), read_dataset(category))
    assert re.search(r"1 mask of a defective image is all black.*scratch/0_mask\.png", caplog.text)
    (category / "ground_truth/scratch/0_mask.png").write_bytes(
        (category / "ground_truth/dent/0_mask.png").read_bytes()[:-1]
    )
    with pytest.raises(DatasetError, match=r"expected a mask that can be read"):
        evaluate(FakeModel(SCORES), read_dataset(category))


def test_a_mask_of_another_size_names_both_files(category: Path) -> None:
    write_mask(category / "ground_truth/scratch/0_mask.png", size=(10, 12))
    with pytest.raises(DatasetError, match=re.compile(r"scratch/0_mask\.png.*10x12.*test/scratch/0\.png.*got 12x10")):
        evaluate(FakeModel(SCORES), read_dataset(category))


def test_a_damaged_mask_is_an_error_not_a_skipped_image(category: Path) -> None:
    (category / "ground_truth/dent/0_mask.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"expected a mask that can be read, but .*0_mask\.png"):
        evaluate(FakeModel(SCORES), read_dataset(category))


@pytest.mark.parametrize("value", [1, 128, 255])
def test_a_mask_is_whatever_is_not_zero(tmp_path: Path, value: int) -> None:
    write_mask(tmp_path / "m.png", value=value)
    mask = read_mask(tmp_path / "m.png")
    assert mask.dtype == np.bool_
    assert mask.sum() == 12
    assert mask[2:5, 3:7].all()


def test_the_ringing_of_a_jpeg_mask_is_not_a_defect(tmp_path: Path) -> None:
    """JPEG leaves faint values around every edge; over 0 they would grow each defect."""
    import cv2

    image = np.zeros((64, 64), np.uint8)
    image[20:40, 20:40] = 255
    assert cv2.imwrite(str(tmp_path / "m.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 60])
    assert (read_mask(tmp_path / "m.jpg") == (image > 0)).mean() > 0.99


def test_each_image_is_shown_and_progress_ends(category: Path) -> None:
    shown, steps = [], []
    evaluate(
        FakeModel(SCORES),
        read_dataset(category),
        lambda *step: steps.append(step),
        each=lambda sample, result: shown.append((sample.kind, result.score)),
    )
    assert shown == [("dent", 3.0), ("dent", 2.0), ("good", 0.5), ("good", 1.5), ("scratch", 1.0)]
    assert (steps[0], steps[-1]) == (("evaluate", 0, 5), ("evaluate", 5, 5))


def test_the_documentation_defines_every_key_in_order_and_the_limits() -> None:
    """docs/reference/metrics.md is what readers of the figures rely on."""
    from patchbank.evaluation import metrics

    text = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == KEYS
    for limit in (metrics.EXACT_NORMAL, metrics.EXACT_ANOMALOUS):
        assert f"{limit:,}".replace(",", " ") in text
    assert f"rate of {metrics.FPR_LIMIT}" in text


def test_a_patchcores_images_are_inspected_two_at_a_time_after_those_that_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the later ones waits until another is inspected beside it. Rows come in order, and nothing is lost."""
    rng = np.random.default_rng(0)
    for folder, count in (("train/good", 4), ("test/good", TIMED + 3), ("test/hole", 3)):
        for number in range(count):
            write_png(tmp_path / folder / f"{number:02d}.png", striped(rng, defect=folder == "test/hole"))
    (tmp_path / "test/good/05.png").write_bytes(b"no image")
    dataset = read_dataset(tmp_path)
    model = PatchCore.fit(dataset.train_paths, Config(image_size=64, coreset_size=40), backbone=FakeBackbone())
    alone, both, real = [], threading.Barrier(2), PatchCore.predict

    def watched(self: PatchCore, path: Path) -> Any:
        if path in [sample.path for sample in dataset.test[TIMED:]]:
            both.wait(timeout=60)
        else:
            alone.append(path)
        return real(self, path)

    monkeypatch.setattr(PatchCore, "predict", watched)
    evaluation = evaluate(model, dataset)
    assert alone == [sample.path for sample in dataset.test[:TIMED]]
    assert [row.path for row in evaluation.rows] == [s.path for s in dataset.test if s.path.name != "05.png"]
    assert [skipped.path for skipped in evaluation.skipped] == [tmp_path / "test/good/05.png"]
    monkeypatch.undo()
    assert [row.score for row in evaluation.rows] == [model.predict(row.path).score for row in evaluation.rows]
