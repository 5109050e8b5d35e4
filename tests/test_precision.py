"""`precision`: a fit that quantises its network first, and everything that uses such a model afterwards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from parts import Counting, striped
from patchbank import Config, PatchCore, Runtime, load_backbone
from patchbank.backbones import precision_of
from patchbank.backbones.session import OnnxBackbone
from patchbank.errors import BackboneError, ConfigError, DatasetError, ImageError, ModelFileError
from patchbank.fit import quantise
from patchbank.imaging.images import read_image
from patchbank.model_file import archive, contents

# The smallest network of the zoo, cut early, on small images: milliseconds an image.
SMALL = Config(
    backbone="efficientnet_lite0", layers=("blocks.1", "blocks.2"), image_size=64, coreset_size=40, precision="int8"
)


@pytest.fixture
def images(rng: np.random.Generator) -> list[Any]:
    return [striped(rng) for _ in range(12)]


@pytest.fixture(scope="module")
def model() -> PatchCore:
    rng = np.random.default_rng(7)
    return PatchCore.fit([striped(rng) for _ in range(12)], SMALL)


def network_of(model: PatchCore) -> bytes:
    return model.backbone.to_onnx()


def features(model: PatchCore, image: Any) -> Any:
    return model._describe(read_image(image, model.config.image_format)).features


def test_bank_scores_and_inspection_are_of_the_quantised_network(model: PatchCore, rng: np.random.Generator) -> None:
    """A training image that is inspected is at a distance of 0 from its own vectors: nothing has drifted since."""
    assert (model.config.precision, precision_of(model.backbone)) == ("int8", "int8")
    again = np.random.default_rng(7)
    learned = [striped(again) for _ in range(12)]
    number = int(model.bank.image[0])
    rows, own = features(model, learned[number]), model.bank.vectors[model.bank.image == number]
    for vector in own:
        assert (rows == vector).all(axis=1).any()
    good, bad = model.predict([striped(rng), striped(rng, defect=True)])
    assert good.score < bad.score
    assert bad.verdict == "ng"


def test_the_same_fit_writes_the_same_bytes(model: PatchCore, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    again = PatchCore.fit([striped(rng) for _ in range(12)], SMALL)
    assert contents.file_bytes(again) == contents.file_bytes(model)


def test_a_saved_model_gives_the_same_scores_and_keeps_its_network(
    model: PatchCore, tmp_path: Path, rng: np.random.Generator
) -> None:
    """The file holds the network in bytes; loading and every later version leave it as it is."""
    model.save(tmp_path / "m.patchbank")
    loaded = PatchCore.load(tmp_path / "m.patchbank")
    image = striped(rng, defect=True)
    assert loaded.config == model.config
    assert loaded.predict(image).score == model.predict(image).score
    assert archive.ModelFile(tmp_path / "m.patchbank").entry("backbone.onnx") == network_of(model)
    updated = loaded.update(add=[striped(rng, stain=True)], time="2026-01-01T00:00:00+00:00")
    stricter = updated.with_threshold(confidence=0.5)
    for later in (updated, stricter, stricter.rollback(1)):
        assert network_of(later) == network_of(model)
        assert later.config.precision == "int8"


def test_float32_is_the_network_as_it_is(images: list[Any]) -> None:
    """And `auto` is one of the two."""
    model = PatchCore.fit(images, dataclasses.replace(SMALL, precision="float32"))
    assert network_of(model) == load_backbone("efficientnet_lite0", SMALL.layers).to_onnx()
    assert model.config.precision == "float32"
    auto = PatchCore.fit(images, dataclasses.replace(SMALL, precision="auto"))
    assert auto.config.precision == precision_of(auto.backbone)


def test_images_are_measured_as_the_network_will_see_them(images: list[Any], monkeypatch: Any) -> None:
    """In tiles, in the region of interest, in groups of channels: what is stored must hold all of it."""
    several = [np.concatenate([image, 255 - image], axis=2) for image in images]  # 6 channels: two groups
    for changes, given in (
        ({"image_size": (160, 256), "tile_size": 128, "tile_overlap": 32}, images),
        ({"include": "0.1,0.1 0.9,0.1 0.9,0.9 0.1,0.9"}, images),
        ({"channels": 6}, several),
        ({"drop_outliers": True}, images),
        ({"calibration": "cross_fit"}, images),
    ):
        config = dataclasses.replace(SMALL, **changes)
        model, exact = (PatchCore.fit(given, dataclasses.replace(config, precision=p)) for p in ("int8", "float32"))
        a, b = (features(each, given[0]) for each in (model, exact))
        assert np.linalg.norm(a - b) < 0.25 * np.linalg.norm(b - b.mean(axis=0)), changes
        assert model.predict(given[0]).verdict == exact.predict(given[0]).verdict


def test_an_iterators_first_images_are_measured_and_learned(images: list[Any]) -> None:
    """A camera's frames come once, in one buffer: those that are measured are embedded too, in their order."""
    buffer = np.empty_like(images[0])

    def frames() -> Any:
        for image in images:
            buffer[:] = image
            yield buffer

    model = PatchCore.fit(frames(), SMALL)
    assert len(model.training_images) == len(images)
    number = int(model.bank.image[0])
    assert (features(model, images[number]) == model.bank.vectors[0]).all(axis=1).any()


def test_an_iterators_images_are_held_within_the_memory_budget(images: list[Any], monkeypatch: Any) -> None:
    taken = []

    def frames() -> Any:
        for number, image in enumerate(images):
            taken.append(number)
            yield image

    drawn, _ = quantise._drawn(frames(), 0, 2.5 * images[0].nbytes)
    assert len(list(drawn)) == len(taken) == 3
    drawn, everything = quantise._drawn(iter(images * 9), 0, 1e9)
    assert len(list(drawn)) == quantise.IMAGES
    assert len(list(everything)) == 9 * len(images)


def test_images_that_cannot_be_used_are_not_measured(images: list[Any], tmp_path: Path) -> None:
    """They are named by the fit itself, as without quantising."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(ImageError, match="broken"):
        PatchCore.fit([broken, *images], SMALL)
    with pytest.raises(ImageError, match="broken"):
        PatchCore.fit([broken], SMALL)
    model = PatchCore.fit([broken, *images], SMALL, skip_unreadable=True)
    assert [each.name for each in model.skipped] == [str(broken)]
    assert model.config.precision == precision_of(model.backbone) == "int8"
    with pytest.raises(DatasetError, match="usable images first"):
        PatchCore.fit(iter([broken] * 40 + images), SMALL, skip_unreadable=True)
    with pytest.raises(DatasetError, match="at least one image"):
        PatchCore.fit([broken] * 3, SMALL, skip_unreadable=True)


def test_an_interrupted_fit_goes_on_with_the_same_network(images: list[Any], tmp_path: Path, monkeypatch: Any) -> None:
    """The state belongs to the quantised network, which is made again from the same images."""
    paths = []
    for number, image in enumerate(images):
        paths.append(tmp_path / f"{number:02d}.png")
        cv2.imwrite(str(paths[-1]), image)
    state, seen = tmp_path / "state", []
    features, end = OnnxBackbone.features, 0

    def stopping(self: Any, batch: Any) -> Any:
        seen.append(len(batch))
        if len(seen) == end:
            raise KeyboardInterrupt
        return features(self, batch)

    monkeypatch.setattr(OnnxBackbone, "features", stopping)
    whole = PatchCore.fit(paths, SMALL)
    alone = len(seen)
    end = alone + 7
    with pytest.raises(KeyboardInterrupt):
        PatchCore.fit(paths, SMALL, checkpoint=state)
    assert state.exists()
    resumed = PatchCore.fit(paths, SMALL, checkpoint=state)
    assert contents.file_bytes(resumed) == contents.file_bytes(whole)
    assert len(seen) - end < alone  # some were not embedded again


def test_a_backbone_that_is_passed_is_taken_as_it_is(model: PatchCore, images: list[Any]) -> None:
    """It has its own precision; a config that says another one is an error, not ignored."""
    fake = PatchCore.fit(images, Config(image_size=64, coreset_size=40), backbone=Counting())
    assert fake.config.precision == "float32"
    same = PatchCore.fit(images, Config(image_size=64, coreset_size=40), backbone=model.backbone)
    assert same.config.precision == "int8"
    assert network_of(same) == network_of(model)
    for backbone, precision in ((Counting(), "int8"), (model.backbone, "float32")):
        with pytest.raises(ConfigError, match=r"precision.*taken as it is"):
            PatchCore.fit(images, Config(image_size=64, precision=precision), backbone=backbone)


def test_any_onnx_file_may_be_quantised(images: list[Any], tmp_path: Path, rng: np.random.Generator) -> None:
    """A file of convolutions is; one that is quantised already is taken as it is; one of matrix products is refused."""

    def save(name: str, *nodes: Any, **tensors: Any) -> str:
        entry = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 3, 64, 64])
        out = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["b", 4, "x", "y"])]
        weights = [numpy_helper.from_array(value.astype(np.float32), key) for key, value in tensors.items()]
        graph = helper.make_graph(list(nodes), "g", [entry], out, weights)
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
        onnx.save(model, tmp_path / name)
        return str(tmp_path / name)

    weight = rng.normal(size=(4, 3, 8, 8))
    convolution = helper.make_node("Conv", ["image", "w"], ["y"], kernel_shape=[8, 8], strides=[8, 8])
    path = save("conv.onnx", convolution, helper.make_node("Relu", ["y"], ["out"]), w=weight)
    product = helper.make_node("MatMul", ["y", "m"], ["out"])
    transformer = save("vit.onnx", convolution, product, w=weight, m=rng.normal(size=(8, 8)))
    config = Config(image_size=(64, 64), coreset_size=20, backbone=path, precision="int8")
    model = PatchCore.fit(images, config)
    assert precision_of(model.backbone) == "int8"
    (tmp_path / "again.onnx").write_bytes(network_of(model))
    again = PatchCore.fit(images, dataclasses.replace(config, backbone=str(tmp_path / "again.onnx")))
    assert again.config.precision == "int8"
    np.testing.assert_array_equal(again.bank.vectors, model.bank.vectors)
    with pytest.raises(BackboneError, match=r"matrix products.*float32"):
        PatchCore.fit(images, dataclasses.replace(config, backbone=transformer))


def test_files_from_before_are_of_float32(tmp_path: Path, images: list[Any]) -> None:
    """They do not name a precision; one that leaves it open is no model's file."""
    model = PatchCore.fit(images, dataclasses.replace(SMALL, precision="float32"))
    manifest, entries = contents.packed(model)
    del manifest["config"]["precision"]
    archive.write(tmp_path / "old.patchbank", manifest, entries)
    old = PatchCore.load(tmp_path / "old.patchbank")
    assert old.config.precision == "float32"
    assert old.predict(images[0]).score == model.predict(images[0]).score
    manifest["config"]["precision"] = "auto"
    archive.write(tmp_path / "open.patchbank", manifest, entries)
    with pytest.raises(ModelFileError, match="precision"):
        PatchCore.load(tmp_path / "open.patchbank")


def test_threads_do_not_change_the_network(model: PatchCore) -> None:
    """A fit on one thread writes the same network: what is measured is no sum whose order threads could change much,
    and scales are of few bits."""
    rng = np.random.default_rng(7)
    single = PatchCore.fit([striped(rng) for _ in range(12)], SMALL, runtime=Runtime(threads=1))
    assert network_of(single) == network_of(model)
