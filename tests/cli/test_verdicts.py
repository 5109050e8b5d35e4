"""Verdicts and both sides of a threshold, on the command line: words, columns, exit codes, choices."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil

import cv2
import numpy as np
import pytest

from patchbank import PatchCore

from .conftest import SMALL, failure, part, run, write


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Thirty parts to learn, the last of which has a green stain; and six scratched ones."""
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("parts")
    for number in range(30):
        image = part(rng)
        if number == 29:
            image[30:44, 40:56] = (40, 200, 40)
        write(folder / f"good/{number:02d}.png", image)
    for number in range(6):
        write(folder / f"bad/{number}.png", part(rng, defect=True))
    write(folder / "bad/good/0.png", part(rng))
    return folder


@pytest.fixture(scope="module")
def model(parts):
    """A model for which REVIEW begins well below the threshold."""
    run("fit", parts / "good", "-o", parts / "m", *SMALL, "--planted", "0")
    return parts / "m"


@pytest.fixture(scope="module")
def strict(parts, model):
    """The same model, with every good image to be reviewed that is odder than the median."""
    run("threshold", model, "--review-rate", "0.5", "-o", parts / "strict")
    return parts / "strict"


def verdicts(model, *paths):
    """By image: the verdict and its reason."""
    rows = [json.loads(line) for line in run("predict", model, *paths, "--json").stdout.splitlines()]
    return {row["path"]: (row["verdict"], row["reason"]) for row in rows}


@pytest.fixture(scope="module")
def examples(parts, strict, tmp_path_factory):
    """An image of each verdict: ok, review, ng."""
    rng = np.random.default_rng(11)
    folder = tmp_path_factory.mktemp("new")
    paths = [write(folder / f"{number}.png", part(rng)) for number in range(12)]
    found = verdicts(strict, *paths)
    ok, review = (next(path for path in paths if found[str(path)][0] == word) for word in ("ok", "review"))
    return {"ok": ok, "review": review, "ng": parts / "bad/0.png"}


def test_fit_shows_both_sides(parts, tmp_path):
    result = run("fit", parts / "good", "-o", tmp_path / "m", *SMALL, "--planted", "12")
    lines = result.stdout.splitlines()
    model = PatchCore.load(tmp_path / "m")
    assert "leave one out, 29 images)" in lines[1]
    sentence = model.calibration.bounds.sentence
    assert sentence in result.stderr.splitlines()
    assert sentence.startswith("1 image that looks defective does not set the threshold; false alarms: at most ")
    assert " ".join(lines[2].split()) == "at most threshold pixel over it planted not over it with 95 % confidence"
    rows = [line[2:11].strip() for line in lines[3:7]]
    assert rows == ["1 %", "2 %", "5 %", "10 %"]
    assert lines[5].startswith("*")
    planted = [re.findall(r"(\d+) of (\d+)", line)[-1] for line in lines[3:7]]
    assert all(int(count) <= int(n) <= 12 for count, n in planted)
    assert any("planted defects are stand-ins" in line for line in lines)
    assert "the threshold rests on the oddest image" in result.stderr
    assert model.calibration.setters[0] in result.stderr
    assert "29.png: score " in result.stderr  # the suspect is named, and is none that sets it
    assert "29.png" not in model.calibration.setters
    # 1 of 30 is over each row's threshold, the suspect: beside "at most 1 %" a reader must know where it comes from
    assert lines[7] == "over it: of all held-out images, the suspected outlier among them"


def test_a_fit_stands_though_nothing_could_be_planted(parts, tmp_path, monkeypatch):
    from patchbank.evaluation import tradeoff

    monkeypatch.setattr(tradeoff, "MOST_PIXELS", 10)
    result = run("fit", parts / "good", "-o", tmp_path / "m", *SMALL)
    assert "no defects were planted: " in result.stderr
    assert "planted not over it" not in result.stdout
    assert PatchCore.load(tmp_path / "m").calibration.threshold > 0


def test_fit_without_planted_defects(parts, tmp_path):
    result = run("fit", parts / "good", "-o", tmp_path / "m", *SMALL, "--planted", "0")
    assert "planted not over it" not in result.stdout
    assert "stand-ins" not in result.stdout
    assert [line[2:11].strip() for line in result.stdout.splitlines()[3:7]] == ["1 %", "2 %", "5 %", "10 %"]


def test_suspects_can_be_kept(parts, model, tmp_path):
    run("fit", parts / "good", "-o", tmp_path / "m", *SMALL, "--planted", "0", "--calibrate-on-suspects")
    kept, other = PatchCore.load(tmp_path / "m"), PatchCore.load(model)
    assert kept.calibration.threshold == kept.calibration.scores.max() > other.calibration.threshold
    assert "does not set" not in run("info", tmp_path / "m").stdout
    assert "among them" not in run("threshold", tmp_path / "m").stdout
    assert "among them" in run("threshold", model).stdout
    text = run("info", model).stdout
    assert f"suspects     {other.calibration.bounds.sentence}" in text
    assert "review       10 % of good images, over " in text
    assert "support      29 good images support" in text
    run("threshold", tmp_path / "m", "--no-calibrate-on-suspects", "-o", tmp_path / "n")
    assert PatchCore.load(tmp_path / "n").calibration.threshold == other.calibration.threshold


def test_predict_says_each_verdict_with_its_word_first(strict, examples):
    result = run("predict", strict, *examples.values())
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["OK", "REVIEW", "NG"]
    assert "3 images: 1 OK, 1 REVIEW, 1 NG, 0 refused" in result.stderr
    found = verdicts(strict, *examples.values())
    assert [found[str(path)][0] for path in examples.values()] == ["ok", "review", "ng"]
    assert "of good images look this odd (review from 50 %)" in found[str(examples["review"])][1]


def test_csv_has_the_verdict_and_who_made_it(strict, examples):
    rows = list(csv.DictReader(io.StringIO(run("predict", strict, *examples.values(), "--csv").stdout)))
    assert [row["verdict"] for row in rows] == ["ok", "review", "ng"]
    values = json.loads(run("predict", strict, examples["ok"], "--json").stdout)
    made = values["model"]
    assert (rows[0]["model"], rows[0]["version"], rows[0]["software"]) == (
        *(made["sha256"], str(made["version"]), made["patchbank"]),
    )
    assert rows[0]["reason"] == values["reason"]
    assert rows[0]["time"].startswith("20")


@pytest.mark.parametrize(
    ("shown", "flags", "code"),
    [
        ("ok", ("--fail-on", "review"), 0),
        ("review", ("--fail-on", "review"), 1),
        ("review", ("--fail-on", "ng"), 0),
        ("review", ("--fail-on-anomaly",), 0),
        ("review", ("--fail-on-anomaly", "--fail-on", "review"), 1),
        ("ng", ("--fail-on", "ng"), 1),
        ("ng", ("--fail-on", "review"), 1),
        ("ng", ("--fail-on-anomaly",), 1),
        ("ng", (), 0),
    ],
)
def test_exit_codes_follow_the_verdicts(strict, examples, shown, flags, code):
    run("predict", strict, examples[shown], *flags, code=code)


def test_another_word_to_fail_on_is_refused(strict, examples):
    assert "--fail-on: expected ng or review; got 'ok'" in failure(
        "predict", strict, examples["ok"], "--fail-on", "ok", code=2
    )


def test_another_part_is_for_review(model, tmp_path):
    """What is not of the scene and not over the threshold is never OK."""
    dark = write(tmp_path / "dark.png", (part(np.random.default_rng(1)) * 0.5).astype(np.uint8))
    (row,) = [json.loads(line) for line in run("predict", model, dark, "--json").stdout.splitlines()]
    assert row["in_scene"] is False
    assert row["verdict"] == ("ng" if row["is_anomalous"] else "review")
    assert "darker" in row["reason"]


def test_the_report_has_verdicts_filters_and_the_limit_of_review(strict, examples, tmp_path):
    run("predict", strict, *examples.values(), "--out", tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert sorted(re.findall(r'data-verdict="(\w+)"', page)) == ["ng", "ok", "review"]
    assert re.findall(r'<option value="(ng|review|ok)">(\w+)<', page) == [
        ("ng", "NG"),
        ("review", "REVIEW"),
        ("ok", "OK"),
    ]
    assert "<dt>REVIEW</dt><dd>1</dd>" in page
    assert 'class="review"' in page
    assert "of good images look this odd" in page
    assert "REVIEW: as odd as the oddest 50 % of good images" in page


def test_evaluate_counts_verdicts_by_kind(model, parts, tmp_path):
    for kind, source in (("good", "good"), ("scratch", "bad")):
        for path in sorted((parts / source).glob("*.png"))[:3]:
            target = tmp_path / "d/test" / kind / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    dent = tmp_path / "d/test/dent/0.png"
    dent.parent.mkdir()
    shutil.copy(parts / "bad/5.png", dent)
    shutil.copytree(parts / "good", tmp_path / "d/train/good")
    counts = json.loads(run("evaluate", model, tmp_path / "d", "--json").stdout)["verdicts"]
    assert list(counts) == ["good", "defective", "kinds"]
    assert counts["kinds"] == {"dent": {"ok": 0, "review": 0, "ng": 1}, "scratch": {"ok": 0, "review": 0, "ng": 3}}
    assert counts["defective"] == {"ok": 0, "review": 0, "ng": 4}
    assert sum(counts["good"].values()) == 3
    lines = run("evaluate", model, tmp_path / "d").stdout.splitlines()
    assert lines[-1].split() == ["scratch", "0", "0", "3"]


def test_labelled_defects_in_the_table(model, parts):
    """A folder of defective images, without what lies in a folder that is called good."""
    result = run("threshold", model, "--defects", parts / "bad", "--planted", parts / "good")
    assert "defects not over it" in result.stdout
    assert "planted not over it" in result.stdout
    assert "0 of 6 (at most 40 %)" in result.stdout  # 1 - 0.05 ** (1 / 6)
    assert "labelled defects that come out OK: 0 of 6" in result.stdout
    values = json.loads(run("threshold", model, "--defects", parts / "bad", "--json").stdout)
    assert values["defects"] == {"n": 6, "ok": 0}
    assert values["planted"] is None
    assert (values["suspects"], values["with_suspects"], values["review_rate"]) == (1, False, 0.1)
    assert values["if_bad"] < values["if_good"]
    assert len(values["set_by"]) >= 1
    row = next(row for row in values["rows"] if row["max_false_alarms"] == 0.2)
    assert row["defects_missed"] == 0
    assert row["defects_missed_at_most"] == pytest.approx(1 - 0.05 ** (1 / 6))


def test_a_threshold_by_misses_or_by_cost(model, parts, tmp_path):
    text = run("threshold", model, "--defects", parts / "bad", "--max-misses", "0.5").stdout
    assert ">" in text
    run("threshold", model, "--defects", parts / "bad", "--max-misses", "0.5", "-o", tmp_path / "m")
    chosen = PatchCore.load(tmp_path / "m").calibration
    assert chosen.support.satisfied
    assert chosen.max_false_alarms == PatchCore.load(model).calibration.support.rate  # the fewest that is supported
    costs = ("--cost-miss", "100", "--cost-false-alarm", "1")
    result = run("threshold", model, "--defects", parts / "bad", *costs, "-o", tmp_path / "n")
    assert "if 1 % of the parts are defective (--defect-rate)" in result.stderr
    assert PatchCore.load(tmp_path / "n").calibration.support.satisfied


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--max-misses", "0.1"), "--max-misses chooses by labelled defects: give a folder of some"),
        (("--cost-miss", "1"), "expected --cost-miss and --cost-false-alarm together"),
        (("--cost-miss", "1", "--cost-false-alarm", "1"), "--cost-miss chooses by labelled defects"),
        (("--max-misses", "0.1", "--max-false-alarms", "0.1"), "expected one way to choose a threshold"),
        (("--review-rate", "2"), "review_rate: expected at least 0 and at most 0.5"),
    ],
)
def test_wishes_that_cannot_be(model, flags, message):
    assert message in failure("threshold", model, *flags, code=2)


def test_choices_that_defects_do_not_support(model, parts, tmp_path):
    assert "which leaves room for 40 %; accept more, or give more labelled defects" in failure(
        "threshold", model, "--defects", parts / "bad", "--max-misses", "0.1", code=2
    )
    (tmp_path / "other").mkdir()
    cv2.imwrite(str(tmp_path / "other/x.png"), np.zeros((8, 8, 3), np.uint8))
    assert "it holds none of the training images" in failure(
        "threshold", model, "--planted", tmp_path / "other", code=3
    )


def test_evaluate_says_what_is_missing_where_it_prints_dashes(model, parts, tmp_path):
    """Good images of a CSV file without a split are training images: dashes instead of figures must not surprise."""
    table = tmp_path / "parts.csv"
    lines = [f"{parts / 'good'}/0{number}.png,ok" for number in range(2)] + [f"{parts / 'bad'}/0.png,scratch"]
    table.write_text("\n".join(["filename,label", *lines]) + "\n")
    result = run("evaluate", model, table)
    assert "there is no good test image: no false alarms" in result.stderr
    assert "column split does not say test" in result.stderr
    assert "no defective test image" not in result.stderr
