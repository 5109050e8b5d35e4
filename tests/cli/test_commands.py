"""What each command does when all is well: its output, its files, its exit code."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib.util
import io
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from pages import Page
from patchbank import Config, PatchCore, __version__
from patchbank.backbones.zoo import zoo
from patchbank.config import PRESETS

from .conftest import SMALL, failure, make_category, part, run, write

EVALUATION_KEYS = [
    "image_auroc",
    "image_ap",
    "image_f1",
    "pixel_auroc",
    "pixel_ap",
    "aupro",
    "n_test",
    "ms_per_image",
    "threshold",
    "false_alarm_rate",
    "miss_rate",
    "n_unreadable",
    "verdicts",
]


def test_version():
    assert run("--version").stdout == f"patchbank {__version__}\n"


def test_fit_says_what_it_made_and_the_model_is_that(category, tmp_path):
    result = run("fit", category, "-o", tmp_path / "m.patchbank", *SMALL)
    assert "8 images, 40 bank vectors" in result.stdout
    model = PatchCore.load(tmp_path / "m.patchbank")
    resolved = {"layers": ("blocks.2", "blocks.4"), "embedding": "mean", "precision": "float32", "patch_size": 3}
    assert model.config == Config(image_size=64, coreset_size=40, **resolved)
    assert f"threshold {model.calibration.threshold:.4f}" in result.stdout
    assert "8 good images support 32 % at 95 %; 5 % needs 59" in result.stderr
    assert "at most 32 % false alarms with 95 % confidence" in result.stdout
    assert "scene: 8 good images support 12 % on average; 1 % needs 99; its ranges are widened" in result.stderr


def test_fit_says_which_pictures_the_memory_did_not_hold(tmp_path, rng):
    for number in range(12):
        write(tmp_path / f"good/{number:02d}.png", rng.integers(0, 256, (256, 256, 3), dtype=np.uint8))
    result = run("fit", tmp_path / "good", "-o", tmp_path / "m", *SMALL, "--memory", "1MB", "--calibration", "none")
    model = PatchCore.load(tmp_path / "m")
    used = set(model.bank.image.tolist())
    assert 1 <= len(model.thumbnails) < len(used)
    assert f"thumbnails of {len(used - set(model.thumbnails))} training image" in result.stderr
    assert "lower --thumbnail-size" in result.stderr
    without = run("fit", tmp_path / "good", "-o", tmp_path / "m", *SMALL, "--memory", "1MB", "--thumbnail-size", "0")
    assert "thumbnails" not in without.stderr


def test_fit_without_calibration_prints_no_threshold(category, tmp_path):
    result = run("fit", category, "-o", tmp_path / "m", *SMALL, "--calibration", "none")
    assert "threshold" not in result.output
    lines = run("predict", tmp_path / "m", category / "test/good/000.png").stdout.splitlines()
    assert lines[0].startswith("REVIEW ")  # nothing proves it to be ordinary
    row = json.loads(run("predict", tmp_path / "m", category / "test/good/000.png", "--json").stdout)
    assert (row["threshold"], row["is_anomalous"], row["regions"]) == (None, None, [])


def test_fit_takes_a_flat_folder_and_a_csv_too(category, tmp_path):
    flat, listed = tmp_path / "flat.patchbank", tmp_path / "list.patchbank"
    run("fit", category / "train/good", "-o", flat, *SMALL)
    paths = sorted((category / "train/good").iterdir())
    table = tmp_path / "parts.csv"
    table.write_text("path,label\n" + "".join(f"{path},good\n" for path in paths))
    run("fit", table, "-o", listed, *SMALL)
    assert flat.read_bytes() == listed.read_bytes()


def test_info_shows_every_option_and_checks_the_file(fitted):
    text = run("info", fitted).stdout
    assert f"sha-256      {hashlib.sha256(fitted.read_bytes()).hexdigest()}\n" in text  # as stored results name it
    for shown in ("efficientnet_lite2 (Apache-2.0)", "blocks.2 (48 channels, stride 8)", "40 vectors of 8 images"):
        assert shown in text
    for name in Config().to_dict():
        assert f"\n  {name} " in text
    manifest = json.loads(run("info", fitted, "--json").stdout)
    assert manifest["bank"]["size"] == 40
    assert manifest["config"]["image_size"] == [64]
    held = manifest["calibration"]
    assert (held["supported"], held["images_needed"], held["confidence"]) == (False, 59, 0.95)
    assert (held["review_rate"], held["review_above"], held["with_suspects"]) == (0.1, None, False)
    assert "8 good images support 32 % at 95 %; 5 % needs 59" in text


def test_info_runs_the_self_test_and_says_so(fitted):
    assert "self-test    4 images (--self-test scores them once more)" in run("info", fitted).stdout
    text = run("info", fitted, "--self-test", "--threads", "1").stdout
    assert "self-test    passed: 4 images, largest difference " in text
    found = json.loads(run("info", fitted, "--self-test", "--json").stdout)
    assert len(found["self_test_now"]["images"]) == len(found["self_test"]) == 4
    assert "self_test_now" not in json.loads(run("info", fitted, "--json").stdout)


def test_info_refuses_options_that_only_the_self_test_has(fitted):
    assert "options are those of --self-test" in run("info", fitted, "--device", "cpu", "--threads", "1", code=2).stderr


def test_a_self_test_that_fails_is_exit_code_9_and_one_line(fitted, tmp_path):
    model = PatchCore.load(fitted)
    first, *others = model.self_test_images
    wrong = dataclasses.replace(first, score=first.score + 1)
    dataclasses.replace(model, self_test_images=(wrong, *others)).save(tmp_path / "wrong")
    result = run("info", tmp_path / "wrong", "--self-test", code=9)
    assert len(result.stderr.splitlines()) == 1
    assert "does not score its own images as it did" in result.stderr
    dataclasses.replace(model, self_test_images=()).save(tmp_path / "none")
    assert "patchbank update MODEL --images FOLDER" in run("info", tmp_path / "none", "--self-test", code=9).stderr
    assert "self-test    none: " in run("info", tmp_path / "none").stdout


def test_info_of_a_file_of_version_1_speaks_of_its_threshold_in_the_same_words():
    file = Path(__file__).parents[1] / "golden" / "version1.patchbank"
    assert "(at most 20 % false alarms on average; leave one out, 10 images)" in run("info", file).stdout
    manifest = json.loads(run("info", file, "--json").stdout)
    assert manifest["format_version"] == 1
    assert manifest["calibration"]["max_false_alarms"] == manifest["config"]["max_false_alarms"] == 0.2
    assert "false_alarm_rate" not in json.dumps(manifest)


def test_threshold_shows_what_the_images_support(fitted):
    lines = run("threshold", fitted).stdout.splitlines()
    assert lines[0].startswith("8 held-out good images (leave one out), scores ")
    rows = {line[2:11].strip(): line for line in lines[2:-2]}
    assert rows["5 %"].startswith("*")
    assert rows["5 %"].endswith("needs 59 images")
    assert rows["1 %"].endswith("needs 299 images")
    assert rows["32 %"].endswith("supported")
    held = PatchCore.load(fitted).calibration
    asked = json.loads(run("threshold", fitted, "--max-false-alarms", "0.3", "--confidence", "0", "--json").stdout)
    row = next(row for row in asked["rows"] if row["max_false_alarms"] == 0.3)
    assert row["threshold"] == np.sort(held.scores)[6]  # k = ceil(9 * 0.7) = 7
    assert (row["supported"], row["over"], row["images_needed"]) == (True, 1, 3)
    assert (asked["max_false_alarms"], asked["confidence"], asked["images"]) == (0.05, 0.95, 8)  # the model's own


def test_threshold_writes_another_model_only_where_it_is_told_to(fitted, tmp_path, good):
    before = fitted.read_bytes()
    text = run("threshold", fitted, "--max-false-alarms", "0.3", "--confidence", "0").stdout
    assert next(line for line in text.splitlines() if line.startswith(">"))[2:11].strip() == "30 %"
    result = run("threshold", fitted, "--max-false-alarms", "0.3", "--confidence", "0", "-o", tmp_path / "m")
    assert fitted.read_bytes() == before
    model, other = PatchCore.load(fitted), PatchCore.load(tmp_path / "m")
    assert f"threshold was {model.calibration.threshold:.4f}" in result.stdout
    assert f"threshold {other.calibration.threshold:.4f}" in result.stdout
    assert result.stderr == ""
    assert other.calibration.threshold < model.calibration.threshold
    assert other.predict(good).score == model.predict(good).score
    run("threshold", tmp_path / "m", "--max-false-alarms", "0.05", "--confidence", "0.95", "-o", tmp_path / "m")
    again = PatchCore.load(tmp_path / "m")
    assert again.calibration.threshold == model.calibration.threshold
    assert again.config == model.config
    assert [version.action for version in again.versions] == ["fit", "threshold", "threshold"]
    assert [version.max_false_alarms for version in again.versions] == [0.05, 0.3, 0.05]
    assert "5 % needs 59" in run("threshold", fitted, "-o", tmp_path / "m").stderr


def test_predict_tells_good_from_scratched(fitted, good, scratched):
    lines = run("predict", fitted, good, scratched).stdout.splitlines()
    assert lines[0].startswith("OK ")
    assert lines[0].endswith(str(good))
    assert lines[1].startswith("NG ")
    assert "region" in lines[1]


def test_predict_json_is_one_object_a_line_and_nothing_else(fitted, good, scratched):
    result = run("predict", fitted, good, scratched, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    keys = ["path", "score", "threshold", "is_anomalous", "p_value", "regions", "in_scene", "scene", "model", "time"]
    keys += ["verdict", "reason"]
    assert [list(row) for row in rows] == [keys] * 2
    assert [row["path"] for row in rows] == [str(good), str(scratched)]
    assert [row["is_anomalous"] for row in rows] == [False, True]
    assert [row["verdict"] for row in rows] == ["ok", "ng"]
    assert rows[1]["reason"].startswith(f"score {rows[1]['score']:.4g} is over the threshold ")
    assert rows[0]["p_value"] > rows[1]["p_value"] == 1 / 9
    assert rows[0]["score"] == PatchCore.load(fitted).predict(good).score
    assert "{" not in result.stderr
    x, y, width, height = rows[1]["regions"][0]["box"]
    assert x <= 48 <= x + width  # the scratch crosses the middle of the 96x72 image
    assert y <= 36 <= y + height


def test_predict_csv_has_a_header_and_quotes(fitted, scratched, tmp_path):
    odd = write(tmp_path / "a, b.png", cv2.imread(str(scratched)))
    rows = list(csv.DictReader(io.StringIO(run("predict", fitted, odd, "--csv").stdout)))
    keys = ["path", "score", "threshold", "is_anomalous", "p_value", "regions", "in_scene", "scene"]
    keys += ["verdict", "reason", "model", "version", "software", "time"]
    assert list(rows[0]) == keys
    assert rows[0]["path"] == str(odd)
    assert rows[0]["is_anomalous"] == "true"
    assert float(rows[0]["p_value"]) == 1 / 9
    assert int(rows[0]["regions"]) >= 1
    assert float(rows[0]["score"]) > float(rows[0]["threshold"])


def test_predict_says_what_is_not_of_the_scene(fitted, good, tmp_path):
    black = write(tmp_path / "black.png", np.zeros((72, 96, 3), np.uint8))
    text = run("predict", fitted, good, black, "--out", tmp_path / "out")
    first, second = text.stdout.splitlines()
    assert first.endswith(str(good))
    assert f"{black}" in second
    assert "; not the part or the picture that the model knows: darker (brightness 0, normal " in second
    notes = text.stderr.splitlines()
    assert notes[2:] == [
        "2 images: 1 OK, 0 REVIEW, 1 NG, 0 refused",
        f"report: {tmp_path / 'out/report.html'}",
        "1 image is out of distribution: not the part or the picture that the model knows",
    ]
    model = PatchCore.load(fitted)
    assert notes[0] == f"threshold {model.calibration.threshold:.4f}; 1.00x = a score that equals it"
    assert notes[1].startswith("p = share of good images")  # said once, and on no line of an image
    assert "threshold" not in text.stdout
    assert "out of distribution: darker (brightness 0" in (tmp_path / "out/report.html").read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(run("predict", fitted, good, black, "--csv").stdout)))
    assert [row["in_scene"] for row in rows] == ["true", "false"]
    assert rows[0]["scene"] == ""
    assert rows[1]["scene"].startswith("darker (brightness 0, normal ")
    (values,) = (json.loads(line) for line in run("predict", fitted, black, "--json").stdout.splitlines())
    assert values["in_scene"] is False
    assert values["scene"]["brightness"]["value"] == 0
    assert values["scene"]["brightness"]["reason"].endswith("exposure, lighting or lens cap?")


def test_the_scene_check_can_be_left_out_and_info_shows_it(category, fitted, good, tmp_path):
    off = run("fit", category, "-o", tmp_path / "m", *SMALL, "--scene-false-alarms", "0")
    assert "scene" not in off.stderr
    assert "scene        not checked" in run("info", tmp_path / "m").stdout
    (row,) = csv.DictReader(io.StringIO(run("predict", tmp_path / "m", good, "--csv").stdout))
    assert (row["in_scene"], row["scene"]) == ("", "")
    assert "scene        brightness " in run("info", fitted).stdout
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((category / "train/good").iterdir())[:4]:
        shutil.copy(path, few)
    assert "the scene is not checked: that needs 5 images" in run("fit", few, "-o", tmp_path / "n", *SMALL).stderr


def test_predict_out_writes_overlay_mask_and_report(fitted, category, tmp_path):
    out = tmp_path / "new" / "out"
    run("predict", fitted, category / "test", "--out", out)
    for name in ("good/000.png", "scratch/003.png"):
        assert cv2.imread(str(out / f"{name}.overlay.png")).shape == (72, 96, 3)
    found = cv2.imread(str(out / "scratch/000.png.mask.png"), cv2.IMREAD_GRAYSCALE)
    assert set(np.unique(found)) == {0, 255}
    assert len(list(out.rglob("*.overlay.png"))) == 8
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "scratch/000.png" in report
    assert "disc.patchbank" in report
    assert not list(out.rglob("*.part"))


def test_fail_on_anomaly(fitted, good, scratched):
    run("predict", fitted, good, "--fail-on-anomaly")
    run("predict", fitted, good, scratched, code=0)
    run("predict", fitted, good, scratched, "--fail-on-anomaly", code=1)


def test_evaluate_json_has_the_promised_keys_in_order(fitted, category):
    values = json.loads(run("evaluate", fitted, category, "--json").stdout)
    assert list(values) == EVALUATION_KEYS
    assert values["image_auroc"] == 1.0
    assert values["n_test"] == 8
    assert values["miss_rate"] == 0.0
    assert 0.9 < values["pixel_auroc"] <= 1.0
    assert values["threshold"] == PatchCore.load(fitted).calibration.threshold
    assert values["ms_per_image"] > 0


def test_evaluate_for_people_and_without_masks(fitted, category, tmp_path):
    table = tmp_path / "test.csv"
    good, bad = category / "test/good/000.png", category / "test/scratch/000.png"
    table.write_text(f"path,label,split\n{good},good,test\n{bad},scratch,test\n")
    *figures, head, good_line, bad_line = run("evaluate", fitted, table).stdout.splitlines()
    lines = dict(line.split() for line in figures)
    assert [*lines, "verdicts"] == EVALUATION_KEYS
    assert head.split() == ["verdicts", "OK", "REVIEW", "NG"]
    assert good_line.split() == ["good", "1", "0", "0"]
    assert bad_line.split() == ["defective", "0", "0", "1"]
    assert lines["pixel_auroc"] == "-"
    assert lines["image_auroc"] == "1.0000"
    values = json.loads(run("evaluate", fitted, table, "--json").stdout)
    assert values["aupro"] is None


def test_benchmark_fits_every_category(tmp_path, rng):
    for name in ("a", "b"):
        make_category(tmp_path / name, rng, train=4, good=2, bad=2)
    report = json.loads(run("benchmark", tmp_path, *SMALL, "--json").stdout)
    assert set(report["categories"]) == {"a", "b"}
    assert set(EVALUATION_KEYS) <= set(report["categories"]["a"])
    expected = np.mean([report["categories"][name]["image_auroc"] for name in "ab"])
    assert report["mean"]["image_auroc"] == pytest.approx(expected)
    lines = run("benchmark", tmp_path, *SMALL).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["category", "a", "b", "mean"]
    assert len({len(line.split()) for line in lines}) == 1


def test_backbones_list_names_them_all_with_their_licences(monkeypatch, tmp_path):
    monkeypatch.setenv("PATCHBANK_CACHE", str(tmp_path))
    lines = run("backbones", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [row.name for row in zoo()]
    assert "Apache-2.0" in lines[0]
    assert "patchbank backbones fetch wide_resnet50_2" in lines[-2]
    rows = json.loads(run("backbones", "list", "--json").stdout)
    assert [row["name"] for row in rows] == [row.name for row in zoo()]


def test_backbones_show_works_without_the_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("PATCHBANK_CACHE", str(tmp_path))
    text = run("backbones", "show", "resnet18").stdout
    assert "BSD-3-Clause" in text
    assert any(line.split() == ["layer2", "128", "8", "default"] for line in text.splitlines())
    about = json.loads(run("backbones", "show", "efficientnet_lite0", "--json").stdout)
    assert about["mean"] == [127.0, 127.0, 127.0]
    assert about["default_layers"] == ["blocks.2", "blocks.4"]


def test_backbones_show_of_an_onnx_file_and_a_fit_with_it(category, fitted, tmp_path):
    network = tmp_path / "own.onnx"
    network.write_bytes(PatchCore.load(fitted).backbone.to_onnx())
    text = run("backbones", "show", network).stdout
    assert any(line.split()[:3] == ["blocks.4", "120", "16"] for line in text.splitlines())
    run("fit", category, "-o", tmp_path / "m", *SMALL, "--backbone", network, "--layers", "blocks.2")
    assert [layer.name for layer in PatchCore.load(tmp_path / "m").backbone.info.layers] == ["blocks.2"]


def test_fetch_of_an_installed_network_names_its_file():
    path = run("backbones", "fetch", "efficientnet_lite0").stdout.strip()
    assert path.endswith(".pth")


def test_toml_is_read_and_flags_win(category, tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('image_size = [64, 96]\ncoreset_size = 30\nlayers = ["blocks.2"]\nthreads = 1\n')
    run("fit", category, "-o", tmp_path / "m", "--config", file, "--coreset-size", "20")
    config = PatchCore.load(tmp_path / "m").config
    assert config.image_size == (64, 96)
    assert config.coreset_size == 20
    assert config.layers == ("blocks.2",)


def test_one_bad_image_among_good_ones_is_skipped_counted_and_named(mixed, fitted, tmp_path):
    result = run("fit", mixed, "-o", tmp_path / "m", *SMALL)
    assert "6 images" in result.stdout
    assert "1 image could not be used" in result.stderr
    assert "cut.jpg: is truncated" in result.stderr
    predicted = run("predict", fitted, mixed, "--json", code=3)
    assert len([json.loads(line) for line in predicted.stdout.splitlines()]) == 6
    assert "1 image could not be used" in predicted.stderr
    assert "cut.jpg: is truncated" in predicted.stderr


def test_a_benchmark_names_what_it_could_not_use(tmp_path, rng, truncated):
    make_category(tmp_path / "root/fine", rng, train=4, good=2, bad=2)
    (tmp_path / "root/fine/train/good/cut.jpg").write_bytes(truncated.read_bytes())
    make_category(tmp_path / "root/empty", rng, train=0, good=1, bad=1)
    (tmp_path / "root/empty/train/good").mkdir(parents=True)
    result = run("benchmark", tmp_path / "root", *SMALL, code=3)
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["category", "fine", "mean"]
    assert "cut.jpg: is truncated" in result.stderr
    assert "1 category could not be used" in result.stderr
    assert "  empty: " in result.stderr


def test_an_evaluation_names_the_images_that_it_left_out(fitted, tmp_path, rng, truncated):
    make_category(tmp_path / "c", rng, train=1, good=2, bad=2)
    (tmp_path / "c/test/good/cut.jpg").write_bytes(truncated.read_bytes())
    result = run("evaluate", fitted, tmp_path / "c", "--json", code=3)
    assert json.loads(result.stdout)["n_test"] == 4
    assert json.loads(result.stdout)["n_unreadable"] == 1
    assert "cut.jpg: is truncated" in result.stderr


@pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="needs the extra `demo` (elpv-dataset)")
def test_demo_learns_solar_cells_and_writes_a_report(tmp_path):
    out = tmp_path / "demo"
    text = run("demo", "--out", out, *SMALL).stdout
    assert "learning 200 functional solar cells" in text
    assert "image AUROC" in text
    rows = {line[:18].strip(): line[18:].split() for line in text.splitlines()}
    assert rows[""][:4] == ["images", "OK", "REVIEW", "NG"]
    for name in ("functional, unseen", "defective"):
        assert [int(count) for count in rows[name][:1]] == [sum(map(int, rows[name][1:4]))] == [40]
    if missed := int(rows["defective"][1]):  # and it says which
        named = next(line for line in text.splitlines() if line.startswith("defective, but OK: "))
        assert named.count(".png") == missed
    page = (out / "report.html").read_text(encoding="utf-8")
    unlike_ok = sum(int(count) for name in ("functional, unseen", "defective") for count in rows[name][2:4])
    assert page.count('href="#why-') == min(unlike_ok, 20) > 0
    assert len(list((out / "overlays").rglob("*.png"))) == 80
    again = PatchCore.load(out / "solar.patchbank")
    assert len(again.bank) == 40
    assert str(out / "report.html") in text


def test_sizes_may_differ_from_image_to_image(fitted, tmp_path, rng):
    paths = [write(tmp_path / f"{h}x{w}.png", part(rng, size=(h, w))) for h, w in ((72, 96), (100, 80))]
    assert len(run("predict", fitted, *paths, "--json").stdout.splitlines()) == 2


def test_tune_chooses_and_draws_and_what_it_writes_is_what_fit_takes(category, tmp_path, monkeypatch):
    from patchbank.evaluation import tune

    monkeypatch.setattr(tune, "LEAST_GOOD", 5)
    monkeypatch.setattr(tune, "_SIZES", ())
    for name, size in {"fast": 64, "balanced": 80, "accurate": 96}.items():  # quicker than the real ones
        monkeypatch.setitem(PRESETS, name, {"image_size": (size,)})
    toml = tmp_path / "t.toml"
    result = run("tune", category, "--coreset-size", "40", "--budget-ms", "60000", "-o", toml)
    assert "chosen: " in result.stdout
    assert "labelled defects" in result.stdout
    chosen = result.stdout.rsplit("chosen: ", 1)[1].strip()
    preset, _, precision = chosen.partition(", ")
    assert Config.from_toml(toml) == Config.preset(preset, coreset_size=40, precision=precision or "auto")
    run("fit", category, "-o", tmp_path / "m", "--config", toml)
    plot = ("--plot", tmp_path / "t.png") if importlib.util.find_spec("matplotlib") else ()  # the extra 'plot'
    report = json.loads(run("tune", category, "--coreset-size", "40", "--budget-ms", "60000", "--json", *plot).stdout)
    presets = {"fast", "balanced", "accurate"}
    tried = {trial["name"] for trial in report["trials"]} | set(report["missing"])
    assert tried == presets | {f"{preset}, int8" for preset in presets}
    assert not plot or (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_presets_on_the_command_line_and_in_the_file(category, tmp_path):
    text = 'preset = "accurate"\ncoreset_size = 30\n'
    (tmp_path / "c.toml").write_text(text)
    run("fit", category, "-o", tmp_path / "a", "--config", tmp_path / "c.toml", "--calibration", "none")
    run("fit", category, "-o", tmp_path / "f", "--preset", "fast", "--coreset-size", "30", "--calibration", "none")
    assert PatchCore.load(tmp_path / "a").config.image_size == Config.preset("accurate").image_size
    assert PatchCore.load(tmp_path / "f").config.image_size == Config.preset("fast").image_size


def test_evaluate_writes_a_page(fitted, category, tmp_path):
    values = json.loads(run("evaluate", fitted, category, "--json", "--report", tmp_path / "e.html").stdout)
    page = Page(tmp_path / "e.html")
    assert page.text["h1"] == f"Evaluation of {fitted.name} on {category.name}"
    assert "scratch" in page.text["tbody"]
    figures = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.source))
    assert figures["images"] == "8"
    assert figures["image AUROC"] == f"{values['image_auroc']:.4f}"
    assert figures["pixel AUROC"] == f"{values['pixel_auroc']:.4f}"
    assert "ends in .html" in failure("evaluate", fitted, category, "--report", tmp_path / "e.png", code=2)


def test_evaluate_shows_what_it_misses(fitted, category, tmp_path):
    """A defect that looks like a good part is missed; it is shown, and what is found is not."""
    for kind in ("good", "scratch"):
        shutil.copytree(category / "test" / kind, tmp_path / "set/test" / kind)
    (tmp_path / "set/test/faint").mkdir()
    shutil.copy(category / "test/good/000.png", tmp_path / "set/test/faint/a.png")
    run("evaluate", fitted, tmp_path / "set", "--report", tmp_path / "e.html")
    page = Page(tmp_path / "e.html")
    assert "<dt>missed defects</dt><dd>1 of 5</dd>" in page.source
    assert "test/faint/a.png" in page.text["figcaption"]
    assert "test/scratch/" not in page.text["figcaption"]
    assert len(page.all("img")) == 2


def test_fit_does_not_replace_a_history_unasked(category, tmp_path):
    path = tmp_path / "m.patchbank"
    run("fit", category, "-o", path, *SMALL)
    assert (
        "only 8 training images" in run("fit", category, "-o", path, *SMALL).stderr
    )  # without one, it may be replaced
    run("threshold", path, "--max-false-alarms", "0.3", "-o", path)
    before = path.read_bytes()
    said = failure("fit", category, "-o", path, *SMALL, code=2)
    assert "has 2 versions (the last: threshold of " in said
    assert "--force" in said
    assert path.read_bytes() == before
    run("fit", category, "-o", path, *SMALL, "--force")
    assert len(PatchCore.load(path).versions) == 1
