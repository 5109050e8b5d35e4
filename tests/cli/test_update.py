"""`patchbank update`, `history`, `diff` and `rollback`: what they print, keep and refuse."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from patchbank import PatchCore
from patchbank.util.files import claimed

from .conftest import SMALL, failure, part, run, write


def labelled(rng):
    """A good disc with a white label that no training image has."""
    image = part(rng)
    cv2.rectangle(image, (40, 30), (56, 42), (255, 255, 255), -1)
    return image


@pytest.fixture
def model(fitted, tmp_path):
    shutil.copy(fitted, tmp_path / "disc.patchbank")
    return tmp_path / "disc.patchbank"


@pytest.fixture
def confirmed(tmp_path):
    rng = np.random.default_rng(3)
    for number in range(2):
        write(tmp_path / f"confirmed/{number:03d}.png", labelled(rng))
    return tmp_path / "confirmed"


def judged(rows):
    """What was found, without which model found it and when."""
    return [{key: value for key, value in row.items() if key not in ("model", "time")} for row in rows]


def predicted(model, *images):
    return [json.loads(line) for line in run("predict", model, *images, "--json").stdout.splitlines()]


def test_learn_look_back_and_roll_back(model, confirmed, scratched):
    before = predicted(model, confirmed, scratched)
    assert all(result["is_anomalous"] for result in before)
    result = run("update", model, "--add", confirmed, "--note", "labels are fine", "--author", "ana")
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{model}: version 2, 10 images, ")
    assert lines[1].startswith("added      confirmed/000.png: ")  # 000.png is a training image's name
    assert "joined the bank, score " in lines[1]
    assert "conservative: " in result.stdout
    assert "0 calibration images changed sides" in result.stdout
    after = predicted(model, confirmed, scratched)
    assert [each["is_anomalous"] for each in after] == [False, False, True]

    history = run("history", model).stdout.splitlines()
    assert len(history) == 2
    assert history[0].startswith("   1  8 images, 40 vectors, threshold ")
    assert "added 2 images (+" in history[1]
    assert '"labels are fine"' in history[1]
    assert "ana]" in history[1]

    diff = run("diff", model).stdout
    assert "version    1 -> 2" in diff
    assert "added      confirmed/000.png" in diff

    back = run("rollback", model)
    assert "version 3, 8 images, 40 bank vectors" in back.stdout
    assert "back to version 1" in back.stdout
    assert judged(predicted(model, confirmed, scratched)) == judged(before)


def test_one_image_is_not_several(model, confirmed):
    run("update", model, "--add", confirmed / "000.png")
    run("update", model, "--remove", "confirmed/000.png", "--no-certify")
    learned, forgot = run("history", model).stdout.splitlines()[1:]
    assert "added 1 image (+" in learned
    assert "removed 1 image (-" in forgot


def test_json(model, confirmed):
    values = json.loads(run("update", model, "--add", confirmed, "--json").stdout)
    added = values["after"]["added"]
    assert [each["name"] for each in added] == ["confirmed/000.png", "confirmed/001.png"]
    assert all(each["score_after"] < each["score_before"] for each in added)
    assert values["images_added"] == ["confirmed/000.png", "confirmed/001.png"]
    assert values["changed_sides"] == values["skipped"] == []
    assert len(values["scores"]) == 8
    history = json.loads(run("history", model, "--json").stdout)["versions"]
    assert history == [values["before"], values["after"]]
    assert json.loads(run("diff", model, "1", "2", "--json").stdout) == {
        name: value for name, value in values.items() if name != "skipped"
    }
    back = json.loads(run("rollback", model, "--to", "1", "--note", "no", "--json").stdout)
    assert (back["after"]["restored"], back["after"]["note"]) == (1, "no")


def test_forget_with_the_training_images(model, category):
    result = run("update", model, "--remove", "003.png", "--images", category)
    assert "removed    003.png: " in result.stdout
    assert "refilled " in result.stdout
    assert "confidence, valid: measured with this bank)" in result.stdout
    names = PatchCore.load(model).training_images
    assert "003.png" not in names
    assert len(names) == 7


def test_the_path_of_the_image_tells_where_the_others_are(model, category):
    path = category / "train/good/003.png"
    values = json.loads(run("update", model, "--remove", path, "--json").stdout)
    assert values["images_removed"] == ["003.png"]
    assert values["after"]["calibrated"] == "exact"


def test_a_path_of_another_folder_is_noticed(model, category, tmp_path):
    """test/good/003.png is not train/good/003.png: the scores tell, and nothing is removed."""
    before = model.read_bytes()
    assert "calibration images are missing" in failure(
        "update", model, "--remove", category / "test/good/003.png", code=3
    )
    other = tmp_path / "other"
    shutil.copytree(category / "train/good", other)
    shutil.copy(category / "test/scratch/003.png", other / "003.png")
    assert "003.png: is not the image" in failure("update", model, "--remove", other / "003.png", code=3)
    assert model.read_bytes() == before


def test_forget_without_them_takes_a_word(model):
    assert "--no-recalibrate" in failure("update", model, "--remove", "003.png", code=2)
    result = run("update", model, "--remove", "003.png", "--no-certify")
    assert "INVALID" in result.stdout
    assert "lost its guarantee" in result.stderr
    assert "(invalid)" in run("history", model).stdout.splitlines()[-1]
    info = run("info", model).stdout
    assert "vectors of 7 images" in info
    assert "version      2, update of 20" in info
    assert "scores       INVALID" in info


def test_certify_again(model, category):
    run("update", model, "--remove", "003.png", "--no-certify")
    result = run("update", model, "--images", category / "train/good")
    assert "confidence, valid: measured with this bank)" in result.stdout
    assert "certified again" in run("history", model).stdout.splitlines()[-1]


def test_another_file(model, confirmed, tmp_path):
    before = model.read_bytes()
    run("update", model, "--add", confirmed, "-o", tmp_path / "new.patchbank")
    assert model.read_bytes() == before
    assert len(PatchCore.load(tmp_path / "new.patchbank").versions) == 2
    run("rollback", tmp_path / "new.patchbank", "-o", tmp_path / "back.patchbank")
    assert len(PatchCore.load(tmp_path / "new.patchbank").versions) == 2


def test_another_scene_is_learned_with_a_warning(model, tmp_path):
    rng = np.random.default_rng(5)
    write(tmp_path / "other/noise.png", rng.integers(0, 255, (72, 96, 3), dtype=np.uint8))
    result = run("update", model, "--add", tmp_path / "other")
    assert "is it an image of this scene?" in result.stderr


def test_unreadable_images_are_named_and_the_others_learned(model, confirmed, truncated):
    shutil.copy(truncated, confirmed / "cut.jpg")
    result = run("update", model, "--add", confirmed)
    assert "1 image could not be used" in result.stderr
    assert "cut.jpg: is truncated" in result.stderr
    assert "version 2, 10 images" in result.stdout


def test_what_cannot_be_leaves_the_file_as_it_is(model, category, confirmed, tmp_path):
    before = model.read_bytes()
    (tmp_path / "empty").mkdir()
    cases = [
        (("update", model), 2, "images to add or to remove"),
        (("update", model, "--add", tmp_path / "none"), 3, "nothing is there"),
        (("update", model, "--add", tmp_path / "empty"), 3, "found none"),
        (("update", model, "--remove", "03.png"), 3, "did you mean 003.png"),
        (("update", model, "--remove", "003.png", "--images", confirmed), 3, "calibration images are missing"),
        (("update", model, "--representative", "--remove", "003.png", "--no-certify"), 2, "random_sample"),
        (("update", tmp_path / "none", "--add", confirmed), 5, "no such file"),
        (("update", model, "--add", confirmed, "-o", tmp_path / "no" / "m"), 7, "folder does not exist"),
        (("rollback", model), 2, "expected 1 to 1"),
        (("rollback", model, "--to", "5"), 2, "got 5"),
        (("diff", model), 2, "expected 1 to 1"),
        (("history", category / "train/good/000.png"), 5, "not a whole model file"),
    ]
    for command, code, words in cases:
        assert words in failure(*command, code=code), command
    every = [part for number in range(8) for part in ("--remove", f"{number:03d}.png")]
    assert "would be empty" in failure("update", model, *every, "--no-certify", code=3)
    assert model.read_bytes() == before


def test_another_threshold_says_whether_the_scores_are_still_the_banks(model):
    """A promise from scores of another bank is none: the table, JSON and the written model all say so."""
    assert run("threshold", model).stderr == ""
    run("update", model, "--remove", "003.png", "--no-certify")
    for flags in ((), ("--json",), ("--max-false-alarms", "0.3", "-o", model, "--note", "too strict")):
        result = run("threshold", model, *flags)
        assert "INVALID" in result.stderr
        if flags == ("--json",):
            assert json.loads(result.stdout)["calibrated"] == "stale"
    last = PatchCore.load(model).versions[-1]
    assert (last.action, last.note, last.calibrated, last.max_false_alarms) == ("threshold", "too strict", "stale", 0.3)


def test_two_updates_at_once(model, confirmed):
    before = model.read_bytes()
    with claimed(model):
        assert "being changed by another process" in failure("update", model, "--add", confirmed, code=7)
        assert "being changed by another process" in failure("rollback", model, code=7)
        assert "being changed by another process" in failure("threshold", model, "-o", model, code=7)
    assert model.read_bytes() == before


def test_an_interrupted_update_leaves_the_file_as_it_is(model, confirmed, monkeypatch):
    before = model.read_bytes()

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(PatchCore, "save", interrupt)
    assert "interrupted" in failure("update", model, "--add", confirmed, code=130)
    assert model.read_bytes() == before
    assert [path.name for path in model.parent.iterdir() if "part" in path.suffix] == []


def test_a_model_without_calibration(category, confirmed, tmp_path):
    path = tmp_path / "m.patchbank"
    run("fit", category, "-o", path, *SMALL, "--calibration", "none")
    result = run("update", path, "--add", confirmed, "--remove", category / "train/good/003.png")
    assert "threshold" not in result.stdout
    assert "threshold -" in run("history", path).stdout
    assert "none -> none" in run("diff", path).stdout
