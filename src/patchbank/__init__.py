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
    CheckpointError,
    ConfigError,
    DatasetError,
    ImageError,
    MissingExtraError,
    ModelFileError,
    OutputError,
    PatchbankError,
    WeightsNotFoundError,
)
from patchbank.version import __version__ as __version__

if TYPE_CHECKING:
    from patchbank.auditing import Audit, audit_images, audit_model
    from patchbank.backbones import Backbone, load_backbone
    from patchbank.bank import MemoryBank
    from patchbank.calibration import Calibration
    from patchbank.compare import Diff
    from patchbank.drift import Drift, Shift, find_drift
    from patchbank.evaluation.benchmark import benchmark
    from patchbank.evaluation.datasets import Dataset, find_images, read_dataset
    from patchbank.evaluation.evaluate import Evaluation, evaluate
    from patchbank.explain import Explanation
    from patchbank.life import Version
    from patchbank.maps import Region
    from patchbank.model import PatchCore
    from patchbank.result import Result
    from patchbank.results.audit import AuditedImage, Oddity
    from patchbank.results.explanation import Finding, NormalPatch
    from patchbank.scene import Measurement, Scene
    from patchbank.screening import Suspect

# Imported when first used, so that `import patchbank` and `patchbank --help` cost nothing.
_LAZY = {
    "Audit": "patchbank.auditing",
    "AuditedImage": "patchbank.results.audit",
    "Backbone": "patchbank.backbones",
    "Calibration": "patchbank.calibration",
    "Dataset": "patchbank.evaluation.datasets",
    "Drift": "patchbank.drift",
    "Diff": "patchbank.compare",
    "Evaluation": "patchbank.evaluation.evaluate",
    "Explanation": "patchbank.explain",
    "Finding": "patchbank.results.explanation",
    "Measurement": "patchbank.scene",
    "MemoryBank": "patchbank.bank",
    "NormalPatch": "patchbank.results.explanation",
    "Oddity": "patchbank.results.audit",
    "PatchCore": "patchbank.model",
    "Region": "patchbank.maps",
    "Result": "patchbank.result",
    "Scene": "patchbank.scene",
    "Shift": "patchbank.drift",
    "Suspect": "patchbank.screening",
    "Version": "patchbank.life",
    "audit_images": "patchbank.auditing",
    "audit_model": "patchbank.auditing",
    "benchmark": "patchbank.evaluation.benchmark",
    "evaluate": "patchbank.evaluation.evaluate",
    "find_drift": "patchbank.drift",
    "find_images": "patchbank.evaluation.datasets",
    "load_backbone": "patchbank.backbones",
    "read_dataset": "patchbank.evaluation.datasets",
}

__all__ = [
    "Audit",
    "AuditedImage",
    "Backbone",
    "BackboneError",
    "Calibration",
    "CheckpointError",
    "Config",
    "ConfigError",
    "Dataset",
    "DatasetError",
    "Diff",
    "Drift",
    "Evaluation",
    "Explanation",
    "Finding",
    "ImageError",
    "Measurement",
    "MemoryBank",
    "MissingExtraError",
    "ModelFileError",
    "NormalPatch",
    "Oddity",
    "OutputError",
    "PatchCore",
    "PatchbankError",
    "Region",
    "Result",
    "Runtime",
    "Scene",
    "Shift",
    "Suspect",
    "Version",
    "WeightsNotFoundError",
    "audit_images",
    "audit_model",
    "benchmark",
    "evaluate",
    "find_drift",
    "find_images",
    "load_backbone",
    "read_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'patchbank' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
