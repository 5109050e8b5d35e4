"""Results as a table, and the metrics that everybody may call."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import patchbank
from parts import striped
from patchbank import Config, MissingExtraError, Named, PatchCore, Runtime, evaluate, read_dataset, to_frame
from patchbank.backbones.fake import FakeBackbone
from patchbank.imaging.images import write_png

SMALL = Config(image_size=64, coreset_ratio=0.3, max_false_alarms=0.2, confidence=0)


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    return PatchCore.fit([striped(rng) for _ in range(8)], SMALL, backbone=FakeBackbone())


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(5)
    return [Named("good", striped(rng)), Named("bad", striped(rng, defect=True)), Named("broken", b"x")]


def test_a_frame_has_one_row_an_image(model, images):
    pytest.importorskip("pandas")
    results = list(model.predict_each(images))
    frame = to_frame(iter(results))
    assert list(frame["path"]) == ["good", "bad", "broken"]
    assert set(results[0].to_dict()) | {"error"} == set(frame.columns)
    for row, result in zip(frame[:2].itertuples(), results[:2], strict=True):
        assert (row.score, row.threshold, row.p_value) == (result.score, result.threshold, result.p_value)
        assert (row.is_anomalous, row.in_scene) == (result.is_anomalous, result.in_scene)
        assert row.regions == len(result.regions)
        assert row.scene == "; ".join(result.scene_reasons)
        assert row.model == result.made_by.sha256
        assert row.error == ""
    broken = frame.iloc[2]
    assert broken["error"].startswith("broken: ")
    assert broken[["score", "is_anomalous", "regions", "in_scene"]].isna().all()
    assert str(frame["score"].dtype) == "float64"
    assert str(frame["is_anomalous"].dtype) == "boolean"
    assert frame["is_anomalous"].sum() == sum(result.is_anomalous for result in results[:2])


def test_frames_without_a_result_or_a_threshold(images):
    pytest.importorskip("pandas")
    assert list(to_frame([]).columns) == ["path", "score", "threshold", "is_anomalous", "error"]
    rng = np.random.default_rng(0)
    bare = Config(image_size=64, coreset_ratio=0.3, calibration="none", scene_false_alarms=0)
    model = PatchCore.fit([striped(rng) for _ in range(3)], bare, backbone=FakeBackbone())
    assert (model.threshold, model.pixel_threshold) == (None, None)
    frame = to_frame(model.predict(images[:2]))
    assert frame[["threshold", "p_value", "is_anomalous", "in_scene"]].isna().all(axis=None)


def test_the_thresholds_are_those_of_the_results(model, images):
    result = model.predict(images[0])
    assert (model.threshold, model.pixel_threshold) == (result.threshold, result.pixel_threshold)
    assert model.threshold == model.calibration.threshold


def test_an_evaluation_is_a_frame(model, tmp_path):
    pytest.importorskip("pandas")
    rng = np.random.default_rng(6)
    for name, defect in (("good/a", False), ("good/b", False), ("scratch/a", True)):
        write_png(tmp_path / f"test/{name}.png", striped(rng, defect=defect))
    evaluation = evaluate(model, read_dataset(tmp_path))
    frame = evaluation.to_frame()
    assert list(frame.columns)[:5] == ["path", "kind", "defective", "score", "is_anomalous"]
    for row, ours in zip(frame.itertuples(), evaluation.rows, strict=True):
        assert (row.path, row.kind, row.defective, row.score) == (str(ours.path), ours.kind, ours.defective, ours.score)
        assert row.is_anomalous == ours.is_anomalous


def test_without_pandas_the_error_says_what_to_install(model, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'patchbank\[frame\]'"):
        to_frame(model.predict(images[:1]))


def test_nothing_else_imports_pandas():
    code = "import sys, patchbank; patchbank.to_frame, patchbank.Evaluation; assert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- metrics ---


def test_metrics_of_images():
    scores, labels = [0.1, 0.4, 0.35, 0.8], [False, False, True, True]
    assert patchbank.auroc(scores, labels) == 0.75
    assert patchbank.average_precision(scores, labels) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert patchbank.best_f1(scores, labels) == (0.8, 0.35)


def test_metrics_of_pixels_in_closed_form():
    """Two regions of a pixel each: one is over all normal pixels, the other below all of them."""
    heat = np.arange(100, dtype=np.float64).reshape(10, 10)
    mask = np.zeros((10, 10), np.uint8)
    mask[9, 9] = mask[0, 0] = 255
    arguments = ([heat, np.zeros((5, 5))], [mask, np.zeros((5, 5), bool)])
    good = np.zeros(5 * 5 + 98)
    good[25:] = np.arange(1, 99)
    assert patchbank.pixel_auroc(*arguments) == pytest.approx(
        patchbank.auroc([99, 0, *good], [1, 1, *np.zeros(good.size)])
    )
    assert patchbank.pixel_average_precision(*arguments) == pytest.approx(
        patchbank.average_precision([99, 0, *good], [1, 1, *np.zeros(good.size)])
    )
    assert patchbank.aupro(*arguments) == pytest.approx(0.5)
    result = patchbank.pixel_metrics(map(np.asarray, arguments[0]), iter(arguments[1]))
    assert (result.auroc, result.aupro) == (patchbank.pixel_auroc(*arguments), patchbank.aupro(*arguments))
    assert (result.exact, result.n_pixels, result.n_regions) == (True, 125, 2)


def test_a_stack_of_maps_is_many_maps():
    rng = np.random.default_rng(0)
    maps, masks = rng.random((3, 8, 9)), rng.random((3, 8, 9)) > 0.8
    assert patchbank.pixel_auroc(maps, masks) == patchbank.auroc(maps.astype(np.float32).ravel(), masks.ravel())


def test_metrics_without_a_defect_are_none():
    maps, masks = [np.ones((4, 4))], [np.zeros((4, 4))]
    assert patchbank.pixel_auroc(maps, masks) is None
    assert patchbank.pixel_average_precision(maps, masks) is None
    assert patchbank.aupro(maps, masks) is None


@pytest.mark.parametrize(
    ("maps", "masks"),
    [
        ([np.ones((4, 4))], [np.ones((4, 5))]),
        ([np.ones((4, 4))], []),
        ([], [np.ones((4, 4))]),
        ([np.full((4, 4), np.nan)], [np.ones((4, 4))]),
        ([-np.ones((4, 4))], [np.ones((4, 4))]),
        ([np.ones(4)], [np.ones(4)]),
    ],
)
def test_what_does_not_belong_together_is_a_value_error(maps, masks):
    with pytest.raises(ValueError, match=r"expected|zip"):
        patchbank.pixel_auroc(maps, masks)


# --- options by their names ---


@pytest.mark.parametrize(
    ("cls", "values", "expected"),
    [
        (Config, {"imagesize": 3}, "unknown option 'imagesize'; did you mean image_size?"),
        (Config, {"false_alarm_rate": 0.1}, "it is called max_false_alarms now"),
        (Config, {"zzz": 1}, "unknown option 'zzz'; valid options: accept_damaged, backbone"),
        (Runtime, {"thread": 1}, "unknown option 'thread'; did you mean threads?"),
    ],
)
def test_an_unknown_option_is_a_config_error_everywhere(cls, values, expected):
    import dataclasses
    import re

    with pytest.raises(patchbank.ConfigError, match=re.escape(expected)):
        cls(**values)
    with pytest.raises(patchbank.ConfigError, match=re.escape(expected)):
        dataclasses.replace(cls(), **values)
    if cls is Config:
        with pytest.raises(patchbank.ConfigError, match=re.escape(expected)):
            Config.from_dict(values)


def test_help_shows_the_options():
    import inspect

    for cls in (Config, Runtime):
        about = inspect.signature(cls)
        assert list(about.parameters) == list(cls.__dataclass_fields__)
        assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in about.parameters.values())


def test_signatures_name_their_types():
    """help() is what somebody reads who has no documentation at hand."""
    import inspect

    for name in patchbank.__all__:
        value = getattr(patchbank, name)
        if not inspect.isclass(value):
            methods = {"": value}
        else:
            methods = {n: getattr(f, "__func__", f) for n, f in vars(value).items() if not n.startswith("_")}
        for method, function in methods.items():
            if not inspect.isfunction(function):
                continue
            about = inspect.signature(function)
            for p in about.parameters.values():
                where = f"{name}.{method}: {p}"
                assert p.name in ("self", "cls") or p.annotation not in (p.empty, "Any"), where
                assert p.kind not in (p.VAR_POSITIONAL,), where
            assert about.return_annotation not in (about.empty, "Any"), f"{name}.{method}"
