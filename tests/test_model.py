"""PatchCore end to end on a fake network: what fit, predict, save and load promise."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from parts import striped
from patchbank import Config, PatchCore, Runtime
from patchbank.backbones.fake import FakeBackbone
from patchbank.errors import ConfigError, DatasetError, ImageError, ModelFileError
from patchbank.model_file import archive as artifact
from patchbank.model_file import contents as packing
from patchbank.search.exact import ExactSearcher

GOLDEN = Path(__file__).parent / "golden"
SMALL = Config(image_size=64, coreset_ratio=0.3, smoothing_sigma=0.5, thumbnail_size=32)


@pytest.fixture
def good(rng):
    return [striped(rng) for _ in range(12)]


@pytest.fixture
def model(good):
    return PatchCore.fit(good, SMALL, backbone=FakeBackbone())


def test_says_which_pictures_the_memory_did_not_hold(rng):
    images = [rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(12)]
    config = dataclasses.replace(SMALL, thumbnail_size=256)
    tight = PatchCore.fit(images, config, backbone=FakeBackbone(), runtime=Runtime(memory="1MB"))
    used = {tight.bank.images[image] for image in tight.bank.image.tolist()}
    pictured = {tight.bank.images[image] for image in tight.thumbnails}
    assert tight.unpictured
    assert set(tight.unpictured) == used - pictured
    assert PatchCore.fit(images, config, backbone=FakeBackbone()).unpictured == ()
    assert PatchCore.fit(images, SMALL, backbone=FakeBackbone(), runtime=Runtime(memory="1MB")).unpictured == ()
    off = dataclasses.replace(SMALL, thumbnail_size=0)
    assert PatchCore.fit(images, off, backbone=FakeBackbone()).unpictured == ()


def test_finds_the_defect_and_where_it_is(model, rng):
    fine, broken = model.predict(striped(rng)), model.predict(striped(rng, defect=True))
    assert fine.is_anomalous is False
    assert broken.is_anomalous is True
    assert broken.score > 2 * fine.score
    region = broken.regions[0]
    x, y, width, height = region.box
    assert x <= 96 <= x + width
    assert y <= 72 <= y + height
    assert broken.mask[72, 96]
    assert broken.mask.sum() == sum(r.area for r in broken.regions)
    assert broken.anomaly_map[:24, :40].max() < 0.1 * broken.anomaly_map.max()
    assert fine.regions == ()
    assert not fine.mask.any()


def test_result_has_the_original_size(model, rng):
    for size in ((96, 128), (50, 200), (333, 77)):
        result = model.predict(striped(rng, size=size))
        assert result.anomaly_map.shape == result.mask.shape == result.image_size == size
        assert result.anomaly_map.dtype == np.float32
        assert result.overlay().shape == (*size, 3)


def test_one_image_alone_and_among_others_gives_the_same_numbers(model, rng):
    images = [striped(rng), striped(rng, defect=True), striped(rng, size=(40, 70))]
    alone = [model.predict(image) for image in images]
    for others in (model.predict(images), model.predict(tuple(images)), list(model.predict(iter(images)))):
        for one, among in zip(alone, others, strict=True):
            assert one.score == among.score
            np.testing.assert_array_equal(one.anomaly_map, among.anomaly_map)


def test_an_iterator_is_consumed_as_results_are_asked_for(model, rng):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield striped(rng)

    results = model.predict(endless())
    next(results)
    next(results)
    assert len(taken) < 10


def test_path_array_and_pil_give_the_same_score(model, rng, tmp_path):
    image = striped(rng, defect=True)
    cv2.imwrite(str(tmp_path / "a.png"), image[:, :, ::-1])
    scores = {
        model.predict(source).score
        for source in (image, Image.fromarray(image), tmp_path / "a.png", str(tmp_path / "a.png"))
    }
    assert len(scores) == 1
    deep = model.predict(image.astype(np.uint16) * 257).score
    assert deep == pytest.approx(model.predict(image / 255.0).score, rel=1e-4)
    assert deep == pytest.approx(next(iter(scores)), rel=0.02)  # 8-bit resizing rounds, 16-bit does not


def test_scores_survive_save_and_load_to_the_bit(model, rng, tmp_path):
    model.save(tmp_path / "m.patchbank")
    again, twice = (PatchCore.load(tmp_path / "m.patchbank") for _ in range(2))
    assert again.config == model.config
    assert again.bank.images == model.bank.images
    assert again.thumbnails == model.thumbnails
    np.testing.assert_array_equal(again.bank.vectors, model.bank.vectors)
    assert again.calibration.threshold == model.calibration.threshold
    image = striped(rng, defect=True)
    first = again.predict(image)
    np.testing.assert_array_equal(first.patch_scores, twice.predict(image).patch_scores)
    # The fake network is saved as a graph: another implementation of the same sums, equal up to their rounding.
    np.testing.assert_allclose(first.patch_scores, model.predict(image).patch_scores, rtol=1e-3, atol=1e-3)
    again.save(tmp_path / "again.patchbank")
    assert (tmp_path / "again.patchbank").read_bytes() == (tmp_path / "m.patchbank").read_bytes()


def test_same_seed_same_bytes_other_seed_other_bytes(good, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = dataclasses.replace(SMALL, seed=seed)
        PatchCore.fit(good, config, backbone=FakeBackbone()).save(tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_training_images_score_zero_with_the_whole_bank(good):
    model = PatchCore.fit(good, dataclasses.replace(SMALL, sampler="identity"), backbone=FakeBackbone())
    assert len(model.bank) == 12 * 8 * 8
    assert model.bank.covering_radius == 0
    assert model.predict(good[3]).score == 0


def test_provenance_names_the_patch(good):
    """Every bank vector is the feature of the place that it claims to come from."""
    model = PatchCore.fit(good, dataclasses.replace(SMALL, sampler="identity"), backbone=FakeBackbone())
    result = model.predict(good[5])
    assert model.bank.origin(int(result.nearest[2, 3])) == ("image 5", 2, 3)


def test_leave_one_out_does_not_know_the_image_itself(good, rng):
    """An odd training image has a high held-out score, though the bank contains it."""
    odd = striped(rng, defect=True)
    model = PatchCore.fit([*good, odd], SMALL, backbone=FakeBackbone())
    assert model.calibration.scores.argmax() == 12
    assert model.calibration.scores[12] > 2 * np.median(model.calibration.scores)
    assert model.predict(odd).score < model.calibration.scores[12]


def test_leave_one_out_equals_refitting_without_the_image(good):
    """With the whole bank, leaving one image's vectors out is exactly a model fitted without it."""
    config = dataclasses.replace(SMALL, sampler="identity", distance_scaling=0)  # which all images have a part in
    model = PatchCore.fit(good, config, backbone=FakeBackbone())
    for left_out in (0, 7):
        rest = [image for number, image in enumerate(good) if number != left_out]
        without = PatchCore.fit(rest, config, backbone=FakeBackbone())
        assert without.predict(good[left_out]).score == pytest.approx(model.calibration.scores[left_out], rel=1e-6)


def test_holdout_images_are_not_in_the_bank(good):
    model = PatchCore.fit(
        good, dataclasses.replace(SMALL, calibration="holdout", holdout_fraction=0.25), backbone=FakeBackbone()
    )
    assert len(model.calibration.images) == 3
    held = {model.bank.images.index(name) for name in model.calibration.images}
    assert not held & set(model.bank.image.tolist())
    for name, score in zip(model.calibration.images, model.calibration.scores, strict=True):
        assert model.predict(good[int(name.split()[1])]).score == pytest.approx(float(score), rel=1e-6)


def test_without_calibration_there_is_no_verdict(good, rng):
    result = PatchCore.fit(good, dataclasses.replace(SMALL, calibration="none"), backbone=FakeBackbone()).predict(
        striped(rng, defect=True)
    )
    assert result.threshold is None
    assert result.is_anomalous is None
    assert result.regions == ()
    assert not result.mask.any()
    assert result.anomaly_map.max() > 0


def test_to_dict_is_json_with_the_promised_keys(model, rng):
    values = json.loads(json.dumps(model.predict(striped(rng, defect=True)).to_dict(), allow_nan=False))
    keys = [
        "path",
        "score",
        "threshold",
        "is_anomalous",
        "p_value",
        "regions",
        "in_scene",
        "scene",
        "model",
        "time",
        "verdict",
        "reason",
    ]
    assert list(values) == keys
    assert set(values["regions"][0]) == {"box", "area", "peak", "peak_score", "contour"}


def test_timings_name_the_stages(model, rng):
    result = model.predict(striped(rng))
    assert set(result.timings) == {"decode", "resize", "backbone", "embed", "search", "score", "scene"}
    _ = result.anomaly_map
    assert result.timings["map"] > 0


@pytest.mark.parametrize(
    "options",
    [
        {"image_score": "top_fraction", "top_fraction": 0.1},
        {"image_score": "reweighted"},
        {"num_neighbours": 3},
        {"search": "ivf"},
        {"search": "flat"},
        {"embedding": "reference", "pretrain_embed_dim": 30, "target_embed_dim": 20},
        {"patch_size": 5, "patch_stride": 2},
        {"layers": ("stride8",)},
        {"sampler": "random"},
        {"sampler": "greedy_coreset"},
        {"image_size": (48, 80)},
        {"coreset_size": 50},
    ],
)
def test_every_option_has_an_effect_and_survives_the_file(good, rng, tmp_path, options):
    """No option is accepted and ignored: scores differ from the default's, and the loaded model repeats them."""
    if "search" in options:
        pytest.importorskip("faiss", reason="the extra 'ann' is not installed")

    def fit(config):
        layers = FakeBackbone().info.layers[:1] if config.layers else FakeBackbone().info.layers
        return PatchCore.fit(good, config, backbone=FakeBackbone(layers))

    base, other = fit(SMALL), fit(dataclasses.replace(SMALL, **options))
    image = striped(rng, defect=True)
    if "search" not in options:
        same_bank = np.array_equal(base.bank.vectors, other.bank.vectors)
        assert not same_bank or base.predict(image).score != other.predict(image).score
    other.save(tmp_path / "m")
    loaded = PatchCore.load(tmp_path / "m")
    assert loaded.config == other.config
    assert loaded.predict(image).score == pytest.approx(other.predict(image).score, rel=1e-3)


def test_unreadable_images_raise_or_are_listed(good, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 no")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        PatchCore.fit([*good, tmp_path / "bad.jpg"], SMALL, backbone=FakeBackbone())
    model = PatchCore.fit([tmp_path / "bad.jpg", *good], SMALL, backbone=FakeBackbone(), skip_unreadable=True)
    assert [s.name for s in model.skipped] == [str(tmp_path / "bad.jpg")]
    assert len(model.bank.images) == 12
    assert len(model.thumbnails) == 12


def test_nothing_to_learn_from(good, tmp_path):
    with pytest.raises(DatasetError, match="at least one image"):
        PatchCore.fit([], SMALL, backbone=FakeBackbone())
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"all 1 were unusable, the first because: .*0 bytes"):
        PatchCore.fit([tmp_path / "bad.png"], SMALL, backbone=FakeBackbone(), skip_unreadable=True)
    with pytest.raises(DatasetError, match="at least 2 images"):
        PatchCore.fit(good[:1], SMALL, backbone=FakeBackbone())
    with pytest.raises(DatasetError, match="sequence of images"):
        PatchCore.fit("folder", SMALL, backbone=FakeBackbone())


def test_one_image_is_enough_without_calibration(good):
    assert (
        len(PatchCore.fit(good[:1], dataclasses.replace(SMALL, calibration="none"), backbone=FakeBackbone()).bank) > 0
    )


def test_more_neighbours_than_vectors_is_an_error(good):
    with pytest.raises(ConfigError, match="got 9"):
        PatchCore.fit(good, dataclasses.replace(SMALL, coreset_size=5, num_neighbours=9), backbone=FakeBackbone())


def test_generators_of_unknown_length(good):
    listed = PatchCore.fit(good, SMALL, backbone=FakeBackbone())
    generated = PatchCore.fit((image for image in good), SMALL, backbone=FakeBackbone())
    np.testing.assert_array_equal(listed.bank.vectors, generated.bank.vectors)


def test_progress_reports_each_stage_to_its_end(good):
    seen: dict[str, tuple[int, int]] = {}
    PatchCore.fit(
        good, SMALL, backbone=FakeBackbone(), progress=lambda stage, done, total: seen.update({stage: (done, total)})
    )
    assert seen["embed"] == seen["calibrate"] == (12, 12)
    assert "coreset" in seen
    assert seen["coreset"][0] == seen["coreset"][1]


def test_interrupting_passes_through(good):
    def interrupt(stage, done, total):
        if stage == "calibrate":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PatchCore.fit(good, SMALL, backbone=FakeBackbone(), progress=interrupt)


def test_manifest_of_nonsense_is_a_model_file_error(model, tmp_path):
    from patchbank.model_file import archive as artifact
    from patchbank.model_file.contents import packed

    manifest, entries = packed(model)
    for change in (
        {"config": {"x": 1}},
        {"config": 3},
        {"backbone": {}},
        {"bank": None},
        {"bank": {"images": [], "covering_radius": 1}},
        {"calibration": {}},
        {"calibration": {"images": ["a"], "method": "m"}},
        {"config": manifest["config"] | {"max_false_alarms": "high"}},
        {"format_version": 1},  # in which an option has another name
    ):
        artifact.write(tmp_path / "m", manifest | change, entries)
        with pytest.raises(ModelFileError):
            PatchCore.load(tmp_path / "m")


def test_a_file_of_version_1_loads_and_is_saved_as_the_present_one(good, rng, tmp_path):
    """Version 1 knew one grid for all images, that of its image_size, and did not store it."""
    from patchbank.model_file import archive as artifact
    from patchbank.model_file.contents import packed

    model = PatchCore.fit(good, dataclasses.replace(SMALL, image_size=(64, 96)), backbone=FakeBackbone())
    manifest, entries = packed(model)
    old = artifact.read_tensors(memoryview(entries["bank.safetensors"]), packing_bank())
    del old["grids"]
    manifest["config"]["false_alarm_rate"] = manifest["config"].pop("max_false_alarms")
    del manifest["config"]["confidence"], manifest["bank"]["expected"], manifest["self_test"]
    del manifest["config"]["distance_scaling"], manifest["config"]["score_smoothing"]
    first = {"backbone.onnx", "calibration.safetensors"} | {name for name in entries if name.startswith("thumbnails/")}
    entries = {name: entries[name] for name in entries if name in first}
    artifact.write(
        tmp_path / "1",
        manifest | {"format_version": 1, "normal": None, "scene": None},
        entries | {"bank.safetensors": artifact.tensor_bytes(old)},
    )
    loaded = PatchCore.load(tmp_path / "1")
    assert loaded.bank.grids.tolist() == model.bank.grids.tolist() == [[8, 12]] * len(good)
    assert (loaded.config.distance_scaling, loaded.config.score_smoothing) == (0, 0)  # its scores stay what they were
    loaded.save(tmp_path / "2")
    again, image = PatchCore.load(tmp_path / "2"), striped(rng, defect=True)
    assert artifact.ModelFile(tmp_path / "2").manifest["format_version"] == artifact.FORMAT_VERSION
    assert again.predict(image).score == loaded.predict(image).score
    assert again.scene is None
    assert again.predict(image).in_distribution is None


def test_a_file_that_version_1_wrote(tmp_path):
    """Its scores, its threshold (a promise on average) and so its verdicts are what they were."""
    rng = np.random.default_rng(11)
    image = 100 + 40 * np.sin(np.arange(48) / 3)[None, :, None] + rng.normal(0, 4, (32, 48, 3))
    image[20:28, 30:42] = 250
    loaded = PatchCore.load(GOLDEN / "version1.patchbank")
    result = loaded.predict(np.clip(image, 0, 255).astype(np.uint8))
    assert result.score == pytest.approx(9.290969848632812, rel=1e-4)
    assert (result.threshold, result.pixel_threshold) == (0.5873534083366394, 0.5655186176300049)
    assert (loaded.config.max_false_alarms, loaded.config.confidence) == (0.2, 0.0)
    loaded.save(tmp_path / "2")
    again = PatchCore.load(tmp_path / "2")
    assert again.config == loaded.config
    assert again.calibration.threshold == loaded.calibration.threshold


def test_another_threshold_without_another_fit(model, rng, tmp_path):
    """Only the promise changes; what is saved, loaded and shown agrees with it."""
    other = model.with_threshold(max_false_alarms=0.4, confidence=0.5)
    assert other.calibration.threshold < model.calibration.threshold
    assert other.calibration.support.satisfied
    assert not model.calibration.support.satisfied
    image = striped(rng, defect=True)
    assert other.predict(image).score == model.predict(image).score
    assert other.predict(image).threshold == other.calibration.threshold
    other.save(tmp_path / "m")
    loaded = PatchCore.load(tmp_path / "m")
    assert loaded.config == other.config == dataclasses.replace(model.config, max_false_alarms=0.4, confidence=0.5)
    assert loaded.calibration.threshold == other.calibration.threshold
    back = loaded.with_threshold(max_false_alarms=0.01, confidence=0.95)
    assert back.calibration.threshold == model.calibration.threshold
    assert loaded.with_threshold(confidence=0.0).config.max_false_alarms == 0.4
    with pytest.raises(ConfigError, match="max_false_alarms: expected at least 0"):
        model.with_threshold(max_false_alarms=5)  # a share, not per cent


def test_without_held_out_scores_there_is_no_other_threshold(good):
    model = PatchCore.fit(good, dataclasses.replace(SMALL, calibration="none"), backbone=FakeBackbone())
    with pytest.raises(ConfigError, match="no held-out scores"):
        model.with_threshold(max_false_alarms=0.1)


def test_the_thresholds_of_a_file_are_those_of_its_options(model, tmp_path):
    """One source of truth: what the manifest says beside the scores is for its readers only."""
    from patchbank.model_file import archive as artifact
    from patchbank.model_file.contents import packed

    manifest, entries = packed(model)
    manifest["calibration"] |= {"threshold": 0.0, "max_false_alarms": 0.5, "supported": True}
    artifact.write(tmp_path / "m", manifest, entries)
    assert PatchCore.load(tmp_path / "m").calibration.threshold == model.calibration.threshold


def test_held_out_scores_that_are_not_finite_are_refused(model, tmp_path):
    from patchbank.model_file import archive as artifact
    from patchbank.model_file.contents import packed

    manifest, entries = packed(model)
    for name in ("scores", "peaks"):
        held = {"scores": model.calibration.scores.copy(), "peaks": model.calibration.peaks.copy()}
        held[name][3] = np.nan
        entries["calibration.safetensors"] = artifact.tensor_bytes(held)
        artifact.write(tmp_path / "m", manifest, entries)
        with pytest.raises(ModelFileError, match="finite"):
            PatchCore.load(tmp_path / "m")


def test_p_values_say_how_odd_an_image_is(model, good, rng):
    odd = model.predict(striped(rng, defect=True))
    assert odd.p_value == odd.to_dict()["p_value"] == 1 / 13
    assert model.predict(good[0]).p_value > 0.5  # the bank knows it: it looks less odd than images that were left out


def test_at_most_the_promised_share_of_normal_images_has_a_flagged_pixel(good, rng):
    """The pixel threshold is held against whole images: with it, no more of them than promised get any region."""
    model = PatchCore.fit(
        [*good, *(striped(rng) for _ in range(28))],
        dataclasses.replace(SMALL, max_false_alarms=0.1, confidence=0.9),
        backbone=FakeBackbone(),
    )
    assert model.calibration.support.satisfied
    flagged = np.mean([bool(result.mask.any()) for result in model.predict([striped(rng) for _ in range(200)])])
    assert 0 < flagged <= 0.1


def packing_bank():
    from patchbank.model_file import contents as packing

    return packing._BANK


@pytest.mark.parametrize(
    ("version", "name", "value"),
    [
        (2, "grids", [[8, 8]]),
        (2, "grids", [[2, 2]] * 12),
        (2, "grids", [[8, 8]] * 11 + [[0, 0]]),
        (2, "row", -1),
        (2, "column", 2**20),
        (1, "row", -1),
        (1, "column", 2**31 - 1),
    ],
)
def test_places_outside_of_their_grids_are_refused(model, tmp_path, version, name, value):
    """A model file is untrusted: what shows or removes patches by their places can rely on them."""
    from patchbank.model_file import archive as artifact
    from patchbank.model_file.contents import packed

    manifest, entries = packed(model)
    tensors = dict(artifact.read_tensors(memoryview(entries["bank.safetensors"]), packing_bank()))
    tensors[name] = np.full_like(tensors[name], value) if np.ndim(value) == 0 else np.array(value, np.int32)
    if version == 1:
        del tensors["grids"]
    entries = entries | {"bank.safetensors": artifact.tensor_bytes(tensors)}
    artifact.write(tmp_path / "m", manifest | {"format_version": version}, entries)
    with pytest.raises(ModelFileError):
        PatchCore.load(tmp_path / "m")


def test_names_are_relative_to_the_folder_that_all_share(good, tmp_path):
    for number, image in enumerate(good[:4]):
        folder = tmp_path / "train" / ("a" if number % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    paths = sorted((tmp_path / "train").rglob("*.png"))
    assert PatchCore.fit(paths, SMALL, backbone=FakeBackbone()).bank.images == (
        "a/1.png",
        "a/3.png",
        "b/0.png",
        "b/2.png",
    )


def test_overlay_of_a_file_that_has_gone(model, rng, tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), striped(rng))
    result = model.predict(path)
    path.unlink()
    with pytest.raises(ImageError, match="no such file"):
        result.overlay()


def test_predict_each_goes_on_after_an_unusable_image(model, rng, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no")
    image = striped(rng)
    first, bad, last = model.predict_each([image, tmp_path / "bad.jpg", image])
    assert first.score == last.score == model.predict(image).score
    assert bad.name == str(tmp_path / "bad.jpg")
    assert "bad.jpg" in bad.reason
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        model.predict([image, tmp_path / "bad.jpg"])


@pytest.mark.parametrize(("search", "least"), [("exact", 1.0), ("flat", 0.98), ("ivf", 0.8)])  # older faiss rounds more
def test_recall_is_measured(good, search, least):
    if search != "exact":
        pytest.importorskip("faiss", reason="the extra 'ann' is not installed")
    model = PatchCore.fit(good, dataclasses.replace(SMALL, search=search), backbone=FakeBackbone())
    assert least <= model.search_recall(good[:3]) <= 1


def test_a_file_that_names_hnsw_loads_and_searches_exactly(good, rng, tmp_path, caplog):
    """Lines must not stop for an update of the software; that its scores are others is said."""
    model = PatchCore.fit(good, SMALL, backbone=FakeBackbone())
    manifest, entries = packing.packed(model)
    manifest["config"]["search"] = "hnsw"
    artifact.write(tmp_path / "old", manifest, entries)
    loaded = PatchCore.load(tmp_path / "old")
    assert loaded.config == model.config
    assert isinstance(loaded.searcher, ExactSearcher)
    model.save(tmp_path / "new")
    image = striped(rng, defect=True)
    assert loaded.predict(image).score == PatchCore.load(tmp_path / "new").predict(image).score
    (warning,) = [each for each in caplog.records if each.name == "patchbank" and not hasattr(each, "remark")]
    assert "old: it was fitted with search = 'hnsw'" in warning.getMessage()
    assert "fit it again" in warning.getMessage()
    manifest["config"]["search"] = "annoy"
    artifact.write(tmp_path / "odd", manifest, entries)
    with pytest.raises(ModelFileError, match="expected one of exact, flat, ivf"):
        PatchCore.load(tmp_path / "odd")
