"""The folder that `patchbank export` writes: what is in it, what is checked before, and what is said of it."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json

import numpy as np
import onnx
import pytest
from exported import SIZE, fitted, graph_of, pictures

from parts import striped
from patchbank import BackboneError, Config, ConfigError, DatasetError, ImageError, Named, PatchCore, export_onnx
from patchbank.backbones.fake import FakeBackbone
from patchbank.export import onnx_graph, reference
from patchbank.export.folder import PROGRAMS
from patchbank.export.thinning import recalibrated, thinned
from patchbank.imaging.images import read_image, write_png
from patchbank.search.searcher import build_searcher
from patchbank.util.progress import silent


@pytest.fixture(scope="module")
def model() -> PatchCore:
    return fitted(np.random.default_rng(0), count=20)


def about(folder) -> dict:
    return json.loads((folder / "reference.json").read_text("utf-8"))


def test_the_folder_holds_all_that_a_program_needs(model, tmp_path):
    done = export_onnx(model, tmp_path / "new" / "out")
    names = {path.relative_to(done.folder).as_posix() for path in done.folder.rglob("*") if path.is_file()}
    rows = about(done.folder)["images"]
    files = {row["file"] for row in rows}
    assert names == {"model.onnx", "reference.json", "reference.csv", "README.md", *PROGRAMS, *files}
    assert 3 <= len(files) <= 5
    assert done.size == SIZE  # the training images': the image check knows it
    assert done.largest_difference < 1e-5
    assert done.file_bytes == (done.folder / "model.onnx").stat().st_size


def test_the_reference_says_what_the_library_says(model, tmp_path):
    export_onnx(model, tmp_path)
    facts = about(tmp_path)
    for row in facts["images"]:
        result = model.predict(tmp_path / row["file"])
        assert (row["score"], row["p_value"]) == (result.score, result.p_value)
        assert facts["verdicts"][str(row["verdict"])] == str(result.verdict).upper()
        assert row["highest"] == pytest.approx(float(result.anomaly_map.max()))
        assert row["image_check"] == pytest.approx([each.value for each in result.scene], rel=1e-6)
    assert facts["threshold"] == model.threshold
    assert facts["model_sha256"] == model.made_by.sha256
    assert facts["graph_sha256"] == hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest()
    assert facts["input"]["shape"] == [*SIZE, 3]
    assert [each["name"] for each in facts["image_check"]] == [each.name for each in result.scene]
    table = list(csv.DictReader((tmp_path / "reference.csv").open(newline="")))
    assert [(row["file"], float(row["score"]), int(row["verdict"])) for row in table] == [
        (row["file"], row["score"], row["verdict"]) for row in facts["images"]
    ]


def test_the_file_says_whose_it_is(model, tmp_path):
    export_onnx(model, tmp_path)
    said = {each.key: each.value for each in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert said["patchbank.model_sha256"] == model.made_by.sha256
    assert float(said["patchbank.threshold"]) == model.threshold


def test_the_same_model_gives_the_same_files(model, tmp_path):
    first, second = (export_onnx(model, tmp_path / name).folder for name in ("a", "b"))
    for path in first.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path


def test_a_second_export_replaces_the_first(model, rng, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    export_onnx(model, tmp_path)
    before = len(about(tmp_path)["images"])
    export_onnx(model, tmp_path, images=[pictures(rng)[0]])
    assert before > 1
    assert [path.name for path in (tmp_path / "reference").iterdir()] == ["1.ppm"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_page_of_an_earlier_export_does_not_stay(model, tmp_path):
    """It would judge by another model."""
    (tmp_path / "inspect.html").write_text("of another model")
    export_onnx(model, tmp_path)
    assert not (tmp_path / "inspect.html").exists()


def test_reference_images_of_ones_own(model, rng, tmp_path):
    """One of each verdict first, at most five; those of other sizes are left out."""
    images = [Named(f"{n}.png", image) for n, image in enumerate(pictures(rng) * 2)]
    images.append(Named("small.png", striped(rng, size=(64, 64))))
    done = export_onnx(model, tmp_path, images=images)
    assert done.images == 10
    rows = about(tmp_path)["images"]
    assert len(rows) == 5
    assert {row["verdict"] for row in rows} == {graph_of(model)(each.image).verdict for each in images[:10]}
    np.testing.assert_array_equal(read_image(tmp_path / rows[0]["file"]), images[0].image)


def test_nothing_says_where_files_lay_on_this_machine(model, rng, tmp_path):
    """The folder is made to be handed on."""
    write_png(tmp_path / "secret" / "a.png", pictures(rng)[0])
    export_onnx(model, tmp_path / "out", images=[tmp_path / "secret" / "a.png"])
    assert about(tmp_path / "out")["images"][0]["name"] == "a.png"
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((64, 64, 3), np.uint8), "expected reference images of 96x128 pixels of 8 bits; got 64x64"),
        (np.zeros((*SIZE, 3), np.uint16), "got 96x128 pixels of float32"),
    ],
)
def test_reference_images_that_the_graph_cannot_take(model, tmp_path, image, words):
    with pytest.raises(ConfigError, match=words):
        export_onnx(model, tmp_path / "out", images=[image])
    assert not (tmp_path / "out").exists()


def test_damaged_reference_images_are_named(model, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.png"):
        export_onnx(model, tmp_path / "out", images=[tmp_path / "bad.png"])


def test_reference_images_are_those_of_the_self_test_else_thumbnails_else_made_up(model, tmp_path):
    """Models of older patchbanks have no self-test."""

    def names(changed):
        export_onnx(changed, tmp_path)
        return [row["name"] for row in about(tmp_path)["images"]]

    kept = names(model)
    assert set(kept[:-1]) <= {model.bank.images[each.image] for each in model.self_test_images}
    assert kept[-1] == f"{kept[0]}, marked"
    older = dataclasses.replace(model, self_test_images=())
    assert names(older)[0] == model.bank.images[min(model.thumbnails)]
    assert names(dataclasses.replace(older, thumbnails={})) == ["made up 1", "made up 2", "made up 1, marked"]


@pytest.mark.parametrize("wrong", ["score", "verdict", "map"])
def test_a_graph_that_disagrees_is_not_written(model, tmp_path, monkeypatch, wrong):
    """The field's most reported fault: an exported model that is another one than that which was tested."""
    scaled, smoothed, review = onnx_graph.scores.scaled, onnx_graph.scores.smoothed, onnx_graph.verdict.verdict
    if wrong == "score":
        monkeypatch.setattr(onnx_graph.scores, "scaled", lambda g, *rest: g.node("Mul", scaled(g, *rest), 1.0002))
    elif wrong == "map":
        monkeypatch.setattr(onnx_graph.scores, "smoothed", lambda g, *rest: g.node("Add", smoothed(g, *rest), 0.1))
    else:
        changed = lambda g, *rest: g.node("Sub", np.array(5, np.int32), review(g, *rest))  # noqa: E731
        monkeypatch.setattr(onnx_graph.verdict, "verdict", changed)
    with pytest.raises(BackboneError, match=r"the graph disagrees with the model about .*; nothing was written"):
        export_onnx(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_of_several_sizes_need_a_size(rng, tmp_path):
    images = [striped(rng, size=(64 + 8 * n, 96)) for n in range(6)]
    model = PatchCore.fit(images, Config(image_size=(64,), coreset_size=20), backbone=FakeBackbone())
    with pytest.raises(ConfigError, match=r"have 6 sizes \(64x96, 72x96, 80x96, ...\).*--input-size"):
        export_onnx(model, tmp_path)
    assert export_onnx(model, tmp_path, input_size=(72, 96)).size == (72, 96)


def test_a_model_that_does_not_know_its_images_size_says_so(rng, tmp_path):
    with pytest.raises(ConfigError, match="does not know the size of its training images"):
        export_onnx(fitted(rng, scene_false_alarms=0.0), tmp_path)


@pytest.mark.parametrize(
    "size", [(8, 9), (96, 128), (480, 640), (1024, 1280), (2048, 2448), (3456, 5184), (4000, 6000)]
)
def test_the_size_of_training_images_is_read_from_the_image_check(model, size):
    """It holds the aspect ratio and the number of pixels as float32, which is enough."""
    measures = model.scene.measures.copy()
    measures[:, 2:4] = np.array([size[1] / size[0], size[0] * size[1]], np.float32)
    changed = dataclasses.replace(model, scene=dataclasses.replace(model.scene, measures=measures))
    assert reference.training_size(changed) == size


def test_a_size_that_is_out_of_distribution_is_said(model, tmp_path):
    done = export_onnx(model, tmp_path, input_size=(96, 300))
    assert any("no verdict will be OK" in remark for remark in done.remarks)
    assert "**Attention:** images of 96x300 pixels are out of distribution" in (tmp_path / "README.md").read_text(
        "utf-8"
    )


def test_a_model_without_threshold_says_so(rng, tmp_path):
    model = fitted(rng, calibration="none")
    done = export_onnx(model, tmp_path, input_size=SIZE)
    assert any("every verdict is REVIEW" in remark for remark in done.remarks)
    assert {row["verdict"] for row in about(tmp_path)["images"]} == {3}
    assert {row["p_value"] for row in about(tmp_path)["images"]} == {None}


def test_what_a_smaller_bank_costs_is_measured(model, rng, tmp_path):
    done = export_onnx(model, tmp_path, bank_size=8, images=pictures(rng))
    cost = done.thinning
    assert done.bank_size == 8
    assert cost.images == 5
    assert 0 <= cost.median_rise <= cost.largest_rise
    assert cost.largest_rise > 0
    assert cost.milliseconds_before > 0
    assert "The bank was thinned to 8 vectors" in (tmp_path / "README.md").read_text("utf-8")
    whole = export_onnx(model, tmp_path, bank_size=len(model.bank))
    assert whole.thinning is None


def test_thresholds_are_measured_again_for_a_smaller_bank(rng, tmp_path):
    """Each training image scores as against a thinned bank without its own vectors; the threshold follows from that,
    and so the guarantee holds for the graph."""
    pictured = {f"{n}.png": striped(rng) for n in range(20)}
    images = [Named(name, image) for name, image in pictured.items()]
    config = Config(image_size=(64,), coreset_size=40, distance_scaling=0.0)
    model = PatchCore.fit(images, config, backbone=FakeBackbone())
    done = export_onnx(model, tmp_path, bank_size=20, training_images=pictured)
    before, threshold = done.thinning.thresholds
    assert before == model.threshold < threshold
    assert about(tmp_path)["threshold"] == threshold
    assert "Thresholds were measured again" in (tmp_path / "README.md").read_text("utf-8")

    smaller = thinned(model, 20)
    again = recalibrated(model, smaller, pictured, silent)
    assert again.threshold == threshold
    for number in np.unique(smaller.bank.image)[:3].tolist():
        kept = smaller.bank.image != number
        parts = {name: getattr(smaller.bank, name)[kept] for name in ("vectors", "image", "row", "column")}
        bank = dataclasses.replace(smaller.bank, **parts)
        alone = dataclasses.replace(smaller, bank=bank, searcher=build_searcher(bank.vectors, config))
        place = again.calibration.images.index(model.bank.images[number])
        score = alone.predict(pictured[model.bank.images[number]]).score
        assert again.calibration.scores[place] == pytest.approx(score, rel=1e-6)


def test_training_images_that_are_not_those_of_the_fit_are_refused(model, rng, tmp_path):
    with pytest.raises(DatasetError, match="calibration images are missing"):
        export_onnx(model, tmp_path, bank_size=8, training_images={})
    others = {name: striped(rng, defect=True) for name in model.bank.images}
    with pytest.raises(ImageError, match="is not the image that the model knows"):
        export_onnx(model, tmp_path, bank_size=8, training_images=others)
    with pytest.raises(ConfigError, match="set bank_size, too"):
        export_onnx(model, tmp_path, training_images=others)
    uncalibrated = fitted(rng, calibration="none")
    with pytest.raises(ConfigError, match="there is no threshold to measure"):
        export_onnx(uncalibrated, tmp_path, input_size=SIZE, bank_size=8, training_images=others)


def test_a_name_from_outside_stays_a_name(rng, tmp_path):
    """Names of networks and images come from a model file, which may be anyone's."""
    images = [Named(f"</script>\x1b[2J{n}.png", striped(rng)) for n in range(6)]
    model = PatchCore.fit(images, Config(image_size=(64,), coreset_size=20), backbone=FakeBackbone())
    export_onnx(model, tmp_path)
    assert "\x1b" not in (tmp_path / "README.md").read_text("utf-8") + (tmp_path / "reference.csv").read_text("utf-8")
    assert about(tmp_path)["images"][0]["name"] in {image.name for image in images}  # JSON holds it as it is
