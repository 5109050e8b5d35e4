"""Any ONNX file as a backbone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from patchbank.backbones import Layer, load_backbone
from patchbank.backbones.custom import list_layers
from patchbank.backbones.zoo import IMAGENET_MEAN, IMAGENET_STD
from patchbank.errors import BackboneError

Save = Callable[..., Path]


def network(batch: Any = "b", height: Any = "h", width: Any = "w") -> Any:
    """Three convolutions (strides 2, 4, 8) and a pooled vector; the value in the middle is no output."""
    rng = np.random.default_rng(0)
    nodes, weights, channels = [], [], 3
    for i, (name, c) in enumerate([("early", 4), ("middle", 6), ("late", 10)]):
        weights.append(numpy_helper.from_array(rng.standard_normal((c, channels, 3, 3), dtype=np.float32), f"w{i}"))
        source = ["image", "early", "middle"][i]
        nodes.append(helper.make_node("Conv", [source, f"w{i}"], [name], strides=[2, 2], pads=[1, 1, 1, 1]))
        channels = c
    nodes.append(helper.make_node("GlobalAveragePool", ["late"], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["vector"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, height, width])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("vector", "late", "early")]
    graph = helper.make_graph(nodes, "net", [image], outputs, weights)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(model: Any, **metadata: str) -> Path:
        for key, value in metadata.items():
            model.metadata_props.add(key=f"patchbank.{key}", value=value)
        path = tmp_path / "net.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


def test_outputs_that_are_feature_maps_become_layers(save: Save) -> None:
    """Shallow to deep, whatever their order in the file; the classifier's vector is no layer."""
    backbone = load_backbone(str(save(network())))
    assert backbone.info.layers == (Layer("early", 4, 2), Layer("late", 10, 8))
    assert backbone.info.name == "net"
    assert (backbone.info.mean, backbone.info.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert (backbone.info.licence, backbone.info.embedding) == ("unknown", "mean")
    features = backbone.features(np.zeros((2, 3, 64, 48), np.float32))
    assert [f.shape for f in features] == [(2, 4, 32, 24), (2, 10, 8, 6)]


def test_values_inside_can_be_layers_and_the_rest_is_cut(save: Save) -> None:
    """The features are those of the whole network; what comes after them is gone."""
    path, image = save(network()), np.random.default_rng(1).standard_normal((1, 3, 32, 32), dtype=np.float32)
    backbone = load_backbone(str(path), ("middle", "early"))
    assert backbone.info.layers == (Layer("early", 4, 2), Layer("middle", 6, 4))
    graph = onnx.load_model_from_string(backbone.to_onnx()).graph
    assert [len(graph.node), len(graph.initializer)] == [2, 2]
    np.testing.assert_array_equal(backbone.features(image)[0], load_backbone(str(path)).features(image)[0])


def test_metadata_is_used(save: Save) -> None:
    """Statistics, licence, embedding and default layers travel in the file."""
    path = save(network(), mean="1, 2,3", std="4,5,6", licence="MIT", embedding="reference", layers="late,middle")
    info = load_backbone(str(path)).info
    assert (info.mean, info.std, info.licence, info.embedding) == ((1, 2, 3), (4, 5, 6), "MIT", "reference")
    assert [layer.name for layer in info.layers] == ["middle", "late"]
    assert [layer.name for layer in list_layers(path)] == ["early", "late"]
    assert [layer.name for layer in load_backbone(str(path), ("early",)).info.layers] == ["early"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"mean": "1,2"},
        {"mean": "a,b,c"},
        {"std": "1,1,0"},
        {"std": "1,-1,1"},
        {"std": "nan,1,1"},
        {"mean": "inf,1,1"},
        {"embedding": "median"},
        {"layers": "nowhere"},
    ],
    ids=str,
)
def test_wrong_metadata_is_an_error(save: Save, metadata: dict[str, str]) -> None:
    """Not silently ImageNet's statistics."""
    with pytest.raises(BackboneError, match=r"net\.onnx.*(expected|no layer)"):
        load_backbone(str(save(network(), **metadata)))


def test_wide_layers_default_to_the_reference_embedding(save: Save) -> None:
    """As the zoo's wide networks do."""
    model = network()
    weight = np.zeros((600, 6, 3, 3), np.float32)
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(weight, "w2"))
    assert load_backbone(str(save(model)), ("late",)).info.embedding == "reference"


def test_unknown_layers_name_the_valid_ones(save: Save) -> None:
    """Outputs and values inside."""
    with pytest.raises(BackboneError, match=r"no layer 'layer9'.*vector, late, early.*middle"):
        load_backbone(str(save(network())), ("layer9",))


def test_a_map_of_fixed_size_among_the_outputs_is_no_layer(save: Save) -> None:
    """Pooled to 1 x 1, or to any grid that does not follow the image."""
    model = network()
    model.graph.output.append(helper.make_tensor_value_info("pooled", TensorProto.FLOAT, None))
    sizes = numpy_helper.from_array(np.array([1, 10, 7, 7], np.int64), "sizes")
    model.graph.initializer.append(sizes)
    model.graph.node.append(helper.make_node("Resize", ["late", "", "", "sizes"], ["grid"]))
    model.graph.output.append(helper.make_tensor_value_info("grid", TensorProto.FLOAT, None))
    assert [layer.name for layer in load_backbone(str(save(model))).info.layers] == ["early", "late"]
    with pytest.raises(BackboneError, match="does not grow"):
        load_backbone(str(save(model)), ("grid",))


@pytest.mark.parametrize("layer", ["vector", "pooled"])
def test_values_that_are_no_maps_are_refused_as_layers(save: Save, layer: str) -> None:
    """A vector has no positions; a pooled map does not grow with the image."""
    with pytest.raises(BackboneError, match=layer):
        load_backbone(str(save(network())), (layer,))


def test_a_repeated_layer_is_an_error(save: Save) -> None:
    """It would count twice in every distance."""
    with pytest.raises(BackboneError, match="2 times"):
        load_backbone(str(save(network())), ("early", "early"))


def test_a_network_without_maps_says_what_to_name(save: Save) -> None:
    """An ordinary classifier: its file works once layers are named."""
    model = network()
    del model.graph.output[1:]
    with pytest.raises(BackboneError, match="name layers inside: early, middle, late"):
        load_backbone(str(save(model)))


@pytest.mark.parametrize("size", [(64, 96), (224, 224)])
def test_a_network_of_one_size_is_probed_at_that_size(save: Save, size: tuple[int, int]) -> None:
    """Strides come from the ratio where the image cannot grow."""
    backbone = load_backbone(str(save(network(1, *size))))
    assert backbone.info.layers == (Layer("early", 4, 2), Layer("late", 10, 8))


def test_maps_with_channels_last_are_noticed(save: Save) -> None:
    """They would be read as maps of other channels at every image size."""
    model = network()
    model.graph.node.append(helper.make_node("Transpose", ["late"], ["last"], perm=[0, 2, 3, 1]))
    model.graph.output.append(helper.make_tensor_value_info("last", TensorProto.FLOAT, None))
    with pytest.raises(BackboneError, match="channels last"):
        load_backbone(str(save(model)), ("last",))


def test_external_weights_are_refused(tmp_path: Path) -> None:
    """A file that reads other files, possibly outside its folder."""
    path = tmp_path / "net.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(BackboneError, match="self-contained"):
        load_backbone(str(path))


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\x08\x08"])
def test_files_that_are_no_network_are_refused(tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty, something else, half of one."""
    path = tmp_path / "net.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BackboneError, match=r"net\.onnx"):
        load_backbone(str(path))
