"""patchbank: PatchCore visual inspection on an ordinary CPU, without PyTorch.

from patchbank import Config, PatchCore

model = PatchCore.fit(list_of_good_images)
result = model.predict("new.png")
result.score, result.is_anomalous, result.regions
model.save("part.patchbank")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from patchbank.config import Config, Runtime
from patchbank.errors import (
    BackboneError,
    Busy,
    CameraError,
    CheckpointError,
    ConfigError,
    DatasetError,
    ImageError,
    MissingExtraError,
    ModelFileError,
    OutputError,
    PatchbankError,
    SelfTestError,
    StoreBusyError,
    StoreConflictError,
    StoreError,
    StoreFullError,
    StoreNotFoundError,
    StoreUnavailableError,
    StoreValueError,
    WeightsNotFoundError,
)
from patchbank.version import __version__ as __version__

if TYPE_CHECKING:
    from patchbank.backbones import Backbone, load_backbone
    from patchbank.bank.memory_bank import MemoryBank
    from patchbank.calibration.image_check import ImageCheck, Measurement
    from patchbank.calibration.outliers import SuspectedOutlier
    from patchbank.calibration.thresholds import Calibration
    from patchbank.evaluation.benchmark import benchmark
    from patchbank.evaluation.datasets import Dataset, find_images, read_dataset
    from patchbank.evaluation.evaluate import Evaluation, evaluate
    from patchbank.evaluation.metrics import (
        PixelMetrics,
        PixelResult,
        aupro,
        auroc,
        average_precision,
        best_f1,
        pixel_auroc,
        pixel_average_precision,
        pixel_metrics,
    )
    from patchbank.export.coco import export_coco
    from patchbank.export.folder import Exported, export_onnx
    from patchbank.export.labelme import export_labelme
    from patchbank.fitted.versions import Version
    from patchbank.imaging.images import Skipped
    from patchbank.imaging.sources import Named
    from patchbank.inspection.explain import Explanation
    from patchbank.inspection.inspector import Inspector
    from patchbank.model import PatchCore
    from patchbank.monitoring.audit import Audit, audit_images, audit_model
    from patchbank.monitoring.drift import Drift, Shift, find_drift
    from patchbank.monitoring.drift_monitor import DriftMonitor
    from patchbank.results.audit import AuditedImage, Outlier
    from patchbank.results.explanation import Finding, NormalPatch
    from patchbank.results.heat import anomaly_map, heat_picture
    from patchbank.results.result import MadeBy, Result
    from patchbank.results.self_test import SelfTest, SelfTestScore
    from patchbank.results.tables import to_frame
    from patchbank.results.verdict import Verdict
    from patchbank.scoring.regions import Region
    from patchbank.update.compare import Diff

# Imported when first used, so that `import patchbank` and `patchbank --help` cost nothing.
_LAZY = {
    "Audit": "patchbank.monitoring.audit",
    "AuditedImage": "patchbank.results.audit",
    "Backbone": "patchbank.backbones",
    "Calibration": "patchbank.calibration.thresholds",
    "Dataset": "patchbank.evaluation.datasets",
    "Diff": "patchbank.update.compare",
    "Drift": "patchbank.monitoring.drift",
    "DriftMonitor": "patchbank.monitoring.drift_monitor",
    "Evaluation": "patchbank.evaluation.evaluate",
    "Exported": "patchbank.export.folder",
    "Explanation": "patchbank.inspection.explain",
    "Inspector": "patchbank.inspection.inspector",
    "Finding": "patchbank.results.explanation",
    "MadeBy": "patchbank.results.result",
    "Measurement": "patchbank.calibration.image_check",
    "MemoryBank": "patchbank.bank.memory_bank",
    "Named": "patchbank.imaging.sources",
    "NormalPatch": "patchbank.results.explanation",
    "Outlier": "patchbank.results.audit",
    "PatchCore": "patchbank.model",
    "PixelMetrics": "patchbank.evaluation.metrics",
    "PixelResult": "patchbank.evaluation.metrics",
    "Region": "patchbank.scoring.regions",
    "Result": "patchbank.results.result",
    "ImageCheck": "patchbank.calibration.image_check",
    "SelfTest": "patchbank.results.self_test",
    "SelfTestScore": "patchbank.results.self_test",
    "Shift": "patchbank.monitoring.drift",
    "Skipped": "patchbank.imaging.images",
    "SuspectedOutlier": "patchbank.calibration.outliers",
    "Verdict": "patchbank.results.verdict",
    "Version": "patchbank.fitted.versions",
    "anomaly_map": "patchbank.results.heat",
    "heat_picture": "patchbank.results.heat",
    "audit_images": "patchbank.monitoring.audit",
    "audit_model": "patchbank.monitoring.audit",
    "aupro": "patchbank.evaluation.metrics",
    "auroc": "patchbank.evaluation.metrics",
    "average_precision": "patchbank.evaluation.metrics",
    "benchmark": "patchbank.evaluation.benchmark",
    "best_f1": "patchbank.evaluation.metrics",
    "evaluate": "patchbank.evaluation.evaluate",
    "export_coco": "patchbank.export.coco",
    "export_labelme": "patchbank.export.labelme",
    "export_onnx": "patchbank.export.folder",
    "find_drift": "patchbank.monitoring.drift",
    "find_images": "patchbank.evaluation.datasets",
    "load_backbone": "patchbank.backbones",
    "pixel_auroc": "patchbank.evaluation.metrics",
    "pixel_average_precision": "patchbank.evaluation.metrics",
    "pixel_metrics": "patchbank.evaluation.metrics",
    "read_dataset": "patchbank.evaluation.datasets",
    "to_frame": "patchbank.results.tables",
}

__all__ = [
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


# Former names, for one more version: each is the class that has a new name.
_FORMER = {"Oddity": "Outlier", "Scene": "ImageCheck", "Suspect": "SuspectedOutlier"}


def __getattr__(name: str) -> Any:
    if name in _FORMER:
        return __getattr__(_FORMER[name])
    if name not in _LAZY:
        raise AttributeError(f"module 'patchbank' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
