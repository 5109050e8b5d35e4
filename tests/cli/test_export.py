"""`patchbank export`."""

from __future__ import annotations

import json

from .conftest import failure, run


def test_a_model_is_exported(category, fitted, tmp_path):
    """With a real network: the same verdicts, and what it says of itself."""
    result = run("export", fitted, "-o", tmp_path / "out", "--images", category / "test", "--bank-size", "30", "--json")
    said = json.loads(result.stdout)
    assert said["input_size"] == [72, 96]
    assert said["bank_size"] == 30
    assert said["reference_images"] == 8
    assert said["largest_difference"] < 1e-4
    assert said["bank_size_cost"]["images"] == 8
    thinner = run("export", fitted, "-o", tmp_path / "out", "--bank-size", "30", "--training-images", category).stdout
    assert "threshold    measured again: " in thinner
    text = run("export", fitted, "-o", tmp_path / "out", "--input-size", "72x96").stdout
    assert "model.onnx" in text
    assert "same verdicts" in text
    assert failure("export", fitted, "-o", tmp_path / "out", "--input-size", "72", code=2).endswith("got '72'")
    assert "input_size" in failure("export", fitted, "-o", tmp_path / "out", "--input-size", "a", code=2)
    assert "npm pack onnxruntime-web@" in failure("export", fitted, "-o", tmp_path / "out", "--html", code=6)
    said = failure("export", fitted, "-o", tmp_path / "out", "--ort-web", "dist", code=2)
    assert said.endswith("ort_web: it is for the page; add --html")
    (tmp_path / "file").write_text("")
    assert "cannot make the folder" in failure("export", fitted, "-o", tmp_path / "file", code=7)
