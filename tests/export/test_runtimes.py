"""An exported model on real images: the same verdicts, and scores to 1e-4, in ONNX Runtime, in onnxruntime-node and in
OpenVINO."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from exported import node_modules

from patchbank import Config, PatchCore, export_onnx
from patchbank.export import reference
from patchbank.imaging.images import read_image

pytestmark = pytest.mark.realdata
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["bottle", "screw"])
def exported(request, data_root, tmp_path_factory):
    """A folder whose reference are ten real images, good and defective ones, and what the library said of them."""
    root, folder = data_root / request.param, tmp_path_factory.mktemp(request.param)
    good = sorted((root / "train" / "good").iterdir())[:40]
    tests = [sorted(kind.iterdir()) for kind in sorted((root / "test").iterdir())]
    images = [kind[n] for kind in tests for n in (0, 1, 2)][:10]
    model = PatchCore.fit(
        good, Config(image_size=(224,), coreset_size=1000, max_false_alarms=0.2, confidence=0.0, review_rate=0.5)
    )
    patch = pytest.MonkeyPatch()
    patch.setattr(reference, "MOST_KEPT", len(images))
    try:
        done = export_onnx(model, folder, images=images)
    finally:
        patch.undo()
    assert done.largest_difference < 1e-5
    rows = json.loads((folder / "reference.json").read_text("utf-8"))["images"]
    assert len(rows) == len(images)
    assert len({row["verdict"] for row in rows}) >= 2
    return folder, rows


def assert_agrees(row, score, verdict):
    assert score == pytest.approx(row["score"], rel=TOLERANCE), row["name"]
    assert verdict == row["verdict"], row["name"]


def test_onnx_runtime(exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, rows = exported
    session = onnxruntime.InferenceSession(folder / "model.onnx")  # as its users make one
    for row in rows:
        image = read_image(folder / row["file"])
        score, verdict, heat = session.run(["score", "verdict", "anomaly_map"], {"image": image})
        assert_agrees(row, float(score), int(verdict))
        assert float(heat.max()) == pytest.approx(row["highest"], rel=TOLERANCE)


def test_openvino(exported):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'patchbank[openvino]'")
    folder, rows = exported
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # else it computes in bfloat16 where the processor can
    compiled = openvino.Core().compile_model(folder / "model.onnx", "CPU", exact)
    for row in rows:
        found = compiled({"image": read_image(folder / row["file"])})
        assert_agrees(row, float(found["score"]), int(found["verdict"]))
        assert np.max(found["anomaly_map"]) == pytest.approx(row["highest"], rel=TOLERANCE)


def test_onnxruntime_node(exported):
    folder, rows = exported
    node = node_modules("onnxruntime-node", folder)
    script = """
    import { readFileSync } from "node:fs";
    import * as ort from "onnxruntime-node";
    const about = JSON.parse(readFileSync("reference.json", "utf8"));
    const session = await ort.InferenceSession.create("model.onnx");
    const [height, width] = about.input.shape;
    const said = [];
    for (const { file } of about.images) {
      const pixels = new Uint8Array(readFileSync(file).subarray(-3 * height * width));
      const found = await session.run({ image: new ort.Tensor("uint8", pixels, [height, width, 3]) });
      said.push([found.score.data[0], found.verdict.data[0]]);
    }
    console.log(JSON.stringify(said));
    """
    command = [node, "--input-type=module", "-e", script]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=300)
    for row, (score, verdict) in zip(rows, json.loads(done.stdout), strict=True):
        assert_agrees(row, score, verdict)
