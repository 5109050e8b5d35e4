"""`predict --coco` and `--labelme`: the same results, in files for other tools; what cannot be written ends nothing."""

from __future__ import annotations

import json
import shutil

from .conftest import failure, run


def test_every_image_is_in_the_files(fitted, category, tmp_path):
    shutil.copytree(category / "test", tmp_path / "parts")
    (tmp_path / "parts/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = run(
        "predict",
        *(fitted, tmp_path / "parts", "--json"),
        *("--coco", tmp_path / "out/coco.json", "--labelme", tmp_path / "out/labelme"),
        code=3,
    )
    results = {each["path"]: each for each in map(json.loads, done.stdout.splitlines())}
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    assert {image["file_name"]: image["score"] for image in coco["images"]} == {
        path: each["score"] for path, each in results.items()
    }
    assert [each["file_name"] for each in coco["skipped"]] == [str(tmp_path / "parts/broken.png")]
    regions = sum(len(each["regions"]) for each in results.values())
    assert len(coco["annotations"]) == regions > 0
    files = [json.loads(path.read_text()) for path in (tmp_path / "out/labelme").iterdir()]
    assert len(files) == len(results)
    assert sum(len(each["shapes"]) for each in files) == regions


def test_labels_that_are_there_stay_and_the_verdicts_are_out(fitted, category, tmp_path):
    image = category / "test/scratch/000.png"
    for code in (0, 7):
        done = run("predict", fitted, image, "--labelme", tmp_path / "labels", code=code)
        assert done.stdout.startswith("NG")
    assert "000.json: it is there already" in done.stderr


def test_a_file_that_cannot_be_written_is_told_before_the_work(fitted, category, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot" in failure("predict", fitted, category / "test", "--coco", tmp_path / "file/coco.json", code=7)
