"""Vision transformers: outputs of tokens become maps, sides are multiples of patches, one late layer of length 1."""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from patchbank import Config, PatchCore
from patchbank.backbones import BackboneInfo, Layer, load_backbone
from patchbank.backbones.custom import list_layers
from patchbank.backbones.fake import FakeBackbone
from patchbank.backbones.onnx_safety import check_plain
from patchbank.backbones.tokens import Tokens, tokens_of
from patchbank.cli.app import app
from patchbank.errors import BackboneError, ConfigError, ModelFileError
from patchbank.features.extract import layer_maps, tiles_in_phase
from patchbank.fit.remarks import remarks
from patchbank.imaging.images import input_size
from patchbank.model_file import archive
from patchbank.model_file.contents import packed

GOLDEN = Path(__file__).parent / "golden"
NETWORKS = {"dinov2": 14, "dinov3": 16, "hugging_face": 14}
LAST = {"dinov2": "blocks.1", "dinov3": "blocks.1", "hugging_face": "last_hidden_state"}


def _seeded() -> ModuleType:
    """tests/backbones/seeded.py, which the golden script uses too."""
    spec = importlib.util.spec_from_file_location("seeded", GOLDEN.parent / "seeded.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["seeded"] = module
    spec.loader.exec_module(module)
    return module


seeded = _seeded()


def network(
    stride: int = 14,
    prefix: int = 3,
    size: tuple[Any, Any] = ("h", "w"),
    channels: int = 8,
    positions: int = 0,
    name: str = "tokens",
) -> Any:
    """A transformer without attention: each patch's colours, projected (a value inside: `patches`), behind `prefix`
    tokens of hundreds. positions: adds one embedding a token, so that the network takes one size only."""
    rng = np.random.default_rng(0)
    tensors = {
        "weight": rng.standard_normal((channels, 3, 1, 1), dtype=np.float32).repeat(stride, 2).repeat(stride, 3)
        / np.float32(stride**2),
        "first": np.full((1, prefix, channels), 100, np.float32),
        "shape": np.array([0, channels, -1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["map"], strides=[stride, stride]),
        helper.make_node("Reshape", ["map", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["patches"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["first", "patches"], ["all" if positions else name], axis=1),
    ]
    if positions:
        tensors["positions"] = np.zeros((1, positions, channels), np.float32)
        nodes.append(helper.make_node("Add", ["all", "positions"], [name]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 3, *size])
    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(values, key) for key, values in tensors.items()]
    graph = helper.make_graph(nodes, "net", [image], [output], constants)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


def saved(folder: Path, model: Any, **metadata: str) -> str:
    for key, value in metadata.items():
        model.metadata_props.add(key=f"patchbank.{key}", value=value)
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return str(path)


def colours(image: np.ndarray, stride: int) -> np.ndarray:
    """What `network` makes of (1, 3, H, W): the same by hand, (1, C, h, w)."""
    weight = np.random.default_rng(0).standard_normal((8, 3, 1, 1), dtype=np.float32)[:, :, 0, 0]
    rows, columns = image.shape[2] // stride, image.shape[3] // stride
    means = image[0].reshape(3, rows, stride, columns, stride).mean(axis=(2, 4))  # (3, h, w)
    return np.einsum("cr,rhw->chw", weight, means)[None]


# --- what exporters write ---


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_pytorchs(name: str) -> None:
    """DINOv2 and DINOv3 of timm, and a file of transformers: at several shapes, the last block behind the last norm,
    class and registers gone, each vector of length 1. A size that the exporter froze would show."""
    backbone, golden = load_backbone(str(GOLDEN / f"{name}.onnx")), np.load(GOLDEN / "tokens.npz")
    side = NETWORKS[name]
    assert backbone.info.layers == (Layer(LAST[name], 16, side),)
    for seed, (rows, columns) in enumerate(((7, 8), (5, 9), (12, 3))):
        images = seeded.seeded_images(seed, side * rows, side * columns)
        (values,) = backbone.features(images)
        expected = golden[f"{name}/{rows}x{columns}/{LAST[name]}"]
        assert values.shape == (2, 16, rows, columns)
        np.testing.assert_allclose(seeded.sample(values), expected, atol=1e-5)
        assert expected.std() > 0.1, "a golden layer without signal would prove nothing"
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_transformers_come_with_what_suits_them(name: str) -> None:
    """One late layer of several, no neighbourhoods, no pooling of channels, sides of whole patches: from the metadata
    that our export writes, and from nothing but tokens alike."""
    info, side = load_backbone(str(GOLDEN / f"{name}.onnx")).info, NETWORKS[name]
    assert (info.embedding, info.patch_size, info.side_multiple) == ("mean", 1, side)
    assert info.side_step == {14: 14, 16: 32}[side]
    assert len(list_layers(GOLDEN / f"{name}.onnx")) == (1 if name == "hugging_face" else 2)


@pytest.mark.parametrize("name", ["dinov2", "dinov3"])
def test_earlier_blocks_can_be_named(name: str) -> None:
    """Two layers: both of length 1, and the first one's tail is cut where only it is used."""
    path = str(GOLDEN / f"{name}.onnx")
    both, first = (load_backbone(path, layers) for layers in (("blocks.0", "blocks.1"), ("blocks.0",)))
    images = seeded.seeded_images(0, NETWORKS[name] * 4, NETWORKS[name] * 6)
    a, b = both.features(images)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(first.features(images)[0], a)
    assert np.abs(a - b).max() > 0.1
    assert len(first.to_onnx()) < len(both.to_onnx())


@pytest.mark.parametrize("name", NETWORKS)
def test_exported_networks_are_plain(name: str) -> None:
    """Their sizes are computed inside the graph. A model file that holds one loads without anybody's word for it."""
    check_plain((GOLDEN / f"{name}.onnx").read_bytes(), 448)
    check_plain(load_backbone(str(GOLDEN / f"{name}.onnx")).to_onnx(), 384)


# --- tokens to maps ---


@pytest.mark.parametrize(
    ("counts", "prefix", "expected"),
    [
        ([((224, 224), 257), ((448, 448), 1025)], None, Tokens(14, 1)),
        ([((224, 224), 201), ((448, 448), 789)], None, Tokens(16, 5)),
        ([((224, 224), 49), ((448, 448), 196)], None, Tokens(32, 0)),
        ([((224, 224), 325), ((448, 448), 1370)], None, Tokens(12, 1)),  # leaves 8 and 4 pixels over
        ([((224, 224), 197)], None, Tokens(16, 1)),  # 15 would give as many tokens, and leave pixels over
        ([((518, 518), 1370)], None, Tokens(14, 1)),
        ([((224, 448), 393)], None, Tokens(16, 1)),
        ([((224, 224), 260)], None, Tokens(14, 4)),
        ([((224, 224), 260)], 4, Tokens(14, 4)),
        ([((224, 224), 260)], 3, None),
        ([((224, 224), 100), ((448, 448), 100)], None, None),  # of queries, not of patches
        ([((224, 224), 257), ((448, 448), 1026)], None, None),
    ],
)
def test_the_arrangement_follows_from_counts(counts: Any, prefix: int | None, expected: Tokens | None) -> None:
    """Closed form: patches of the ViTs that there are, their class and registers."""
    assert tokens_of(counts, prefix) == expected


@given(stride=st.sampled_from([4, 7, 8, 14, 16, 28, 32]), prefix=st.integers(0, 40))
def test_any_arrangement_is_found(stride: int, prefix: int) -> None:
    """From the two probe sizes, which such patches divide."""
    counts = [((side, side), (side // stride) ** 2 + prefix) for side in (224, 448)]
    assert tokens_of(counts) == Tokens(stride, prefix)


@pytest.mark.parametrize(("stride", "prefix"), [(14, 0), (14, 1), (16, 5), (8, 2)])
def test_tokens_are_arranged_row_by_row(tmp_path: Path, stride: int, prefix: int) -> None:
    """Against the same by hand, for images higher and wider, in a batch: no class token, rows and columns in place."""
    backbone = load_backbone(saved(tmp_path, network(stride, prefix)))
    assert backbone.info.layers == (Layer("tokens", 8, stride),)
    rng = np.random.default_rng(1)
    for rows, columns in ((3, 5), (5, 3), (1, 7), (4, 4)):
        images = rng.standard_normal((2, 3, stride * rows, stride * columns), dtype=np.float32)
        (values,) = backbone.features(images)
        for image, found in zip(images, values, strict=True):
            expected = colours(image[None], stride)
            expected /= np.linalg.norm(expected, axis=1, keepdims=True)
            np.testing.assert_allclose(found[None], expected, atol=1e-5)


def test_a_vector_of_zeros_stays_one(tmp_path: Path) -> None:
    """No division by nothing: an image as the mean would give NaN, and NaN is no distance."""
    (values,) = load_backbone(saved(tmp_path, network())).features(np.zeros((1, 3, 28, 28), np.float32))
    np.testing.assert_array_equal(values, 0)


def test_values_inside_can_be_tokens_too(tmp_path: Path) -> None:
    """And a map is a map: it is not scaled, unless the file says so."""
    path, image = saved(tmp_path, network()), np.random.default_rng(1).standard_normal((1, 3, 42, 56), dtype=np.float32)
    tokens, maps = (load_backbone(path, (layer,)) for layer in ("patches", "map"))
    expected = colours(image, 14)
    np.testing.assert_allclose(maps.features(image)[0], expected, atol=1e-5)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(tokens.features(image)[0], expected, atol=1e-5)
    assert (maps.info.patch_size, tokens.info.patch_size) == (3, 1)
    assert maps.info.side_multiple == tokens.info.side_multiple == 14


def test_names_that_a_file_has_already_are_not_taken_twice(tmp_path: Path) -> None:
    """A file could hold what we would call our own values."""
    model = network()
    model.graph.node.append(helper.make_node("Identity", ["patches"], ["tokens.tokens"]))
    model.graph.node.append(helper.make_node("Add", ["tokens.tokens", "patches"], ["twice"]))
    model.graph.output.append(helper.make_tensor_value_info("twice", TensorProto.FLOAT, None))
    backbone = load_backbone(saved(tmp_path, model), ("tokens", "twice"))
    a, b = backbone.features(np.random.default_rng(1).standard_normal((1, 3, 28, 42), dtype=np.float32))
    np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("metadata", "about"),
    [
        ({"patch_size": "3"}, {"patch_size": 3}),
        ({"side_multiple": "28"}, {"side_multiple": 28}),
        ({"prefix_tokens": "3"}, {"layers": (Layer("tokens", 8, 14),)}),
        ({"embedding": "reference"}, {"embedding": "reference"}),
    ],
    ids=str,
)
def test_metadata_wins(tmp_path: Path, metadata: dict[str, str], about: dict[str, Any]) -> None:
    """Over what follows from tokens."""
    info = load_backbone(saved(tmp_path, network(), **metadata)).info
    assert {key: getattr(info, key) for key in about} == about


def test_lengths_can_be_kept(tmp_path: Path) -> None:
    """For networks whose lengths mean something."""
    image = np.random.default_rng(1).standard_normal((1, 3, 28, 28), dtype=np.float32)
    (values,) = load_backbone(saved(tmp_path, network(), normalise="none")).features(image)
    np.testing.assert_allclose(values, colours(image, 14), atol=1e-5)


@pytest.mark.parametrize(
    "metadata",
    [
        {"normalise": "l1"},
        {"patch_size": "0"},
        {"patch_size": "many"},
        {"side_multiple": "257"},
        {"prefix_tokens": "-1"},
        {"prefix_tokens": "4"},
        {"prefix_tokens": "³"},
    ],
    ids=str,
)
def test_wrong_metadata_is_an_error(tmp_path: Path, metadata: dict[str, str]) -> None:
    """Not silently the default; four tokens that are no patches leave no grid."""
    with pytest.raises(BackboneError, match=r"net\.onnx.*expected"):
        load_backbone(saved(tmp_path, network(), **metadata))


def test_tokens_that_are_no_patches_are_refused(tmp_path: Path) -> None:
    """One more than a grid at one size, and not at another; the message shows what was got."""
    model = network()
    model.graph.node[-1].output[0] = "whole"
    model.graph.node.append(helper.make_node("Concat", ["whole", "patches"], ["tokens"], axis=1))
    with pytest.raises(BackboneError, match=r"none of the outputs.*515.*224x224.*name layers inside"):
        load_backbone(saved(tmp_path, model))
    with pytest.raises(BackboneError, match=r"layer 'tokens': expected a map.*515.*224x224.*2051.*448x448"):
        load_backbone(saved(tmp_path, model), ("tokens",))


def test_a_file_of_old_operators_says_so(tmp_path: Path) -> None:
    """What the graph would get is written in another way there."""
    model = network()
    model.opset_import[0].version = 9
    with pytest.raises(BackboneError, match="version 10 or later"):
        load_backbone(saved(tmp_path, model))


def test_a_network_of_one_size_that_does_not_say_so(tmp_path: Path) -> None:
    """ViT of transformers, whose position embeddings are those of one size: the error names it, not the runtime's
    operator. 384 is not the first size that is tried."""
    backbone = load_backbone(saved(tmp_path, network(16, 1, positions=24 * 24 + 1)))
    assert backbone.info.layers == (Layer("tokens", 8, 16),)
    assert backbone.features(np.ones((1, 3, 384, 384), np.float32))[0].shape == (1, 8, 24, 24)
    with pytest.raises(BackboneError, match="takes only images of 384x384 pixels"):
        backbone.features(np.ones((1, 3, 224, 224), np.float32))


def test_a_network_of_one_size_that_says_so(tmp_path: Path) -> None:
    """Its sides need not be whole patches: nobody can choose others."""
    info = load_backbone(saved(tmp_path, network(16, 1, (250, 250)))).info
    assert (info.layers, info.side_multiple) == ((Layer("tokens", 8, 16),), 1)
    assert load_backbone(saved(tmp_path, network(14, 1, (518, 518)))).info.side_multiple == 14


# --- sides and tiles ---


@pytest.mark.parametrize(
    ("image_size", "shape", "expected"),
    [
        ((384,), (900, 900), (378, 378)),  # 27 patches: 384 is 27.4 of them
        ((392,), (900, 900), (392, 392)),
        ((384,), (1250, 500), (602, 238)),  # 607 and 243
        ((14,), (10_000, 10), (448, 14)),
        ((238, 322), (900, 900), (238, 322)),
        ((3000, 4000), (3000, 4000), (2996, 4004)),  # longer than a tile
    ],
)
def test_sides_are_whole_patches(image_size: tuple[int, ...], shape: tuple[int, int], expected: Any) -> None:
    """Closed form, for patches of 14 x 14: the nearest multiple, not that of 32."""
    info = BackboneInfo("x", (Layer("a", 8, 14),), (0, 0, 0), (1, 1, 1), "", "mean", 1, 14)
    assert input_size(image_size, shape, 2048, info.side_step) == expected


@given(height=st.integers(8, 5000), width=st.integers(8, 5000), n=st.integers(64, 1024), step=st.integers(1, 64))
def test_sides_are_the_nearest_multiples(height: int, width: int, n: int, step: int) -> None:
    """Whatever the patches: at most half a patch away, and at least one patch."""
    sides = input_size((n,), (height, width), 16384, step)
    wanted = n * (height / width) ** 0.5, n * (width / height) ** 0.5
    for side, exact in zip(sides, wanted, strict=True):
        assert side % step == 0 < side
        assert abs(side - exact) <= step / 2 + 1e-6 or side == step


def test_an_exact_size_of_broken_patches_is_refused(tmp_path: Path) -> None:
    """Two columns at the right would be seen by nobody; the message says which size to take."""
    path = saved(tmp_path, network())
    images = [np.full((64, 64, 3), 90, np.uint8)] * 3
    with pytest.raises(ConfigError, match=r"multiples of 14.*240x320: use 238x322"):
        PatchCore.fit(images, Config(backbone=path, image_size=(240, 320)))
    assert PatchCore.fit(images, Config(backbone=path, image_size=(238, 322))).config.image_size == (238, 322)


def test_tiles_are_whole_patches() -> None:
    """No larger than asked for, with no less overlap; multiples of 32 stay what they are."""
    vit = BackboneInfo("x", (Layer("a", 8, 14),), (0, 0, 0), (1, 1, 1), "", "mean", 1, 14)
    assert tiles_in_phase(2048, 192, vit) == (2044, 196)
    assert tiles_in_phase(640, 0, vit) == (630, 0)
    assert tiles_in_phase(2048, 192, FakeBackbone().info) == (2048, 192)
    with pytest.raises(BackboneError, match="expected a tile_size of more than"):
        tiles_in_phase(160, 64, BackboneInfo("x", (Layer("a", 8, 56),), (0, 0, 0), (1, 1, 1), "", "mean", 1, 56))


@pytest.mark.parametrize(("tile", "overlap"), [(128, 0), (192, 32), (320, 96)])
def test_tiled_maps_are_those_of_the_whole_image(tmp_path: Path, tile: int, overlap: int) -> None:
    """Of a network that sees one patch at a time: any slip of a row or column shows, at each seam."""
    backbone = load_backbone(saved(tmp_path, network()))
    image = np.random.default_rng(2).integers(0, 256, (392, 616, 3)).astype(np.uint8)
    (whole,), (tiled,) = layer_maps(image, backbone, 640, 0), layer_maps(image, backbone, tile, overlap)
    assert whole.shape == (1, 8, 28, 44)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_a_fit_in_tiles_says_what_that_means(tmp_path: Path) -> None:
    """A transformer sees a tile alone; whoever fits one hears it, and nobody else."""
    path, images = saved(tmp_path, network()), [np.full((64, 64, 3), 90, np.uint8)] * 3
    for size, tile, backbone, expected in (
        (252, 128, None, True),
        (252, 256, None, False),
        (256, 128, FakeBackbone(), False),
    ):
        model = PatchCore.fit(
            images, Config(backbone=path, image_size=size, tile_size=tile, tile_overlap=32), backbone=backbone
        )
        assert any("tiles of 128 pixels" in remark for remark in remarks(model)) == expected


# --- whole models ---


def parts(rng: np.random.Generator, count: int, defect: bool = False) -> list[np.ndarray]:
    """Green parts with a blue hole, as a camera sees them. defect: a red stain in the lower right."""
    found = []
    for _ in range(count):
        image = np.full((120, 160, 3), (60, 140, 70), np.float64)
        image[40:80, 50:90] = (50, 60, 150)
        if defect:
            image[84:100, 112:136] = (190, 40, 40)
        found.append(np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8))
    return found


@pytest.mark.parametrize("name", ["hand-made", *NETWORKS])
def test_fit_inspect_save_load_explain(tmp_path: Path, name: str) -> None:
    """The whole way of a transformer: what was left to it is in the model, and the copy that was loaded, with nobody's
    word for it, says the same."""
    path = saved(tmp_path, network()) if name == "hand-made" else str(GOLDEN / f"{name}.onnx")
    rng = np.random.default_rng(3)
    model = PatchCore.fit(parts(rng, 12), Config(backbone=path, image_size=224, coreset_size=400))
    assert (model.config.patch_size, model.config.embedding) == (1, "mean")
    good, bad = model.predict(parts(rng, 1)[0]), model.predict(parts(rng, 1, defect=True)[0])
    assert bad.score > 1.5 * good.score
    if name == "hand-made":  # the others see the whole image at every place, through random weights
        assert (good.is_anomalous, bad.is_anomalous) == (False, True)
        y, x = np.unravel_index(int(bad.anomaly_map.argmax()), bad.anomaly_map.shape)
        assert 76 <= y <= 108
        assert 100 <= x <= 148
    assert bad.score <= 2.5  # unit vectors: no distance is over 2, but for the scaling
    model.save(tmp_path / "part.patchbank")
    loaded = PatchCore.load(tmp_path / "part.patchbank")
    assert loaded.backbone.info == model.backbone.info
    again = loaded.predict(parts(np.random.default_rng(4), 1, defect=True)[0])
    assert again.score == model.predict(parts(np.random.default_rng(4), 1, defect=True)[0]).score
    assert loaded.explain(again).regions


@pytest.mark.parametrize("name", NETWORKS)
def test_eight_bits_are_refused_by_name(name: str) -> None:
    """A transformer is products of two things that are measured, which our 8 bits do not do: an error, and not a
    network that is as slow and worse."""
    images = [np.full((64, 64, 3), 90, np.uint8)] * 3
    with pytest.raises(BackboneError, match=r"precision = 'int8' is not possible.*matrix products.*'float32'"):
        PatchCore.fit(images, Config(backbone=str(GOLDEN / f"{name}.onnx"), image_size=112, precision="int8"))


def test_what_was_set_wins_over_the_networks_choice(tmp_path: Path) -> None:
    """patch_size 3 of a transformer, 5 of a convolutional network; unset, its own 3 as ever."""
    images, path = [np.full((64, 64, 3), 90, np.uint8)] * 3, saved(tmp_path, network())
    assert PatchCore.fit(images, Config(backbone=path, image_size=112, patch_size=3)).config.patch_size == 3
    for wanted, expected in ((5, 5), (0, 3)):
        model = PatchCore.fit(images, Config(image_size=64, patch_size=wanted), backbone=FakeBackbone())
        assert model.config.patch_size == expected


def manifest_of(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as file:
        return dict(json.loads(file.read("manifest.json")))


def test_files_of_other_networks_are_what_they_were(tmp_path: Path) -> None:
    """Older patchbanks refuse keys of a backbone that they do not know. They would round a transformer's sides to
    other sizes, so that they must not read its files; and they must read all others."""
    images = [np.full((64, 64, 3), 90, np.uint8)] * 3
    PatchCore.fit(images, Config(image_size=64), backbone=FakeBackbone()).save(tmp_path / "a.patchbank")
    about = manifest_of(tmp_path / "a.patchbank")
    assert set(about["backbone"]) == {"name", "layers", "mean", "std", "licence", "embedding"}
    assert about["config"]["patch_size"] == 3
    PatchCore.fit(images, Config(backbone=saved(tmp_path, network()), image_size=112)).save(tmp_path / "b.patchbank")
    about = manifest_of(tmp_path / "b.patchbank")
    assert (about["backbone"]["patch_size"], about["backbone"]["side_multiple"]) == (1, 14)


@pytest.mark.parametrize("change", [{"side_multiple": 0}, {"side_multiple": 100_000}, {"patch_size": 16}, {"patch": 1}])
def test_a_manifest_is_held_to_what_a_network_can_be(tmp_path: Path, change: dict[str, int]) -> None:
    """A file that nobody vouches for could ask for sides of a hundred thousand pixels."""
    model = PatchCore.fit([np.full((64, 64, 3), 90, np.uint8)] * 3, Config(image_size=64), backbone=FakeBackbone())
    manifest, entries = packed(model)
    manifest["backbone"] |= change
    archive.write(tmp_path / "x.patchbank", manifest, entries)
    with pytest.raises(ModelFileError, match=next(iter(change))):
        PatchCore.load(tmp_path / "x.patchbank")


def test_show_tells_what_a_network_brings(tmp_path: Path) -> None:
    """On the command line: layers with the default one, patch_size, multiples."""
    runner = CliRunner()
    shown = runner.invoke(app, ["backbones", "show", str(GOLDEN / "dinov2.onnx")]).output
    assert "patch_size 1" in shown
    assert "multiples of 14" in shown
    assert [line.split()[-1] == "default" for line in shown.splitlines() if line.startswith("blocks")] == [False, True]
    plain = runner.invoke(app, ["backbones", "show", "efficientnet_lite0"]).output
    assert "patch_size 3" in plain
    assert "multiples" not in plain
    about = json.loads(runner.invoke(app, ["backbones", "show", str(GOLDEN / "dinov2.onnx"), "--json"]).output)
    assert (about["patch_size"], about["side_multiple"]) == (1, 14)
    assert onnx.load(GOLDEN / "dinov2.onnx").graph.output  # what was shown is the file, not a cut of it
