"""`patchbank drift`: from the lines of `predict --json` to a verdict, a place and an exit code."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pages import Page
from patchbank import PatchCore
from patchbank.cli.app import app
from patchbank.reports.stream import PLAIN, Span, text_chart

from .conftest import SMALL, failure, run


@pytest.fixture(scope="module")
def rows(fitted):
    """A good part's result, as a line of `predict --json` has it."""
    model = PatchCore.load(fitted)

    def row(number, score, outside=()):
        scene = {name: {"value": 1.0, "low": 0.0, "high": 2.0, "reason": "odd"} for name in outside}
        return {
            "path": f"parts/{number:04d}.png",
            "score": float(score),
            "threshold": model.calibration.threshold,
            "in_scene": not outside,
            "scene": scene,
        }

    rng = np.random.default_rng(2)
    good = rng.choice(model.calibration.scores, 400)
    return [row(number, score) for number, score in enumerate(good)], row, float(model.calibration.scores.max())


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_no_drift(fitted, rows, tmp_path):
    results = written(tmp_path / "r.jsonl", rows[0])
    lines = run("drift", fitted, results, "--fail-on-drift").stdout.splitlines()
    assert lines[0] == "400 images: no drift"
    assert [line.split()[:2] for line in lines[1:4]] == [["level", "ok"], ["flagged", "ok"], ["scene", "ok"]]
    assert lines[4] == "advice   nothing to do"


def test_drift_with_its_place_and_its_measures(fitted, rows, tmp_path):
    good, row, largest = rows
    shifted = [row(number, largest + 1 + number / 1000, ("brightness", "pixels")) for number in range(200, 400)]
    results = written(tmp_path / "r.jsonl", [*good[:200], *shifted])
    text = run("drift", fitted, results).stdout
    lines = text.splitlines()
    assert lines[0] == "400 images: DRIFT"
    level = next(line for line in lines if line.startswith("level"))
    assert "SHIFT" in level
    place = lines[lines.index(level) + 1].split()
    assert place[:2] == ["from", "line"]
    assert abs(int(place[2]) - 201) <= 3
    assert "(parts/0399.png)" in lines[lines.index(level) + 1]
    assert "brightness is outside of its range in" in text
    assert f"{largest + 1 + 0.399:.4f}  parts/0399.png" in text
    assert "advice   the images are out of distribution now" in text
    run("drift", fitted, results, "--fail-on-drift", code=1)
    values = json.loads(run("drift", fitted, results, "--json").stdout)
    assert values["drift"] is True
    assert values["images"] == 400
    assert [test["test"] for test in values["tests"]] == ["level", "flagged", "scene"]
    scene = values["tests"][2]
    assert scene["found"] is True
    assert scene["first"] == {"line": 201, "path": "parts/0200.png"}
    assert scene["outside"] == {"brightness": 200, "pixels": 200}
    assert scene["detected"]["line"] > 201
    assert {one["path"] for one in scene["showing"]} == {row["path"] for row in shifted}
    assert values["advice"]


def test_each_image_of_a_shift_is_named_once_and_the_stream_is_drawn(fitted, rows, tmp_path):
    """Three tests saw the same shift, and each listed the same images."""
    good, row, largest = rows
    shifted = [row(number, largest + 1 + number / 1000, ("brightness",)) for number in range(200, 400)]
    results = written(tmp_path / "r.jsonl", [*good[:200], *shifted])
    text = run("drift", fitted, results, "--report", tmp_path / "d.html").stdout
    named = [line.split() for line in text.splitlines() if "parts/0399.png" in line and "from line" not in line]
    assert [words[1] for words in named] == ["parts/0399.png"]
    assert " ".join(named[0][2:]) == "(level, flagged, scene)"
    assert text.count("brightness is outside of its range in 200 images") == 1
    *_, bars, marks, legend = text.splitlines()
    assert bars.startswith("stream   ▁")
    assert bars.endswith("█")
    start = marks.index("^") - 9
    assert abs(start - len(bars[9:]) / 2) <= 1  # the shift begins in the middle
    assert "every" in legend
    page = Page(tmp_path / "d.html")
    assert page.open == []
    assert len(page.all("circle")) == 400
    assert {rect.get("class") for rect in page.all("rect")} == {"shift"}
    assert "parts/0399.png" in page.text["td"]
    assert "ends in .html" in failure("drift", fitted, results, "--report", "d.png", code=2)


def test_the_stream_in_signs_that_every_terminal_has():
    """Closed form: medians of two images each, from the lowest sign to the highest."""
    lines = text_chart([0, 0, 1, 1, 7, 7], [Span("level", 4, 6)], 3, PLAIN)
    assert lines[:2] == ["_.@", "  ^"]
    assert "every 2 images, 0 to 7" in lines[2]
    assert text_chart([1.0], [], 10) == []
    assert text_chart([3, 3], [], 10)[0] == "▁▁"


def test_defects_do_not_fail(fitted, rows, tmp_path):
    good, row, largest = rows
    mixed = [row(n, 3 * largest) if n % 12 == 0 else one for n, one in enumerate(good * 3)]
    result = run("drift", fitted, written(tmp_path / "r.jsonl", mixed), "--fail-on-drift")
    assert "level    ok" in result.stdout


def test_reads_stdin_and_what_predict_prints(fitted, category):
    printed = run("predict", fitted, category / "test/good", "--json").stdout
    result = CliRunner().invoke(app, ["drift", str(fitted), "-", "--json"], input=printed)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert (values["images"], values["drift"]) == (4, False)
    assert [test["images"] for test in values["tests"]] == [4, 4, 4]


def test_errors_are_one_line(fitted, rows, category, tmp_path):
    good, _, _ = rows
    results = written(tmp_path / "r.jsonl", good)
    assert "no such file" in failure("drift", tmp_path / "none", results, code=5)
    assert "cannot read the results" in failure("drift", fitted, tmp_path / "none.jsonl", code=3)
    assert "got none" in failure("drift", fitted, written(tmp_path / "empty", []), code=3)
    other = written(tmp_path / "o.jsonl", [*good[:3], {**good[3], "threshold": 1.0}])
    assert "line 4: expected results of this model" in failure("drift", fitted, other, code=3)
    (tmp_path / "text").write_text("path,score\n")
    assert "line 1: is not JSON" in failure("drift", fitted, tmp_path / "text", code=3)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in failure("drift", fitted, tmp_path / "bytes", code=3)
    assert "confidence" in failure("drift", fitted, results, "--confidence", "1", code=2)
    assert "defects" in failure("drift", fitted, results, "--defects", "0.95", code=2)
    run("fit", category, "-o", tmp_path / "m", *SMALL, "--calibration", "none")
    assert "calibration = 'none'" in failure("drift", tmp_path / "m", results, code=2)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"path": "gr\xfcn.png"}\n', "line 1: is not UTF-8 text"),
        (b'{"score": NaN}\n', "line 1: has no score"),
        (b'{"score": 1' + b"0" * 400 + b"}\n", "line 1: has no score"),
        (b"[" * 100_000, "line 1: is not JSON"),
        (b"\x00\n", "line 1: is not JSON"),
    ],
)
def test_hostile_results_are_one_line_and_exit_code_3(fitted, tmp_path, data, says):
    (tmp_path / "r.jsonl").write_bytes(data)
    assert says in failure("drift", fitted, tmp_path / "r.jsonl", code=3)
    assert "cannot read the results" in failure("drift", fitted, tmp_path, code=3)


def test_names_in_results_do_not_act_on_the_terminal(fitted, rows, tmp_path):
    good, row, largest = rows
    shifted = [row(number, largest + 1) | {"path": "\x1b[2J\n\ud800.png"} for number in range(200, 400)]
    text = run("drift", fitted, written(tmp_path / "r.jsonl", [*good[:200], *shifted])).stdout
    assert "\\x1b[2J\\n\\ud800.png" in text
    assert "\x1b" not in text
