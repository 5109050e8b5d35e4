"""The notebooks in examples/ run from top to bottom, show what their texts say, and are kept without outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def test_there_are_two():
    assert [path.name for path in NOTEBOOKS] == ["benchmark.ipynb", "first_day.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_not_kept(path):
    """They would hold pictures and paths of somebody's machine, and every run would change the file."""
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def executed(name, folder, monkeypatch, *further):
    """The outputs of the notebook's cells of code, of those of `further` too: a list of {MIME type: data} a cell."""
    nbclient = pytest.importorskip("nbclient", reason="the notebooks need nbclient: pip install 'patchbank[test]'")
    pytest.importorskip("ipykernel", reason="the notebooks need ipykernel: pip install 'patchbank[test]'")
    pytest.importorskip("pandas", reason="the notebooks need pandas: pip install 'patchbank[frame]'")
    import nbformat

    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "TMPDIR"):
        monkeypatch.setenv(variable, str(folder))  # nothing is left outside of the test's folder
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", source.rstrip(os.pathsep))
    notebook = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    notebook.cells += [nbformat.v4.new_code_cell(code) for code in further]
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[dict(output.get("data", {"text": output.get("text", "")})) for output in cell.outputs] for cell in code]


def test_the_first_day(tmp_path, monkeypatch):
    outputs = executed("first_day", tmp_path, monkeypatch, "[r.is_anomalous for r in results]")
    shown = [data for cell in outputs for data in cell if "text/html" in data]
    assert len(shown) == 4  # the model, the table, the worst result, and why
    assert "fitted on 40 images" in shown[0]["text/html"]
    assert shown[2]["text/html"].count("data:image/jpeg") == 1
    assert "nearest normal" in shown[3]["text/html"]
    verdicts = json.loads(outputs[-1][0]["text/plain"].lower())
    assert verdicts[::3] == [True] * 4  # the scratched ones
    assert sum(verdicts) <= 6
    assert outputs[-2][0]["text/plain"] == "True"
    assert (tmp_path / "plate.patchbank").is_file()


def test_the_benchmark(tmp_path, monkeypatch):
    outputs = executed("benchmark", tmp_path, monkeypatch, "import json; json.dumps(evaluation.to_dict())")
    figures = json.loads(outputs[-1][0]["text/plain"].strip("'"))
    assert figures["n_test"] == 20
    assert figures["image_auroc"] > 0.95
    assert figures["pixel_auroc"] > 0.95
    own = outputs[-3][0]["text/plain"]
    assert str(figures["image_auroc"])[:6] in own
    assert str(figures["aupro"])[:6] in own
