"""Small models for the tests of exported graphs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from parts import striped
from patchbank import Config, PatchCore
from patchbank.backbones.fake import FakeBackbone
from patchbank.export.onnx_graph import inspection_graph, plan_for
from patchbank.export.reference import GraphRunner, said

SIZE = (96, 128)


def fitted(rng, count=12, size=SIZE, backbone=None, **options) -> PatchCore:
    """A model of striped parts, with a network that takes no time."""
    config = Config(**{"image_size": (64,), "coreset_size": 40, **options})
    return PatchCore.fit([striped(rng, size=size) for _ in range(count)], config, backbone=backbone or FakeBackbone())


def pictures(rng, size=SIZE):
    """A good part, a defective one, a stain, noise, and nothing: verdicts of every kind."""
    return [
        striped(rng, size=size),
        striped(rng, defect=True, size=size),
        striped(rng, stain=True, size=size),
        rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        np.zeros((*size, 3), np.uint8),
    ]


def graph_of(model, size=SIZE):
    """A function from an image to what the model's graph says of it."""
    return GraphRunner(inspection_graph(model, plan_for(model, size), {}), model)


def assert_same(model, run, images, scores=1e-5):
    """The graph says of these images what the library says."""
    verdicts = []
    for image in images:
        got, expected = run(image), said(model.predict(image))
        assert got.score == pytest.approx(expected.score, rel=scores, abs=1e-5)
        assert got.p_value == pytest.approx(expected.p_value, rel=1e-6, nan_ok=True)
        assert got.verdict == expected.verdict
        highest = float(expected.anomaly_map.max())
        np.testing.assert_allclose(got.anomaly_map, expected.anomaly_map, rtol=1e-4, atol=1e-4 * highest + 1e-5)
        if expected.image_check is not None:
            np.testing.assert_allclose(got.image_check, expected.image_check, rtol=1e-4, atol=1e-5)
        verdicts.append(expected.verdict)
    return verdicts


def packages() -> Path:
    """The folder of npm's packages that tools/node_packages.sh has filled, or a skip that says how to."""
    folder = Path(os.environ.get("PATCHBANK_NODE", Path.home() / ".cache" / "patchbank" / "node"))
    if not (folder / "node_modules").is_dir():
        pytest.skip(
            f"no packages of npm in {folder}: run tools/node_packages.sh, or let PATCHBANK_NODE name its folder"
        )
    return folder


def node_modules(name: str, folder: Path) -> str:
    """Lets scripts in a folder import a package of npm. Returns the path of Node.js."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js")
    modules = packages() / "node_modules"
    if not (modules / name).is_dir():
        pytest.skip(f"no {name} in {modules}: run tools/node_packages.sh")
    link = folder / "node_modules"
    if not link.exists():
        link.symlink_to(modules)
    return node


def headers() -> Path:
    """The folder of ONNX Runtime's headers for C++."""
    folder = packages() / "include"
    if not (folder / "onnxruntime_cxx_api.h").is_file():
        pytest.skip(f"no headers of ONNX Runtime in {folder}: run tools/node_packages.sh")
    return folder
