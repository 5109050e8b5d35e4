"""The public surface, pinned: a name or a signature that changes here changes for everybody who uses patchbank."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import patchbank

NAMES = [
    "Audit",
    "AuditedImage",
    "Backbone",
    "BackboneError",
    "Busy",
    "Calibration",
    "CameraError",
    "CheckpointError",
    "Config",
    "ConfigError",
    "Dataset",
    "DatasetError",
    "Diff",
    "Drift",
    "DriftMonitor",
    "Evaluation",
    "Explanation",
    "Exported",
    "Finding",
    "ImageCheck",
    "ImageError",
    "Inspector",
    "MadeBy",
    "Measurement",
    "MemoryBank",
    "MissingExtraError",
    "ModelFileError",
    "Named",
    "NormalPatch",
    "Oddity",
    "Outlier",
    "OutputError",
    "PatchCore",
    "PatchbankError",
    "PixelMetrics",
    "PixelResult",
    "Region",
    "Result",
    "Runtime",
    "Scene",
    "SelfTest",
    "SelfTestError",
    "SelfTestScore",
    "Shift",
    "Skipped",
    "StoreBusyError",
    "StoreConflictError",
    "StoreError",
    "StoreFullError",
    "StoreNotFoundError",
    "StoreUnavailableError",
    "StoreValueError",
    "Suspect",
    "SuspectedOutlier",
    "Verdict",
    "Version",
    "WeightsNotFoundError",
    "anomaly_map",
    "audit_images",
    "audit_model",
    "aupro",
    "auroc",
    "average_precision",
    "benchmark",
    "best_f1",
    "evaluate",
    "export_coco",
    "export_labelme",
    "export_onnx",
    "find_drift",
    "find_images",
    "heat_picture",
    "load_backbone",
    "pixel_auroc",
    "pixel_average_precision",
    "pixel_metrics",
    "read_dataset",
    "to_frame",
]


def parameters(function) -> str:
    """Names, with defaults marked by =, keyword-only ones after *."""
    words, star = [], False
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not star:
            words.append("*")
            star = True
        words.append(p.name + ("" if p.default is p.empty else "="))
    return " ".join(words)


def test_public_names():
    assert patchbank.__all__ == NAMES
    assert set(NAMES) <= set(dir(patchbank))
    for name in set(NAMES) - {"Oddity", "Scene", "Suspect"}:  # former names
        assert getattr(patchbank, name).__name__ == name


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'Patchcore'"):
        _ = patchbank.Patchcore


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PatchCore.fit", "images config= * runtime= backbone= skip_unreadable= checkpoint= progress="),
        ("PatchCore.predict", "self images"),
        ("PatchCore.explain", "self result * regions= neighbours= colours="),
        (
            "PatchCore.update",
            "self add= remove= * images= random_sample= recalibrate= note= author= time= skip_unreadable= progress= "
            "representative= certify=",
        ),
        ("PatchCore.rollback", "self to= * note= author= time="),
        ("PatchCore.diff", "self before= after="),
        ("PatchCore.at", "self version"),
        ("PatchCore.save", "self path"),
        ("PatchCore.load", "path * runtime= trusted= self_test="),
        ("PatchCore.run_self_test", "self"),
        ("PatchCore.inspector", "self * workers= queue="),
        ("Inspector.submit", "self image * timeout="),
        ("Inspector.drain", "self timeout="),
        ("Inspector.close", "self * cancel="),
        ("Result.explain", "self * regions= neighbours= colours="),
        ("Explanation.save", "self path * model="),
        ("evaluate", "model dataset progress= * each="),
        ("benchmark", "root config= runtime= progress= * fit="),
        ("find_drift", "scores calibration * in_scene= scene= confidence= defects= reference="),
        ("DriftMonitor", "calibration * scene= confidence= defects= reference="),
        ("DriftMonitor.add", "self score in_distribution="),
        ("DriftMonitor.from_dict", "values calibration * scene="),
        ("find_images", "paths"),
        ("read_dataset", "path"),
        ("audit_images", "images config= * runtime= backbone= progress="),
        ("audit_model", "model"),
        ("to_frame", "results"),
        ("anomaly_map", "grid * image_size input_size smoothing_sigma counted= roi="),
        ("heat_picture", "grid * image_size input_size smoothing_sigma threshold image= counted= roi= colours="),
        ("export_coco", "results path * category="),
        ("export_labelme", "results folder * label="),
        ("export_onnx", "model folder * input_size= bank_size= training_images= images= ort_web= title= progress="),
        ("auroc", "scores labels"),
        ("average_precision", "scores labels"),
        ("best_f1", "scores labels"),
        ("pixel_auroc", "anomaly_maps masks"),
        ("pixel_average_precision", "anomaly_maps masks"),
        ("aupro", "anomaly_maps masks"),
        ("pixel_metrics", "anomaly_maps masks"),
        ("Named", "name image"),
        ("Evaluation.to_frame", "self"),
        ("load_backbone", "name_or_path layers= runtime="),
        ("Config.from_dict", "values"),
        ("Config.from_toml", "path"),
    ],
)
def test_signatures(name, expected):
    owner, _, method = name.partition(".")
    value = getattr(patchbank, owner)
    assert parameters(getattr(value, method) if method else value) == expected


def test_results_are_frozen():
    for name in (
        "PatchCore",
        "MemoryBank",
        "Measurement",
        "Drift",
        "ImageCheck",
        "Shift",
        "SuspectedOutlier",
        "Audit",
        "AuditedImage",
        "Outlier",
        "Calibration",
        "Diff",
        "Version",
        "Result",
        "SelfTest",
        "SelfTestScore",
        "Region",
        "Explanation",
        "Finding",
        "NormalPatch",
        "Dataset",
        "Evaluation",
        "Exported",
        "Config",
        "Runtime",
    ):
        assert dataclasses.fields(getattr(patchbank, name))
        assert getattr(patchbank, name).__dataclass_params__.frozen, name


def test_every_error_is_one_of_ours_and_of_the_kind_that_python_expects():
    for name in NAMES:
        if name.endswith("Error"):
            assert issubclass(getattr(patchbank, name), patchbank.PatchbankError)
    assert issubclass(patchbank.ConfigError, ValueError)
    assert issubclass(patchbank.OutputError, OSError)
    assert issubclass(patchbank.MissingExtraError, ImportError)


def test_former_names_are_the_same_things():
    """They stay for one more version."""
    assert patchbank.Scene is patchbank.ImageCheck
    assert patchbank.Oddity is patchbank.Outlier
    assert patchbank.Suspect is patchbank.SuspectedOutlier
