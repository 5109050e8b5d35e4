"""examples/patchcore_in_100_lines.py: the method as a newcomer reads it, and an oracle for PatchCore.

The example shares nothing with the library but the network and OpenCV's resizing. Where both agree, the library's quick
ways (matrices, bounds, compiled search) compute what the paper says.

Tolerance: a relative 1e-4. Both compute in float32, but add in another order. A patch's distance to a close neighbour
is a small difference of larger numbers, which magnifies that: 4e-7 was measured with the default network, 1e-5 with
the fake one.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from parts import striped
from patchbank import Config, PatchCore, load_backbone, read_dataset
from patchbank.backbones.fake import FakeBackbone

EXAMPLE = Path(__file__).parents[1] / "examples" / "patchcore_in_100_lines.py"
KEPT = 0.1
# What makes PatchCore the paper's: docs/understand/paper.md. The rest of the defaults changes neither scores nor maps.
PAPER = {
    "embedding": "mean",
    "patch_size": 3,
    "patch_stride": 1,
    "num_neighbours": 1,
    "distance_scaling": 0,
    "image_score": "max",
    "smoothing_sigma": 4,
    "calibration": "none",
}
SAMPLERS = {"greedy_coreset": KEPT, "identity": 1.0}


def load_example():
    spec = importlib.util.spec_from_file_location("patchcore_in_100_lines", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example(monkeypatch):
    """The example, for small images of a shape that tells rows from columns."""
    module = load_example()
    monkeypatch.setattr(module, "SIZE", (96, 128))
    return module


def assert_agree(example, good, new, backbone, sampler):
    config = Config(image_size=example.SIZE, sampler=sampler, coreset_ratio=SAMPLERS[sampler], **PAPER)
    model = PatchCore.fit(good, config, backbone=backbone)
    bank = example.fit(good, backbone, SAMPLERS[sampler])
    assert bank.shape == model.bank.vectors.shape
    if sampler == "greedy_coreset":  # the same picks in the same order
        np.testing.assert_allclose(model.bank.vectors, bank, rtol=1e-4, atol=1e-4)
    for image in new:
        ours, paper = model.predict(image), example.inspect(image, backbone, bank)
        assert paper.patch_scores.shape == ours.patch_scores.shape
        assert paper.anomaly_map.shape == ours.anomaly_map.shape == image.shape[:2]
        close = {"rtol": 1e-4, "atol": 1e-4 * paper.score}
        np.testing.assert_allclose(ours.patch_scores, paper.patch_scores, **close)
        np.testing.assert_allclose(ours.anomaly_map, paper.anomaly_map, **close)
        assert ours.score == pytest.approx(paper.score, rel=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_patchcore_with_the_papers_settings_is_the_example(example, rng, sampler):
    """Patch scores, image scores and maps, for images as large as the network's input, larger ones and other shapes."""
    sizes = ((96, 128), (192, 256), (150, 131))
    good = [striped(rng, size=size) for size in sizes for _ in range(3)]
    new = [striped(rng, defect=defect, size=size) for size in sizes for defect in (False, True)]
    assert_agree(example, good, new, FakeBackbone(), sampler)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_the_default_network(example, rng, sampler):
    good, new = [striped(rng) for _ in range(4)], [striped(rng), striped(rng, defect=True)]
    assert_agree(example, good, new, load_backbone("efficientnet_lite2"), sampler)


def test_closed_forms(example):
    """Values that one can work out by hand, for the example itself."""
    ones = np.ones((1, 3, 4), np.float32)
    expected = np.array([[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]]) / 9
    np.testing.assert_allclose(example.local_mean(ones)[0], expected, rtol=1e-6)
    np.testing.assert_allclose(example.bilinear(np.array([[0.0, 1.0]]), (1, 4)), [[0, 0.25, 0.75, 1]])
    line = np.array([[0.0], [1.0], [10.0], [11.0]])
    assert example.greedy_coreset(line, 3).tolist() == [0, 3, 1]  # 5.5 from the mean: 0 before 11; then 1 before 10
    spike = np.zeros((65, 65))
    spike[32, 32] = 1
    heat = example.gaussian(spike, 4)
    assert heat.sum() == pytest.approx(1)
    assert heat[32, 32] == pytest.approx(1 / (2 * np.pi * 16), rel=1e-3)
    assert heat[32, 36] / heat[32, 32] == pytest.approx(np.exp(-0.5))


def test_it_has_at_most_100_lines():
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 100


def test_it_runs_on_two_folders(rng, tmp_path):
    for name, defects in (("good", (False, False, False)), ("new", (False, True))):
        (tmp_path / name).mkdir()
        for number, defect in enumerate(defects):
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), striped(rng, defect=defect))
    run = [sys.executable, str(EXAMPLE)]
    done = subprocess.run([*run, "good", "new"], cwd=tmp_path, capture_output=True, text=True, check=True)
    (fine, fine_path), (broken, broken_path) = (line.split() for line in done.stdout.splitlines())
    assert [Path(fine_path).name, Path(broken_path).name] == ["0.png", "1.png"]
    assert float(broken) > 2 * float(fine)
    (tmp_path / "new" / "2.png").write_bytes(b"no picture")
    refused = subprocess.run([*run, "good", "new"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "2.png: cannot be read" in refused.stderr
    explained = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert explained.returncode == 1
    assert "GOOD NEW" in explained.stderr


@pytest.mark.realdata
def test_on_real_bottles(example, data_root):
    data = read_dataset(data_root / "bottle")
    good = [example.read(path) for path in data.train_paths[:6]]
    new = [example.read(path) for path in data.test_paths[::40]]
    assert_agree(example, good, new, load_backbone("efficientnet_lite2"), "greedy_coreset")
